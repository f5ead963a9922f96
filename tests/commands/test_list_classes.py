"""list: what the source files say is what the classes say."""

import inspect

import pytest
import timm
from helpers.factories import METHODS

from kd_lightning import data, evaluation, models
from kd_lightning.cli import main
from kd_lightning.commands import catalog
from kd_lightning.data import ImageData
from kd_lightning.evaluation import Evaluator

BY_NAME = {kind.__name__: kind for kind in METHODS}


def classes(package: object, base: type) -> dict[str, type]:
    found = {name: getattr(package, name) for name in package.__all__}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and issubclass(kind, base)}


def first_line(kind: type) -> str:
    return " ".join(inspect.getdoc(kind).split("\n\n")[0].split()).replace("`", "")


def default_of(kind: type, name: str) -> object:
    """The default of an argument, that of a base where the class passes **kwargs on."""
    found = (inspect.signature(each.__init__).parameters.get(name) for each in kind.__mro__ if "__init__" in vars(each))
    return next((parameter.default for parameter in found if parameter), None)


def test_methods() -> None:
    rows = {row["name"]: row for row in catalog.methods()}
    assert {*rows} == {*BY_NAME, "Combined"}
    for name, kind in BY_NAME.items():
        row = rows[name]
        weight = default_of(kind, "ce_weight")
        assert row["labels"] == ("no" if weight == 0 else "yes"), name
        assert row["paper"] in first_line(kind).replace('"', "")
        assert row["paper"] or name == "Supervised"
        declared = getattr(kind, "reads", None)
        if isinstance(declared, frozenset):
            assert row["reads"] == ", ".join(sorted(declared)), name
        else:
            assert row["reads"] or name == "Supervised"


def test_data_sets() -> None:
    kinds = classes(data, ImageData)
    rows = {row["name"]: row for row in catalog.data_sets()}
    assert {*rows} == {*kinds} - {"ImageData"}
    for name, row in rows.items():
        assert row["images"] == first_line(kinds[name])
        parameters = [*inspect.signature(kinds[name]).parameters.values()]
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        needed = [p.name for p in named if p.default is p.empty]
        assert row["required"] == ", ".join(needed), name


def test_networks() -> None:
    named = [name for row in catalog.networks() for name in row["name"].split(", ")]
    assert sorted(named) == sorted(timm.list_models("cifar_*"))
    for row in catalog.networks():
        kind = type(timm.create_model(row["name"].split(", ")[0]))
        assert row["network"] == first_line(kind)
    assert models


def test_evaluators() -> None:
    kinds = classes(evaluation, Evaluator)
    rows = {row["name"]: row for row in catalog.evaluators()}
    assert {*rows} == {*kinds} - {"Evaluator"}
    for name, row in rows.items():
        assert row["logs"] == first_line(kinds[name])
        assert row["labels"] == ("yes" if kinds[name].needs_labels else "no")


def test_the_command_prints_tables(capsys: pytest.CaptureFixture) -> None:
    assert {*main(["list"])} == {"methods", "data", "networks", "evaluators"}
    assert {*main(["list", "methods", "data"])} == {"methods", "data"}
    capsys.readouterr()
    main(["list", "methods"])
    printed = capsys.readouterr().out
    assert "Tung & Mori 2019" in printed
    assert "ImageFolder" not in printed
    with pytest.raises(SystemExit) as stopped:
        main(["list", "method"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == "error: kinds: 'method' is not a valid value; nearest: methods"


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("reads = frozenset({'maps', 'embedding'})", ["embedding", "maps"]),
        ("@property\n def reads(self):\n  'What is read of maps.'\n  return Reads(maps=self.layers)", ["maps"]),
        ("reads = Reads(logits=True)", ["logits"]),
        ("reads: object = frozenset()", []),
        ("other = 1", []),
    ],
)
def test_reads_as_a_set_or_typed(source: str, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tree = catalog.ast.parse(f"class A:\n {source}")
    monkeypatch.setattr(catalog, "_classes", lambda: {"A": tree.body[0]})
    assert catalog.reads_of("A") == reads
