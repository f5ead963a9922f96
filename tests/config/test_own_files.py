"""An error in one's own method, data set, evaluator or callback is one line: the file, the line and the exception."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import shared_parser
from helpers.configs import changed

from kd_lightning.cli import main

METHOD = '''
"""Own."""
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.models import Features, Reads


class Own(Distiller):
    def __init__(self, *, own_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_weights(own_weight=own_weight)
        self.map = nn.Linear(self.student.embedding_width, self.teacher.embedding_width)

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        mapped = self.map(student.embedding)
        return {"own": self.own_weight * F.mse_loss(mapped, teacher.embedding)}
'''.lstrip()
RETURN = 'return {"own": self.own_weight * F.mse_loss(mapped, teacher.embedding)}'
DATA = """
import torch

from kd_lightning.data import ImageData
from kd_lightning.data.images import StoredImages


class Own(ImageData):
    name, num_classes, class_names = "own", 10, [str(digit) for digit in range(10)]

    def load(self, split: str) -> StoredImages | None:
        images = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
        return StoredImages(images, torch.arange(50) % 10)
""".lstrip()
EVALUATOR = """
from kd_lightning.evaluation import EvaluationResult, Evaluator, NetworkView


class Own(Evaluator):
    needs_labels = False

    def __init__(self, power: int = 1) -> None:
        super().__init__()
        self.power = power

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        return EvaluationResult({"one": 1.0})
""".lstrip()
CALLBACK = """
from lightning.pytorch import Callback


class Own(Callback):
    def __init__(self) -> None:
        self.count = 0
