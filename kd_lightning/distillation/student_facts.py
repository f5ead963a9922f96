"""Facts that are saved with a student's weights, so that the file can be used without the folder of its run."""

import json
from typing import Any

from kd_lightning.models import Network


def student_facts(network: Network, data: Any, *, classifier_trained: bool) -> dict[str, Any]:
    """Return the facts of a student: those of `Network.facts`, the arguments of its model, its classes and its images.

    All values can be written as JSON.

    Args:
        network: The student.
        data: Data set of the run, or None if it is unknown.
        classifier_trained: Whether the method trains the student's classifier.
    """
    images = getattr(data, "datasets", None)
    return {
        **network.facts(),
        "model_kwargs": _plain(network.model_kwargs),
        "class_names": list(getattr(data, "class_names", [])),
        "class_ids": list(getattr(data, "class_ids", [])),
        "classifier_trained": classifier_trained,
        "side": data.side if images else None,
        "crop_ratio": getattr(data, "crop_ratio", None),
    }


def _plain(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the arguments as values of JSON. Return None if JSON has no such values, as for a class."""
    try:
        return json.loads(json.dumps(kwargs, allow_nan=False))
    except (TypeError, ValueError):
        return None
