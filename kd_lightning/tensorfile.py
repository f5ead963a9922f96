"""Tensors in a safetensors file, whole or not there at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from kd_lightning.wholefile import whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors with facts beside them (each as JSON)."""
    held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with whole(path) as partial:
        save_file(held, partial, metadata={"format": "pt", **{k: json.dumps(v) for k, v in facts.items()}})
        partial.chmod(0o644)  # safetensors makes files that their owner alone can read
