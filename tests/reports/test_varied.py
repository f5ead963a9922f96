"""Titles and values of the settings that are columns of a comparison."""

from collections.abc import Callable
from pathlib import Path

import yaml
from helpers.fake_runs import write_run
from rich.console import Console

from kd_lightning import reports
from kd_lightning.reports import tables
from kd_lightning.reports.varied import shown_values, titles

FIRST = "runs/photos/label-free/first/student.safetensors"


def with_student(folder: Path, run_name: str, **student: object) -> None:
    run = write_run(folder, run_name, 0)
    edit(run, lambda content: content["model"]["init_args"]["student"].update(student))


def edit(run: Path, change: Callable[[dict], object]) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text())
    change(content)
    (run / "config.yaml").write_text(yaml.safe_dump(content))


def test_columns_are_named_after_their_network_and_checkpoints_after_their_run(tmp_path: Path) -> None:
    with_student(tmp_path, "fine-tuned", name="resnet10t", checkpoint=FIRST, pretrained=False)
    with_student(tmp_path, "other", name="resnet10t", checkpoint=FIRST.replace("label-free", "simreg"))
    with_student(tmp_path, "teacher", name="tf_efficientnet_lite0", pretrained=True)
    (found,), _ = reports.compare(reports.read_runs(tmp_path))
    table = tables.summary(found)
    assert [*table.columns[:2]] == ["student", "student checkpoint"]
    rows = dict(zip(table.index, table[["student", "student checkpoint"]].values.tolist(), strict=True))
    assert rows["fine-tuned"] == ["resnet10t", "label-free"]
    assert rows["other"] == ["resnet10t", "simreg"]
    assert rows["teacher"] == ["tf_efficientnet_lite0", ""]
    console = Console(width=70, record=True, quiet=True)
    console.print(tables.for_terminal(found))
    assert "…" not in console.export_text()  # long values continue on the next line


def test_titles() -> None:
    names = ["model.optimizer.lr", "model.student.name", "model.teacher.size", "trainer.precision", "model"]
    assert [*titles(names).values()] == ["lr", "student", "teacher size", "precision", "model"]


def test_checkpoints_that_look_the_same_are_told_apart() -> None:
    second = FIRST.replace("first", "second")
    name = "model.student.checkpoint"
    assert shown_values(name, {"a": FIRST, "b": None}) == {"a": "label-free", "b": None}
    assert shown_values(name, {"a": FIRST, "b": second}) == {"a": "label-free/first", "b": "label-free/second"}
    elsewhere = {"a": FIRST, "b": f"old/{FIRST}"}
    assert shown_values(name, elsewhere) == elsewhere
    assert shown_values(name, {"a": "weights/resnet.pt"}) == {"a": "weights/resnet.pt"}
    assert shown_values("model.student.name", {"a": FIRST}) == {"a": FIRST}
