"""The model card of a student, generated from the facts that its run has stored."""

from typing import Any

import timm

from kd_lightning.io.markup import markdown
from kd_lightning.words import counted

_METRICS = {
    "test/acc": "accuracy on test images",
    "test/acc_teacher": "the teacher's accuracy",
    "test/agreement": "agreement with the teacher",
    "test/top5": "top-5 accuracy",
    "test/ece": "expected calibration error",
    "test/knn": "accuracy of kNN on the embedding",
    "test/linear": "accuracy of a linear classifier on the embedding",
    "test/corrupted": "accuracy on corrupted images",
    "test/neighbors_10": "share of each image's 10 nearest neighbours in common with the teacher",
}


def card(facts: dict[str, Any], side: int) -> str:
    """Return the content of README.md in a timm folder; the owner of the model must add the licence.

    Names of runs, data and classes are escaped, because they may come from a file of another person.
    """
    facts = _escaped(facts)
    parts = [_head(facts), *_description(facts), *_results(facts), *_usage(facts, side), *_limits(facts)]
    return "\n".join(parts) + "\n"


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return markdown(value) if isinstance(value, str) else value


def _head(facts: dict[str, Any]) -> str:
    task = "image-classification" if "logits" in facts["outputs"] else "image-feature-extraction"
    tags = "\n".join(f"- {tag}" for tag in (task, "timm", "knowledge-distillation"))
    return f"---\ntags:\n{tags}\nlibrary_name: timm\npipeline_tag: {task}\n# license: to be chosen and filled in\n---"


def _description(facts: dict[str, Any]) -> list[str]:
    run, data, export_code = facts["run"], facts["data"], facts["code"]["export"]
    title = run.get("name") or facts["architecture"]
    output_text = "class scores" if "logits" in facts["outputs"] else "an embedding; it has no classifier"
    teacher_text = (
        f" with {facts['teacher']} (weights {facts['teacher_fingerprint']}) as its teacher" if facts["teacher"] else ""
    )
    method = f" by {run['method']}" if run.get("method") else ""
    lines = [f"# {title}", "", f"A {facts['architecture']} that maps images to {output_text}."]
    lines += ["", f"It was trained on {data['name']}{method}{teacher_text}."]
    counts = [counted(data[part], f"{word} image") for part, word in _SPLITS if data.get(part)]
    if counts:
        lines += [f"The data have {', '.join(counts)}."]
    if facts["class_names"]:
        names = facts["class_names"]
        count_text = f", ... ({len(names)} in all)" if len(names) > 20 else ""
        lines += ["", f"Classes: {', '.join(names[:20])}{count_text}."]
    code = f"kd_lightning {export_code['version']}" + (
        f", commit {export_code['commit']}" if export_code["commit"] else ""
    )
    seed = facts["seeds"]["seed"]
    origin = f"Trained with seed {seed}, exported by {code}. `config.json` contains the run's config."
    return [*lines, "", f"Exported by {code} from a file of weights without its run." if seed is None else origin]


_SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


def _results(facts: dict[str, Any]) -> list[str]:
    lines = ["", "## Results", ""]
    metrics = {name: facts["metrics"][name] for name in _METRICS if isinstance(facts["metrics"].get(name), float)}
    if not metrics:
        return [*lines, "These weights have not been evaluated."]
    protocol = facts["protocol"] or {}
    selection = {"last": "the last epoch", "best": "the best epoch by validation images"}.get(protocol.get("select"))
    protocol_text = (
        f" They are from one run with one seed. The checkpoint is {selection}, selected without the test images."
        if selection
        else ""
    )
    rows = [f"| {_METRICS[name]} | {value:.2%} |" for name, value in metrics.items()]
    return [*lines, "| | |", "|---|---|", *rows, "", f"The values were computed by PyTorch in float32.{protocol_text}"]


def _usage(facts: dict[str, Any], side: int) -> list[str]:
    is_own_network = timm.model_entrypoint(facts["architecture"]).__module__.startswith("kd_lightning.")
    first = ["import kd_lightning.models  # it registers this network's name with timm"] if is_own_network else []
    output = "logits, N x classes" if "logits" in facts["outputs"] else "embeddings, N x width"
    return [
        "",
        "## Usage",
        "",
        "```python",
        *first,
        "import timm",
        "from timm.data import create_transform, resolve_model_data_config",
        "",
        'model = timm.create_model("local-dir:PATH", pretrained=True).eval()  # on a hub: "hf-hub:OWNER/NAME"',
        "transform = create_transform(**resolve_model_data_config(model), is_training=False)",
        f"out = model(transform(image).unsqueeze(0))  # a PIL image; {output}",
        "```",
        "",
        *([f"`{facts['architecture']}` is not in timm: `pip install kd_lightning` first.", ""] * is_own_network),
        f"The model does not normalise its input. It takes RGB images of {side} x {side} pixels in [0, 1], minus the "
        f"mean {_triple(facts['mean'])}, divided by the standard deviation {_triple(facts['std'])}. timm's transform "
        "computes this input.",
        *(
            ["The transform resizes images by Pillow. This differs slightly from the resizing during training."]
            if facts["input"]["shape"][-1] != side
            else []
        ),
    ]


def _triple(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _limits(facts: dict[str, Any]) -> list[str]:
    side = facts["data"].get("side") or facts["input"]["shape"][-1]
    lines = ["", "## Intended use and limitations", ""]
    lines += [
        f"The model is for images like those of {facts['data']['name']}, with {side} x {side} pixels, and for "
        "comparing methods."
    ]
    if facts["class_names"]:
        lines += [f"It predicts one of its {len(facts['class_names'])} classes for any image, whatever its content is."]
    if facts["teacher"]:
        lines += ["It may have learnt its teacher's errors and biases."]
    unknown = [word for name, word in _UNKNOWN.items() if not any(key.startswith(name) for key in facts["metrics"])]
    if unknown:
        lines += [f"Not measured: {', '.join(unknown)}."]
    return [*lines, "Its performance for groups of people or on other data is unknown; evaluate it on your own data."]


_UNKNOWN = {
    "test/ece": "calibration of its confidence",
    "test/corrupted": "corrupted images",
    "test/ood": "out-of-distribution images",
    "test/shift": "other sources of the same classes",
}
