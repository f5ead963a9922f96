"""Tables of the pages that are made from the code and the configs when the pages are built."""

import csv
import inspect
import logging
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import nn

from docs import families
from kd_lightning import methods
from kd_lightning.batch import Batch
from kd_lightning.commands import catalog
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.models import Network

DOCS = Path(__file__).resolve().parent
CONFIGS = DOCS.parent / "configs"
BASE = {*inspect.signature(Distiller.__init__).parameters, *inspect.signature(StudentModule.__init__).parameters}
logging.getLogger("timm").setLevel(logging.WARNING)  # it logs every file of weights
METHODS: dict[str, type[StudentModule]] = {
    name: kind for name, kind in vars(methods).items() if name in methods.__all__ and not inspect.isabstract(kind)
}


def ordered() -> list["Facts"]:
    """Return the methods, sorted by the year of their paper; the baseline is first."""
    return sorted(map(facts, METHODS), key=lambda each: (re.findall(r"(\d{4})", each.paper), each.paper))


class Facts(NamedTuple):
    """Properties of a method, from its code."""

    name: str
    paper: str
    labels: str
    reads: str
    trains: str
    relates: bool
    arguments: dict[str, Any]
    configs: list[str]


@cache
def facts(name: str) -> Facts:
    """Return the properties of a method, from its signature and from one batch through a tiny instance."""
    kind = METHODS[name]
    built = _build(kind)
    asked: list[bool] = []
    built.all_gather = lambda *tensors: (asked.append(True), tensors)[1]
    rows = torch.arange(8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randint(0, 256, (built.min_views, 8, 3, 32, 32), dtype=torch.uint8)
        built.training_terms(Batch(images[0], rows % 10, rows, rows, (*images[1:],)))
    signature = inspect.signature(kind.__init__).parameters.values()
    own = {
        p.name: p.default
        for p in signature
        if p.kind is p.KEYWORD_ONLY and p.name not in BASE - {"ce_weight", "kd_weight"}
    }
    return Facts(
        name, _paper(kind), _labels(kind), _reads(kind), _trains(built), bool(asked), own, configs().get(name, [])
    )


def _build(kind: type[StudentModule], **kwargs: Any) -> StudentModule:
    """Return a method whose student is narrower than its teacher, so that it has a head if it can have one."""
    if issubclass(kind, Distiller):
        kwargs["teacher"] = Network("cifar_resnet20.digits", pretrained=True, size=32)
    if "connect" in inspect.signature(kind).parameters:  # FSP refuses a narrower student otherwise
        kwargs["connect"] = True
    student = Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [4, 4, 8, 16]})
    return kind(student=student, **kwargs)


def _paper(kind: type) -> str:
    """Return authors, year and title from the docstring."""
    text = " ".join(inspect.getdoc(kind).split("Args:")[0].split())
    authors = re.search(r"\(([^()]*?\d{4})[^()]*\)?", text)
    title = re.search(r'"([^"]+)"', text)
    return ", ".join(filter(None, (authors and authors[1], title and f"*{title[1]}*"))) or "labels alone"


def _labels(kind: type[StudentModule]) -> str:
    parameter = inspect.signature(kind.__init__).parameters.get("ce_weight")
    if not issubclass(kind, Distiller):
        return "needed"
    if parameter and parameter.default == 0:
        return "none"
    try:
        if _build(kind, ce_weight=0).needs_labels:
            return "needed"
    except ConfigError as error:
        field = str(error).partition(":")[0]
        return f"optional, with another `{field}`"
    return "optional"


def _reads(kind: type[StudentModule]) -> str:
    """Return the features that a method's losses may read, for any arguments."""
    return ", ".join(catalog.reads_of(kind.__name__) if issubclass(kind, Distiller) else []) or "-"


def _trains(built: StudentModule) -> str:
    """Return the parts that are trained or stored in addition to the student, by name."""
    parts = []
    for name, part in built.named_children():
        if name in built.further or name == "branches":
            parts.append(f"`{name}`: " + ("a network" if name in built.further else "the last stages of networks"))
            continue
        layers = [type(m).__name__ for m in part.modules() if not [*m.children()] and not isinstance(m, nn.Dropout)]
        if name != "student" and any(True for _ in part.parameters()):
            few = len(layers) <= 8  # of more layers, name only how many there are of each class
            counted = layers if few else [f"{count} {layer}" for layer, count in Counter(layers).items()]
            parts.append(f"`{name}`: {', '.join(counted)}")
    stored = built.state_dict()
    for name, buffer in built.named_buffers(recurse=False):
        if name in stored and buffer.numel() > 1:
            parts.append(f"`{name}`: {len(buffer):,} embeddings")
    return "; ".join(parts) or "-"


@cache
def configs() -> dict[str, list[str]]:
    """Return the paths of each method's configs, relative to configs/."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        kind = (yaml.safe_load(path.read_text()) or {}).get("model", {}).get("class_path")
        if kind:
            found.setdefault(kind.rpartition(".")[2], []).append(str(path.relative_to(CONFIGS)))
    return found


def costs() -> dict[str, str]:
    """Return the time of a training step of each method in units of KD's, from method-costs.csv."""
    lines = [line for line in (DOCS / "method-costs.csv").read_text().splitlines() if not line.startswith("#")]
    return {row["method"]: row["times_kd"] for row in csv.DictReader(lines)}


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]


def methods_table() -> list[str]:
    rows = [
        [f"`{f.name}`", f.paper, f.labels, f.reads, "yes" if f.relates else "-", costs().get(f.name, "-")]
        for f in ordered()
    ]
    return _table(["method", "paper", "labels", "reads from the teacher", "compares samples", "cost"], rows)


def arguments_table() -> list[str]:
    rows = []
    for f in ordered():
        given = ", ".join(f"`{key}={_short(value)}`" for key, value in f.arguments.items()) or "-"
        some = ", ".join(dict.fromkeys(path.partition("/")[0].removesuffix(".yaml") for path in f.configs)) or "-"
        rows.append([f"`{f.name}`", given, f.trains, some])
    return _table(["method", "arguments and their defaults", "trained with the student", "configs"], rows)


def families_table() -> list[str]:
    rows = []
    for each in families.rows():
        name, *others = each.values()
        rows.append([f"`{name}`", *others])
    return _table(["network", "pixels", "as student", "logits", "embedding", "maps"], rows)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{value[0]}, ..., {value[-1]}]" if len(value) > 3 else str([*value])
    return f"{value:g}" if isinstance(value, float) else str(value)


class Made(SphinxDirective):
    """Directive that inserts a table from a function of this file."""

    make = staticmethod(methods_table)

    def run(self) -> list:
        for path in (*CONFIGS.rglob("*.yaml"), DOCS / "method-costs.csv", families.TABLE):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(self.make()) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for name, make in (("methods", methods_table), ("arguments", arguments_table), ("families", families_table)):
        app.add_directive(name, type(make.__name__, (Made,), {"make": staticmethod(make)}))
    return {"parallel_read_safe": True}
