"""The notebooks run as they are stored, on what is shipped, without a network; what is stored can be read anywhere."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.fake_runs import write_run
from nbclient import NotebookClient
from nbformat import NotebookNode

from kd_lightning.analysis import missing_runs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {"compare_runs": 6, "analyse_checkpoint": 6, "method_tour": 8}
"""By name, how many figures there are at least."""
MOST_BYTES, MOST_LINES = 500_000, 15
OFFLINE = '''
"""No connection but to this machine; what is tried is written down."""
import os, socket
connect = socket.socket.connect
def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open(os.environ["KD_TRIED"], "a") as file:
            file.write(f"{address}\\n")
        raise OSError(f"no network: {address}")
    return connect(self, address)
socket.socket.connect = refuse
'''


def stored(name: str) -> NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def cells(book: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def outputs(book: NotebookNode) -> list[NotebookNode]:
    return [output for cell in cells(book) for output in cell.outputs]


def figures(book: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(book))


def said(book: NotebookNode) -> str:
    """All text that came out."""
    found = []
    for output in outputs(book):
        data = {kind: part for kind, part in output.get("data", {}).items() if not kind.startswith("image/")}
        found.append(output.get("text", "") + json.dumps(data))
    return "\n".join(found)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what notebooks read beside the package, and an environment without a network."""
    shutil.copytree(ROOT / "configs/digits", tmp_path / "configs/digits")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(OFFLINE)
    given = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT), *([given] if given else [])]))
    monkeypatch.setenv("KD_TRIED", str(tmp_path / "tried"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for folder in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(folder, str(tmp_path / "home" / folder))
    return tmp_path


@pytest.mark.e2e
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tree: Path) -> None:
    book = stored(name)
    before = figures(book)
    for cell in cells(book):
        cell.outputs = []
    place = {"metadata": {"path": str(tree / "notebooks")}}
    NotebookClient(book, timeout=600, kernel_name="python3", resources=place).execute()
    assert figures(book) == before >= NOTEBOOKS[name]
    assert not [output for output in outputs(book) if output.output_type == "error" or output.get("name") == "stderr"]
    assert not (tree / "tried").exists(), (tree / "tried").read_text()
    assert [*tree.glob("runs/*/*/*/*/results.json")]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_stored_was_executed_and_is_small(name: str) -> None:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    book = stored(name)
    nbformat.validate(book)
    assert [cell.execution_count for cell in cells(book)] == [*range(1, len(cells(book)) + 1)]
    assert figures(book) >= NOTEBOOKS[name]
    assert book.metadata.kernelspec.name == "python3"
    assert not [output for output in outputs(book) if output.output_type == "error" or output.get("name") == "stderr"]
    text = said(book)
    for foreign in (r"(?<![\w.])/(?:tmp|home|work|root|usr|opt)/", r"u001b|\x1b", r"Warning", r"\d+%\|", r"it/s"):
        assert not re.search(foreign, text), re.search(f".*{foreign}.*", text)[0][:200]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_are_short_and_hold_no_logic(name: str) -> None:
    for cell in cells(stored(name)):
        lines = cell.source.splitlines()
        assert len(lines) <= MOST_LINES, cell.source
        is_file = lines[0].startswith("%%writefile")
        assert is_file or not re.search(r"^\s*(?:async )?(?:def|class)\b|\blambda\b", cell.source, re.M), cell.source
    kinds = [cell.cell_type for cell in stored(name).cells]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") >= kinds.count("code") / 2


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == {*NOTEBOOKS}


def test_nothing_is_trained_into_a_given_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cell names the folder, and no run is missing there; the example has its own folder."""
    monkeypatch.chdir(ROOT / "notebooks")
    first, *others = cells(stored("compare_runs"))
    assert first.source.startswith("RUNS = None")
    assert not [cell.source for cell in others if re.search(r"^RUNS\b", cell.source, re.M)]
    (plan,) = (cell.source for cell in others if "missing_runs(" in cell.source)
    for given, count in ((str(tmp_path), 0), (None, 9)):
        found = {
            "RUNS": given,
            "missing_runs": lambda configs, folder, *args, **kw: missing_runs(configs, folder, **kw),
        }
        exec(plan.replace('"../runs/notebooks"', repr(str(tmp_path / "examples"))), found)
        assert len(found["missing"]) == count
        assert all(f"--run.output_dir={tmp_path / 'examples'}" in arguments for arguments in found["missing"])


def test_the_new_method_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = (cell for cell in cells(stored("method_tour")) if cell.source.startswith("%%writefile"))
    source = cell.source.partition("\n")[2]
    body = [line for line in source[source.index("class ") :].splitlines() if line.strip()]
    assert len(body) <= 10
    (tmp_path / "cosine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cosine", raising=False)
    from cosine import Cosine

    assert Cosine.__name__ == "Cosine"


def test_runs_without_labels_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    for seed in range(2):
        metrics = {"test/knn": 0.7 + seed / 100, "test/knn_teacher": 0.9, "cost/parameters": 5010.0}
        write_run(tmp_path, "coss", seed, metrics=metrics, details={})
    found = {"display": lambda *figures: figures}
    for cell in cells(stored("compare_runs")):
        exec(re.sub(r"^%.*$", "", cell.source, flags=re.M), found)
        found["RUNS"] = str(tmp_path)
    assert found["comparison"].metric == "test/knn"
    assert [column for column in found["columns"] if column in found["table"]] == [
        "group", "seed", "test/knn", "seconds"
    ]  # fmt: skip
