"""Names from files at the borders: the terminal, the page, Markdown and spreadsheets show them as texts."""

import csv
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers.fake_runs import write_run
from helpers.fuzz import HOSTILE, NAMES, fuzz
from hypothesis import strategies as st
from PIL import Image
from rich.table import Table

from kd_lightning import reports
from kd_lightning.cli import main
from kd_lightning.commands.export.card import card
from kd_lightning.data import ImageFolder
from kd_lightning.data.archives import folder_at
from kd_lightning.errors import ConfigError, RunError, one_line
from kd_lightning.io import noise
from kd_lightning.io.console import PlainConsole
from kd_lightning.io.markup import cell, markdown
from kd_lightning.io.paths import check_name, check_writable, resolve
from kd_lightning.models import checkpoints
from kd_lightning.redaction import printable

FACTS = {
    "architecture": "resnet18", "outputs": ["logits"], "seeds": {"seed": 0}, "metrics": {"test/acc": 0.5},
    "protocol": {},
    "mean": [0.5] * 3, "std": [0.5] * 3, "input": {"shape": ["batch", 3, 32, 32]}, "teacher_fingerprint": "f00d",
    "code": {"export": {"version": "1", "commit": None}},
}  # fmt: skip


def is_plain(text: str, keep: str = "") -> bool:
    """Whether a terminal shows every character as it is."""
    return all(c in keep or c.isprintable() or unicodedata.category(c) == "Zs" for c in text)


@fuzz(60, name=NAMES)
def test_the_terminal(name: str) -> None:
    for line in (str(ConfigError(f"x: {name}")), str(RunError(name)), one_line(ValueError(name))):
        assert is_plain(line)
    console = PlainConsole(file=io.StringIO(), width=300, force_terminal=False)
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    console.print(table, name)
    assert is_plain(console.file.getvalue(), keep="\n")
    noise.silence()
    assert is_plain(warnings.formatwarning(name, UserWarning, "a.py", 1), keep="\n\t")
    noise.end_command()


def test_what_is_printable_stays() -> None:
    assert printable("Größe 一 🙂 a") == "Größe 一 🙂 a"
    assert printable("a\x1b[31m\u202eb\n") == r"a\x1b[31m\u202eb\n"
    assert printable("a\nb", keep="\n") == "a\nb"
    console = PlainConsole(file=io.StringIO(), width=80)
    console.print("[bold]a[/bold] :smile: \x1b[31m")
    assert console.file.getvalue() == "[bold]a[/bold] :smile: \\x1b[31m\n"


