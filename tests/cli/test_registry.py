"""The registry of commands, the help that lists them, and what a command may import before it runs."""

import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import kd_lightning
from kd_lightning.cli import main
from kd_lightning.cli.registry import COMMANDS, Command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_lists_every_command_and_where_to_look(args: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    named = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and "python" not in line]
    assert named == [*COMMANDS]
    assert named[0] == "fit"
    for command in COMMANDS.values():
        assert command.description in text
    for words in ("fit --model.help SP", "fit --data.help ImageFolder", "COMMAND --help", "kd_lightning list"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict"])
def test_help_of_a_command_of_lightning_begins_with_how_to_find_names(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    head = "\n".join(lines[:12])
    assert lines[0].startswith(
        f"usage: python -m kd_lightning {name} {'[--config FILE]' if name == 'fit' else '[RUN]'} "
    )
    assert "python -m kd_lightning list  " in head
    assert f"python -m kd_lightning {name} --model.help KD  " in head
    assert f"python -m kd_lightning {name} --data.help ImageFolder  " in head
    assert COMMANDS[name].description in head
    places = [next(i for i, line in enumerate(lines) if line.startswith(f"  --{field}")) for field in
              ("model CONFIG", "data CONFIG", "trainer CONFIG")]  # fmt: skip
    assert places == sorted(places)
    assert places[0] < 40
    assert "hpc" not in text.partition("--ckpt_path")[2]  # values that Lightning offers and `check_checkpoint` refuses


def test_every_command_has_a_whole_description() -> None:
    for name, command in COMMANDS.items():
        assert command.description.endswith("."), name
        assert len(command.description.split()) > 4, name


def test_every_command_has_its_class() -> None:
    for name, command in COMMANDS.items():
        assert bool(command.class_path) == (command.kind != "lightning"), name
        if command.class_path:
            kind = command.load()
            assert inspect.isclass(kind)
            assert "__call__" in vars(kind)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("fti", "there is no command 'fti'; nearest: fit"),
        ("comapre", "nearest: compare"),
        ("neighbors", "nearest: build-neighbors"),
        ("bench", "there is no command 'bench'"),
    ],
)
def test_a_misspelt_command_is_one_line(given: str, words: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([given, "--config=x.yaml"])
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    "args", [["--help"], ["list"], ["compare", "--help"], ["repeat", "--help"], ["compare"], ["list", "x"], ["fti"]]
)
def test_short_commands_import_no_large_library(args: list[str]) -> None:
    code = (
        "import sys\nfrom kd_lightning.cli import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        "large = {'torch', 'lightning', 'timm', 'torchmetrics', 'pandas', 'matplotlib', 'scipy', 'wandb', 'numpy'}\n"
        "sys.exit(', '.join(sorted(large & {*sys.modules})) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_warnings_of_commands_without_lightning_are_shown_without_their_place(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    class Warns:
        """Warn twice."""

        def __call__(self) -> None:
            for line in (1, 2):
                warnings.warn_explicit("data.on_error: skipped", UserWarning, kd_lightning.__file__, line)

    monkeypatch.setattr(Command, "load", lambda self: Warns)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored after the test
    with warnings.catch_warnings():  # pytest records warnings instead of showing them
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", _show)
        main(["list"])
    assert capfd.readouterr().err == "warning: data.on_error: skipped\n"


def _show(message: Warning | str, category: type[Warning], filename: str, line: int, *_: object) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, line))
