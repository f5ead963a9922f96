"""The model card: what a student is, in words, from what is known of its run and nothing else."""

from typing import Any

_TOLD = {
    "test/acc": "accuracy on test images",
    "test/acc_teacher": "the teacher's",
    "test/agreement": "agreement with the teacher",
    "test/top5": "top-5 accuracy",
    "test/ece": "expected calibration error",
    "test/knn": "accuracy by the nearest training images",
    "test/linear": "accuracy of a linear classifier on the embedding",
    "test/corrupted": "accuracy on corrupted images",
    "test/neighbors_10": "share of each image's 10 nearest that are the teacher's too",
}


def card(facts: dict[str, Any], side: int) -> str:
    """The README.md of a timm folder, in Markdown; the licence is left to its owner."""
    parts = [_head(facts), *_what(facts), *_found(facts), *_use(facts, side), *_limits(facts)]
    return "\n".join(parts) + "\n"


def _head(facts: dict[str, Any]) -> str:
    task = "image-classification" if "logits" in facts["outputs"] else "image-feature-extraction"
    tags = "\n".join(f"- {tag}" for tag in (task, "timm", "knowledge-distillation"))
    return (
        f"---\ntags:\n{tags}\nlibrary_name: timm\npipeline_tag: {task}\n# license: yours to choose and to fill in\n---"
    )


def _what(facts: dict[str, Any]) -> list[str]:
    run, data, own = facts["run"], facts["data"], facts["code"]["export"]
    title = run.get("name") or facts["architecture"]
    gives = "class scores" if "logits" in facts["outputs"] else "an embedding; it has no classifier"
    taught = (
        f" with {facts['teacher']} (weights {facts['teacher_fingerprint']}) as its teacher" if facts["teacher"] else ""
    )
    method = f" by {run['method']}" if run.get("method") else ""
    lines = [f"# {title}", "", f"A {facts['architecture']} that takes images and gives {gives}."]
    lines += ["", f"It was trained on {data['name']}{method}{taught}."]
    counts = [f"{data[part]:,} {word} images" for part, word in _SPLITS if data.get(part)]
    if counts:
        lines += [f"There were {', '.join(counts)}."]
    if facts["class_names"]:
        names = facts["class_names"]
        more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
        lines += ["", f"Classes: {', '.join(names[:20])}{more}."]
    code = f"kd_lightning {own['version']}" + (f", commit {own['commit']}" if own["commit"] else "")
    return [
        *lines,
        "",
        f"Trained with seed {facts['seeds']['seed']}, exported by {code}. `config.json` holds the run's config.",
    ]


_SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


def _found(facts: dict[str, Any]) -> list[str]:
    lines = ["", "## What was measured", ""]
    told = {name: facts["metrics"][name] for name in _TOLD if isinstance(facts["metrics"].get(name), float)}
    if not told:
        return [*lines, "Nothing is known of how good these weights are: their run was not evaluated by them."]
    protocol = facts["protocol"] or {}
    chosen = {"last": "the last epoch", "best": "the best epoch by validation images"}.get(protocol.get("select"))
    how = f" One run, one seed; the checkpoint was {chosen}, chosen without the test images." if chosen else ""
    rows = [f"| {_TOLD[name]} | {value:.2%} |" for name, value in told.items()]
    return [*lines, "| | |", "|---|---|", *rows, "", f"In PyTorch, float32.{how}"]


def _use(facts: dict[str, Any], side: int) -> list[str]:
    ours = facts["architecture"].startswith("cifar_")
    first = ["import kd_lightning.models  # it registers this network's name with timm"] if ours else []
    output = "logits, N x classes" if "logits" in facts["outputs"] else "embeddings, N x width"
    return [
        "",
        "## How to load it",
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
        *([f"`{facts['architecture']}` is no network of timm's own: `pip install kd_lightning` first.", ""] * ours),
        f"The model does not normalise: it takes RGB images of {side} x {side} pixels in [0, 1], less the mean "
        f"{_triple(facts['mean'])}, over the standard deviation {_triple(facts['std'])}. timm's transform does so.",
        *(
            ["It resizes other images by Pillow, not to the last bit as the training did."]
            if facts["input"]["shape"][-1] != side
            else []
        ),
    ]


def _triple(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _limits(facts: dict[str, Any]) -> list[str]:
    side = facts["data"].get("side") or facts["input"]["shape"][-1]
    lines = ["", "## What it is for, and what not", ""]
    lines += [
        f"Images like those of {facts['data']['name']}, {side} x {side} pixels, and comparing methods of distillation."
    ]
    if facts["class_names"]:
        lines += [f"It gives one of its {len(facts['class_names'])} classes to any image, whatever is on it."]
    if facts["teacher"]:
        lines += ["What its teacher gets wrong, or was biased by, it may have learnt too."]
    unknown = [word for name, word in _UNKNOWN.items() if not any(key.startswith(name) for key in facts["metrics"])]
    if unknown:
        lines += [f"Not measured: {', '.join(unknown)}."]
    return [*lines, "Nothing here says how it does for any group of people, or on other data. Measure it on your own."]


_UNKNOWN = {
    "test/ece": "how far its confidence can be trusted",
    "test/corrupted": "corrupted images",
    "test/ood": "unknown images",
    "test/shift": "other sources of the same classes",
}