@fuzz(60, name=NAMES)
def test_markdown(name: str) -> None:
    line = markdown(name)
    assert is_plain(line)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`|*~]|[<>]|\]\(|javascript:", line, re.IGNORECASE)


@fuzz(60, name=NAMES)
def test_a_spreadsheet(name: str) -> None:
    written = io.StringIO()
    csv.writer(written).writerow([cell(name)])
    assert not written.getvalue().strip('"').lstrip().startswith(("=", "+", "-", "@"))
    assert is_plain(cell(name), keep="\n")
    assert (cell(-1.5), cell(None), cell("a=1"), cell("0.5")) == (-1.5, None, "a=1", "0.5")


@fuzz(60, run=NAMES, data=NAMES, teacher=NAMES, classes=NAMES, method=NAMES)
def test_the_model_card(run: str, data: str, teacher: str, classes: str, method: str) -> None:
    facts = {**FACTS, "run": {"name": run, "method": method}, "data": {"name": data}, "teacher": teacher}
    text = card({**facts, "class_names": [classes, "b"]}, 32)
    assert is_plain(text, keep="\n")
    assert "<" not in text.replace("&lt;", "")
    assert text.count("\n") == card(
        {**facts, "class_names": ["a", "b"], "run": {"name": "a", "method": method}}, 32
    ).count("\n")


def refusal_of(call: Callable[[], Any]) -> str:
    """Return the message of the ConfigError that a call raises, '' if it raises none."""
    try:
        call()
    except ConfigError as error:
        return str(error)
    return ""


@fuzz(30, name=NAMES, ending=st.sampled_from(["", ".ckpt", ".safetensors", ".yaml", "/x"]))
def test_names_of_files(name: str, ending: str) -> None:
    """Each is taken, or refused in one printable line; nothing is written."""
    with TemporaryDirectory() as folder:
        for path in (name + ending, f"{folder}/{name}{ending}"):
            for call in (
                lambda path=path: resolve(path, "data.path"),
                lambda path=path: check_writable(Path(path), "out"),
                lambda path=path: check_writable(Path(path), "out", kind="file"),
                lambda path=path: check_name(path, "run.name"),
                lambda path=path: checkpoints.read(resolve(path, "checkpoint")),
                lambda path=path: folder_at(path),
            ):
                assert is_plain(refusal_of(call))
        assert not list(Path(folder).iterdir())


def test_classes_with_hostile_names(tmp_path: Path) -> None:
    names = sorted({each.replace("/", "").strip(".") for each in HOSTILE if "\0" not in each} - {""})
    for name in names:
        for number in range(2):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), number).save(tmp_path / "data" / name / f"{name}{number}.png")
    data = ImageFolder(path=str(tmp_path / "data"), val_split=0.0, test_split=0.5, batch_size=2)
    data.setup("fit")
    assert data.num_classes == len(names)
    (tmp_path / "data" / names[3] / f"{names[3]}0.png").write_bytes(b"x")
    (tmp_path / "data" / names[3] / f"{names[3]}1.png").write_bytes(b"x")
    line = refusal_of(
        lambda: ImageFolder(path=str(tmp_path / "data"), val_split=0.0, test_split=0.5, batch_size=2).setup("fit")
    )
    assert "cannot be read as an image" in line
    assert is_plain(line)


class Seen(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_compare_with_hostile_names(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """One page, with every hostile text as a name somewhere."""
    text = "".join(each for each in HOSTILE if "\0" not in each and "\udcff" not in each)
    for seed, name in enumerate(("baseline", "kd")):
        folder = write_run(tmp_path / "runs", name, seed, data="=<script>x</script>\x1b[31m")
        content = json.loads((folder / "results.json").read_text())
        content["run"] |= {"name": f"=1+1{text[:90]}-s{seed}", "group": text[:100], "method": f"@{text[90:200]}"}
        content["data"]["class_names"] = [each[:20] for each in HOSTILE if each.isascii()][:10]
        content["metrics"] |= {"=cmd()": 0.5, "test/²": 0.5, "<img src=x onerror=alert(1)>": 0.5, "\x1b[2J": 1.0}
        (folder / "results.json").write_text(json.dumps(content))
    main(["compare", str(tmp_path / "runs"), f"--out={tmp_path / 'report'}", "--images=false"])
    assert is_plain("".join(capfd.readouterr()), keep="\n")
    page = Seen()
    page.feed((tmp_path / "report/report.html").read_text())
    assert not page.tags & {"script", "iframe", "object", "embed", "form", "base", "link"}
    assert not page.handlers
    assert all(link.startswith(("#", "data:image/", "../")) for link in page.links)
    for name in ("report.html", "table.md", "table.csv"):
        assert is_plain((tmp_path / "report" / name).read_text(), keep="\n")
    with (tmp_path / "report/table.csv").open(newline="") as file:
        for row in csv.reader(file):
            assert not [value for value in row if value[:1] in ("=", "+", "@", "\t") or re.match(r"-[^\d.]", value)]
    assert "<script" not in (tmp_path / "report/table.md").read_text()


def test_more_metrics_than_a_reader_needs(tmp_path: Path) -> None:
    """Each metric takes some milliseconds; ten thousand took minutes."""
    folder = write_run(tmp_path, metrics={"test/acc": 0.5, **{f"test/m{n}": n / 700 for n in range(700)}})
    (comparison,), lines = reports.compare(reports.read_runs(folder))
    assert comparison.metric == "test/acc"
    assert len(comparison.metrics) == reports.frame.__globals__["MOST_METRICS"] == 300
    assert lines == ["digits: the first 300 metrics are compared; table.csv contains the other 402"]
