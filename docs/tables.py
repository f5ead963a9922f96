"""Tables of the pages that are made from the code and the configs when the pages are built."""

import csv
import inspect
import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import nn

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
    if isinstance(built, Distiller):
        built.all_gather = lambda *tensors: (asked.append(True), tensors)[1]
    rows = torch.arange(8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built.training_terms(Batch(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), rows % 10, rows, rows))
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
        kwargs["teacher"] = Network("cifar_resnet20.digits", pretrained=True)
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
        _build(kind, ce_weight=0)
    except ConfigError as error:
        field = str(error).partition(":")[0]
        return f"optional, with another `{field}`"
    return "optional"


def _reads(kind: type[StudentModule]) -> str:
    """Return the features that a method's losses may read, for any arguments."""
    return ", ".join(catalog.reads_of(kind.__name__)) or "-"


def _trains(built: StudentModule) -> str:
    """Return the parts that are trained or stored in addition to the student, by name."""
    parts = []
    for name, part in built.named_children():
        layers = [type(m).__name__ for m in part.modules() if not [*m.children()] and not isinstance(m, nn.Dropout)]
        if name not in ("student", "teacher") and any(True for _ in part.parameters()):
            parts.append(f"`{name}`: {', '.join(layers)}")
    for name, buffer in built.named_buffers(recurse=False):
        if buffer.numel() > 1:
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
    return _table(["method", "paper", "labels", "reads of the teacher", "compares samples", "cost"], rows)


def arguments_table() -> list[str]:
    rows = []
    for f in ordered():
        given = ", ".join(f"`{key}={_short(value)}`" for key, value in f.arguments.items()) or "-"
        some = ", ".join(dict.fromkeys(path.partition("/")[0].removesuffix(".yaml") for path in f.configs)) or "-"
        rows.append([f"`{f.name}`", given, f.trains, some])
    return _table(["method", "arguments and their defaults", "trained with the student", "configs"], rows)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{value[0]}, ..., {value[-1]}]" if len(value) > 3 else str([*value])
    return f"{value:g}" if isinstance(value, float) else str(value)


class Claim(NamedTuple):
    """What the head of a config says of its result."""

    path: str
    title: str
    recipe: str
    expected: str
    was_run: bool


def claims() -> list[Claim]:
    """Of every config of `fit` whose head says what is expected of it."""
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        lines = []
        for line in path.read_text().splitlines():
            if not line.startswith("# "):
                break
            lines.append(line[2:])
        if not any(line.startswith("Expected: ") for line in lines):
            continue
        title = lines[0].rstrip(".")
        recipe = _from(lines, "Recipe: ", ("python ", "Expected: "))
        expected = _from(lines, "Expected: ", ("python ",))
        expected = re.sub(
            r"\s*(Time: )?(\w+ )*(Hours?|hours?|days?|[Aa] day or more|Days?) on .*$", "", expected
        ).rstrip(". ")
        was_run = not expected.startswith("not run")
        found.append(Claim(str(path.relative_to(CONFIGS)), title, recipe, expected, was_run))
    return found


def _from(lines: list[str], start: str, ends: tuple[str, ...]) -> str:
    """The text behind a word at a line's beginning, up to the next such line."""
    taken: list[str] = []
    for line in lines:
        if taken and line.startswith(ends):
            break
        if line.startswith(start) or taken:
            taken.append(line.removeprefix(start) if not taken else line)
    return " ".join(taken)


def not_run_table() -> list[str]:
    def row(claim: Claim) -> list[str]:
        published = re.sub(r"^not run here( yet)?( \([^)]*\))?[;,]?\s*(and )?", "", claim.expected)
        return [claim.title, published, "not run"]

    return _by_folder([claim for claim in claims() if not claim.was_run], ["what it is", "published", "ours"], row)


def measured_table() -> list[str]:
    columns = ["what it is", "ours: by which images, epoch and seeds"]
    return _by_folder([claim for claim in claims() if claim.was_run], columns, lambda c: [c.title, c.expected])


def _by_folder(rows: list[Claim], columns: list[str], cells: Callable[[Claim], list[str]]) -> list[str]:
    """A table for each folder of configs, so that a row begins with a file's name alone."""
    folders: dict[str, list[list[str]]] = {}
    for claim in rows:
        folder, _, name = f"configs/{claim.path}".rpartition("/")
        folders.setdefault(folder, []).append([f"`{name}`", *cells(claim)])
    return [line for f, found in folders.items() for line in (f"`{f}/`:", "", *_table(["", *columns], found), "")]


class Made(SphinxDirective):
    """Directive that inserts a table from a function of this file."""

    make = staticmethod(methods_table)

    def run(self) -> list:
        for path in (*CONFIGS.rglob("*.yaml"), DOCS / "method-costs.csv"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(self.make()) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    tables = {"methods": methods_table, "arguments": arguments_table, "not-run": not_run_table}
    for name, make in (*tables.items(), ("measured", measured_table)):
        app.add_directive(name, type(make.__name__, (Made,), {"make": staticmethod(make)}))
    return {"parallel_read_safe": True}
