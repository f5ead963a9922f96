"""new-method: its files pass as written, outside the package and inside it, and it never overwrites a file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kd_lightning.cli import main
from kd_lightning.commands import catalog
from kd_lightning.commands.new_method.package_entries import entries

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding-a-method.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- (labels|views|bank) -->\n```python\n(.*?)```", PAGE, re.S))
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--run.wandb=off"]
GENERAL = [
    "tests/methods",
    "tests/cli/test_configs.py",
    "tests/commands/test_list_classes.py",
    "tests/docs/test_docs.py",
]
GENERAL += ["tests/docs/test_ledger.py"]


def python(folder: Path, root: Path, *args: str) -> str:
    """Run Python in a folder with the package of a checkout, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def refused(args: list[str], capfd: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["new-method", *args])
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line.removeprefix("error: name: ")


def test_it_writes_three_files_and_names_the_next_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = main(["new-method", "MyLoss"])
    assert {path.name for path in tmp_path.iterdir()} == {str(path) for path in paths}
    assert [str(path) for path in paths] == ["myloss.py", "test_myloss.py", "myloss.yaml"]
    text = capfd.readouterr().out
    assert "python -m pytest test_myloss.py\n  python -m kd_lightning fit --config myloss.yaml\n" in text
    config = yaml.safe_load((tmp_path / "myloss.yaml").read_text())
    assert config["model"]["class_path"] == "myloss.MyLoss"
    assert "$" not in "".join(path.read_text() for path in paths)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("foo-bar", "'foo-bar' cannot be the name of a class; use letters, digits and underscores, such as FooBar"),
        ("class", "'class' cannot be the name of a class; use letters, digits and underscores, such as Class"),
        ("../x", "'../x' cannot be the name of a class; use letters, digits and underscores, such as X"),
        ("_x", "'_x' cannot be the name of a class"),
        ("é", "'é' cannot be the name of a class; use letters, digits and underscores, such as MyLoss"),
        ("coss", "Coss is taken by CoSS of this package; choose another name"),
        ("Distiller", "Distiller is taken by Distiller of this package"),
        ("Tensor", "Tensor is taken by a class that the file imports"),
        ("CE", "train/ce is logged by every method; choose another name than CE"),
        ("random", "random.py would hide the installed module random; choose another name"),
        ("numpy", "numpy.py would hide the installed module numpy; choose another name"),
    ],
)
def test_a_name_that_cannot_be_used(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused([name], capfd).startswith(words)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("file", ["mine.py", "test_mine.py", "mine.yaml"])
def test_a_file_that_exists_is_kept(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text("kept")
    assert refused(["Mine"], capfd) == f"{file} exists already; choose another name, or remove this file"
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == "kept"


def test_the_package_needs_its_source_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("kd_lightning.commands.new_method.package_entries.PACKAGE", tmp_path / "kd_lightning")
    with pytest.raises(SystemExit):
        main(["new-method", "Mine", "--package"])
    assert "is not a checkout of the source code, because it has no README.md; omit" in capfd.readouterr().err
    assert catalog.PACKAGE == ROOT / "kd_lightning"


def test_the_package_names_the_method_in_each_list() -> None:
    new = {path.relative_to(ROOT).as_posix(): text for path, text in entries(ROOT, "MyLoss", "myloss").items()}
    assert [*new] == ["kd_lightning/methods/__init__.py", "README.md", "docs/ledger.yaml"]
    for name, text in new.items():
        old = (ROOT / name).read_text().splitlines()
        assert [line for line in old if line not in text.splitlines()] == (
            [line for line in old if line.startswith("| its embeddings, with labels |")] if name == "README.md" else []
        )
    assert re.search(r"^\| its embeddings, with labels \| .*\), `MyLoss` \(AUTHORS \d{4}\) \|$", new["README.md"], re.M)
    assert "    - config: digits/myloss.yaml\n      published: null\n" in new["docs/ledger.yaml"]
    assert '    "MyLoss",\n' in new["kd_lightning/methods/__init__.py"]


@pytest.mark.e2e
def test_the_files_pass_as_written(tmp_path: Path) -> None:
    python(tmp_path, ROOT, "-m", "kd_lightning", "new-method", "MyLoss")
    python(tmp_path, ROOT, "-m", "pytest", "-q", "test_myloss.py")
    python(tmp_path, ROOT, "-m", "ruff", "check", "--select=E,F,W,B", "--line-length=120", ".")
    python(tmp_path, ROOT, "-m", "kd_lightning", "fit", "--config=myloss.yaml", "--trainer.max_epochs=1", *QUIET)
    (csv,) = tmp_path.rglob("metrics.csv")
    assert "train/myloss" in csv.read_text().splitlines()[0]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source code with the template's method and the page's three examples as methods of the package."""
    root = tmp_path_factory.mktemp("copy") / "source"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    python(root, root, "-m", "kd_lightning", "new-method", "MyLoss", "--package")
    quick = "from kd_lightning.commands.new_method import package_entries as p; p.rewrite = lambda root: None"
    for name in ("ConfidentKD", "CrossView", "Bank"):  # all configs are read once, below
        code = f"{quick}; from kd_lightning.cli import main; main(['new-method', '{name}', '--package'])"
        python(root, root, "-c", code)
    readme, year = root / "README.md", re.search(r"AUTHORS (\d{4})", (root / "README.md").read_text())[1]
    text = readme.read_text()
    for code in EXAMPLES.values():
        name = re.search(r'^"""(\w+):', code)[1]
        (root / f"kd_lightning/methods/{name.lower()}.py").write_text(code)
        (root / f"tests/methods/test_{name.lower()}.py").write_text(f'"""{name}."""\n')
        text = text.replace(f"`{name}` (AUTHORS {year})", f"`{name}` (an 2026)")  # its docstring: "an example of 2026"
    readme.write_text(text)
    config = root / "configs/digits/crossview.yaml"
    config.write_text(config.read_text().replace("{batch_size: 64}", "{batch_size: 64, views: 2}"))
    python(root, root, "-m", "docs.ledger")
    python(root, root, "-m", "tests.helpers.resolved")
    return root


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_test_passes_inside_the_package(checkout: Path) -> None:
    every = " or ".join(["MyLoss", "ConfidentKD", "CrossView", "Bank"])
    chosen = f"{every} or _loss or mirror or found or no_config_changes or accumulated or ledger or test_docs.py"
    tests = ["-m", "pytest", "-n", "0", "-q", "--timeout=7200", "-k"]
    python(checkout, checkout, *tests, chosen, "-m", "not slow and not gpu and not e2e", *GENERAL)
    python(checkout, checkout, *tests, f"{every} or myloss", "-m", "e2e", "tests/methods", "tests/cli/test_configs.py")
    python(checkout, checkout, "-m", "ruff", "check", ".")
    python(checkout, checkout, "-m", "ruff", "format", "--check", ".")