""".lstrip()
FILES = {"model": METHOD, "data": DATA, "evaluator": EVALUATOR, "callback": CALLBACK}
FIELDS = {"evaluator": "trainer.callbacks", "callback": "trainer.callbacks"}


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """Write a file and return the one line of the error of `fit` with its class."""
    shared_parser.share(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file that is written twice in a second
    monkeypatch.syspath_prepend(tmp_path)

    def error(kind: str, text: str, name: str = "mine.Own", *args: str) -> str:
        sys.modules.pop("mine", None)
        (tmp_path / "mine.py").write_text(text)
        field = FIELDS.get(kind, kind)
        given = [f"--{field}{'+' * (field == 'trainer.callbacks')}={name}", *args, "--trainer.limit_train_batches=1"]
        config = changed(data__init_args={"max_train_samples": 100, "batch_size": 50})
        config["trainer"]["enable_progress_bar"] = False
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(SystemExit) as stopped:
            main(["fit", "--config=config.yaml", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}", *given])
        assert stopped.value.code == 2
        assert not (tmp_path / "runs").exists()
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(line) < 600
        return line.removeprefix("error: ")

    yield error
    sys.modules.pop("mine", None)


def with_line(text: str, old: str, new: str) -> tuple[str, int]:
    """Return a text with another line in place of one, and the number of this line."""
    assert text.count(old) == 1
    return text.replace(old, new), text[: text.index(old)].count("\n") + 1


@pytest.mark.parametrize("kind", FILES)
def test_a_syntax_error_has_its_file_and_line(fit, kind: str) -> None:
    text, line = with_line(FILES[kind], re.search(r"class Own.*", FILES[kind])[0], "class Own(object)")
    assert fit(kind, text) == f"{FIELDS.get(kind, kind)}: mine.py, line {line}: SyntaxError: expected ':'"


@pytest.mark.parametrize("kind", FILES)
def test_a_misspelt_base_class_is_named(fit, kind: str) -> None:
    text, line = with_line(FILES[kind], re.search(r"class Own.*", FILES[kind])[0], "class Own(Bass):")
    expected = f"{FIELDS.get(kind, kind)}: mine.py, line {line}: NameError: name 'Bass' is not defined"
    assert fit(kind, text) == expected


def test_what_cannot_be_imported_in_it_is_named(fit) -> None:
    old = "from torch import Tensor, nn"
    text, line = with_line(METHOD, old, "from torch import Tensor, nn, Nothing_")
    assert fit("model", text).startswith(f"model: mine.py, line {line}: ImportError: cannot import name 'Nothing_'")
    text, line = with_line(METHOD, old, f"{old}\nimport nothing_here")
    words = f"model: mine.py, line {line + 1}: ModuleNotFoundError: No module named 'nothing_here'; "
    assert fit("model", text) == f"{words}correct the import, or run: pip install nothing_here"
    text, line = with_line(METHOD, old, f"{old}\nimport kd_lightning.functionals")
    found = fit("model", text)
    assert f"mine.py, line {line + 1}: ModuleNotFoundError: No module named 'kd_lightning.functionals'" in found
    assert found.endswith("correct the import")
    text, line = with_line(METHOD, old, f"{old}\n1 / 0")
    assert fit("model", text) == f"model: mine.py, line {line + 1}: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("kind", "base"), [("model", "StudentModule"), ("data", "ImageData"), ("evaluator", "Callback")]
)
def test_a_class_of_another_kind_says_its_base(fit, kind: str, base: str) -> None:
    text, line = with_line(FILES[kind], re.search(r"class Own.*", FILES[kind])[0], "class Own(dict):")
    advice = {"StudentModule": "Distiller"}.get(base, base)
    assert fit(kind, text) == (
        f"{FIELDS.get(kind, kind)}: mine.Own is not a subclass of {base}; its base class is dict (mine.py, line {line})"
        f"; derive it from {advice}"
    )


@pytest.mark.parametrize(("kind", "name"), [("model", "losses"), ("data", "load"), ("evaluator", "evaluate")])
def test_a_function_that_is_not_defined_is_named(fit, kind: str, name: str) -> None:
    place = FILES[kind][: FILES[kind].index("class Own")].count("\n") + 1
    text = FILES[kind].replace(f"def {name}", f"def {name[:-1]}")
    assert fit(kind, text) == (
        f"{FIELDS.get(kind, kind)}: mine.Own does not define {name} (mine.py, line {place}); it defines {name[:-1]}, "
        "which may be misspelt"
    )


def test_a_name_that_is_not_in_the_file(fit) -> None:
    assert fit("model", METHOD, "mine.On") == "model: mine.py has no class On; nearest: Own"
    assert fit("model", f"{METHOD}\n\ndef own() -> None: ...\n", "mine.own") == (
        "model: mine.own is not a class, but of type function; nearest: Own"
    )


def test_a_file_that_is_not_there(fit, tmp_path: Path) -> None:
    for kind in ("model", "data", "callback"):
        words = f"there is no module mone: neither mone.py in {tmp_path} nor an installed package; nearest: mine.py"
        assert fit(kind, METHOD, "mone.Own").startswith(f"{FIELDS.get(kind, kind)}: {words}")


@pytest.mark.parametrize("kind", ["model", "data", "callback"])
def test_a_class_or_a_file_without_its_module(fit, kind: str) -> None:
    field, text = FIELDS.get(kind, kind), FILES[kind].replace("class Own", f"class {kind.title()}OfMine")
    for given in (f"{kind.title()}OfMine", "./mine.py", "mine", f"./mine.{kind.title()}OfMine"):
        expected = f"{field}: {given} is not a module and a class; give mine.{kind.title()}OfMine"
        assert fit(kind, text, given) == expected


def test_two_classes_of_one_name(fit, tmp_path: Path) -> None:
    (tmp_path / "second.py").write_text(METHOD.replace("class Own", "class Twice"))
    text = METHOD.replace("class Own", "class Twice")
    assert fit("model", text, "Twice") == "model: Twice is not a module and a class; give mine.Twice or second.Twice"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_ends_the_command(replaced: bool, fit, monkeypatch: pytest.MonkeyPatch) -> None:
    if replaced:  # as W&B does
        namespace: dict[str, Any] = {}
        exec("def replacement(code=0): raise SystemExit(code)", namespace)  # a file of a library, not the user's
        monkeypatch.setattr(sys, "exit", namespace["replacement"])
    text, line = with_line(METHOD, "from torch import Tensor, nn", "import sys; sys.exit()")
    assert fit("model", text) == f"mine.py, line {line}: sys.exit ended the command; remove this line"


def test_a_class_in_a_subfolder(fit, tmp_path: Path) -> None:
    (tmp_path / "methods_of_mine").mkdir()
    (tmp_path / "methods_of_mine/other.py").write_text(METHOD.replace("class Own", "class Other"))
    words = "model: {} is not a module and a class; give methods_of_mine.other.Other"
    for given in ("Other", "methods_of_mine/other.Other", "methods_of_mine/other.py"):
        assert fit("model", METHOD, given) == words.format(given)
    assert fit("model", METHOD, "other.Other").endswith(
        "nor an installed package; nearest: methods_of_mine.other.Other"
    )


@pytest.mark.parametrize(
    ("kind", "old", "field"),
    [
        ("model", "self.set_weights(own_weight=own_weight)", "model"),
        ("evaluator", "self.power = power", "trainer.callbacks"),
        ("callback", "self.count = 0", "trainer.callbacks"),
    ],
)
def test_an_exception_in_init(fit, kind: str, old: str, field: str) -> None:
    text, line = with_line(FILES[kind], old, "self.x = unknown")
    expected = f"{field}: Own cannot be built, mine.py, line {line}: NameError: name 'unknown' is not defined"
    assert fit(kind, text) == expected


def test_init_without_that_of_the_base(fit) -> None:
    text, line = with_line(METHOD, "super().__init__(**kwargs)", "kwargs")
    found = fit("model", text)
    assert found == (
        f"model: Own.__init__ does not pass its arguments to its base class (mine.py, line {line - 1}); end its "
        "arguments with **kwargs, and call super().__init__(**kwargs)"
    )


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (
            "return F.mse_loss(mapped, teacher.embedding)",
            "returned a tensor without dimensions and type float32; return",
        ),
        ("F.mse_loss(mapped, teacher.embedding)", "Own.losses returned None; return a dict of terms by name"),
        (
            'return {"own": mapped - teacher.embedding}',
            "of shape 2 x 64 and type float32 as the term 'own', but a term",
        ),
        ('return {"own": 1.0}', "returned a value of type float as the term 'own', but a term is a float tensor"),
        ('return {"own": mapped.argmax()}', "without dimensions and type int64 as the term 'own'"),
        ("return {1: mapped.sum()}", "returned a term with the name 1; a name must be a str"),
    ],
)
def test_what_losses_may_return(fit, new: str, words: str) -> None:
    found = fit("model", METHOD.replace(RETURN, new))
    line = METHOD[: METHOD.index("def losses")].count("\n") + 1
    assert words in found
    assert found.startswith("model: Own.losses returned ")
    assert found.endswith(f"(mine.py, line {line})")


def test_a_term_that_is_not_finite(fit) -> None:
    found = fit("model", METHOD.replace(RETURN, 'return {"own": mapped.sum() * float("nan")}'))
    assert found.startswith(
        "model: train/own is nan for 2 images of 8 x 8 pixels, although the outputs of all networks are"
    )
    assert "In a method of your own, correct the loss, or set min_batch_size" in found


def test_an_exception_in_losses_is_at_the_users_line(fit) -> None:
    text, line = with_line(METHOD, RETURN, "return self.nothing")
    assert f"'Own' object has no attribute 'nothing', in mine.py, line {line})" in fit("model", text)
    text, line = with_line(METHOD, RETURN, 'return {"own": F.mse_loss(mapped @ mapped, teacher.embedding)}')
    assert f"in mine.py, line {line})" in fit("model", text)


def test_load(fit) -> None:
    text, line = with_line(DATA, "return StoredImages(images, torch.arange(50) % 10)", "return images + self.nothing")
    found = fit("data", text)
    assert found.startswith(
        f"data: Own.load('train') failed, mine.py, line {line}: AttributeError: 'Own' object has no "
    )
    text = DATA.replace("return StoredImages(images, torch.arange(50) % 10)", "return images")
    assert fit("data", text) == "data: Own.load('train') returned Tensor; return StoredImages or EncodedImages"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            "torch.arange(50) % 12",
            "8 labels outside of 0 to 9, such as 10 for image 10, but num_classes is 10; correct",
        ),
        (
            "torch.arange(50) % 10 - (torch.arange(50) == 7) * 8",
            "1 label outside of 0 to 9, such as -1 for image 7, but",
        ),
        ("torch.arange(50) / 5", "labels of type float32 with 1 dimension; return a tensor of type int64"),
    ],
)
def test_labels_must_be_classes(fit, labels: str, words: str) -> None:
    text, _ = with_line(DATA, "torch.arange(50) % 10", labels)
    assert fit("data", text).startswith(f"data: Own.load('train') returned {words}")


@pytest.mark.e2e
@pytest.mark.parametrize("program", [[sys.executable, "-m", "kd_lightning"], ["kd-lightning"]])
def test_both_programs_find_a_file_in_the_current_folder(program: list[str], tmp_path: Path) -> None:
    if len(program) == 1:
        code = "from kd_lightning.cli.main import console; console()"  # as the script that is installed
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/kd-lightning").write_text(code)
        program = [sys.executable, str(tmp_path / "bin/kd-lightning")]
    (tmp_path / "mine.py").write_text(METHOD)
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*program, "fit", "--model.help", "mine.Own"],
        capture_output=True, text=True, cwd=tmp_path, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "own_weight" in done.stdout
