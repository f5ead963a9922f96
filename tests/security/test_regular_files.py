"""A pipe, a socket or a device in the place of a file: nothing waits for it."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.configs import KD

import kd_lightning
from kd_lightning.callbacks.save_config import _existing
from kd_lightning.cli import main
from kd_lightning.commands.export.loaded_student import _results
from kd_lightning.commands.repeat.plan import Config, Job
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.data.tiny_imagenet import _lines
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import read_text, resolve
from kd_lightning.models import Network
from kd_lightning.reports import config, folders, results
from kd_lightning.runs import loading
from kd_lightning.runs.checkpoint_io import check_checkpoint
from kd_lightning.runs.lock import Lock
from kd_lightning.runs.results import read
from kd_lightning.runs.status import in_words, read_state

pytestmark = pytest.mark.timeout(60)
KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "socket": lambda path: SOCKETS.append(socket.socket(socket.AF_UNIX)) or SOCKETS[-1].bind(os.path.relpath(path)),
    "device": lambda path: path.symlink_to("/dev/zero"),
}
SOCKETS: list[socket.socket] = []


@pytest.fixture(params=KINDS)
def put(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Return a function that puts a pipe, a socket or a device into the test's folder, and returns its path."""
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 107 characters

    def made(name: str) -> Path:
        KINDS[request.param](tmp_path / name)
        return tmp_path / name

    yield made
    for each in SOCKETS:
        each.close()
    SOCKETS.clear()


READ: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "checkpoint": ("last.ckpt", lambda path: check_checkpoint(str(path))),
    "weights": ("a.safetensors", lambda path: Network("cifar_resnet8", checkpoint=str(path))),
    "weights of torch": ("a.pt", lambda path: Network("cifar_resnet8", checkpoint=str(path))),
    "neighbours": ("table.safetensors", lambda path: Neighbors(str(path)).load(None)),
    "a run's config": ("config.yaml", loading.read_config),
    "a class map": ("wnids.txt", _lines),
    "data": ("images.tar", lambda path: resolve(path, "data.path")),
}


@pytest.mark.parametrize("what", READ)
def test_what_a_user_names_is_refused(put: Callable[[str], Path], what: str) -> None:
    name, call = READ[what]
    with pytest.raises(ConfigError) as refused:
        call(put(name))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_runs_own_files_count_as_missing(put: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("config.yaml", "results.json", "state.json", "running.lock"):
        put(name)
    assert read(tmp_path / "results.json") is None
    assert _existing(tmp_path / "config.yaml") is None
    with pytest.raises(ConfigError, match=r"results\.json cannot be read"):
        _results(tmp_path / "last.ckpt", "ckpt_path")
    assert read_state(tmp_path)["state"] == "finished"
    assert in_words(tmp_path) == "has finished"
    assert not Lock(tmp_path / "running.lock").is_held()
    assert Lock(tmp_path / "running.lock").holder() == "another process"
    with pytest.raises(ConfigError, match=r"running\.lock"):
        Lock(tmp_path / "running.lock").take()
    with pytest.raises(results.ResultsError, match="cannot be read"):
        results.read_results(tmp_path / "results.json")
    assert "is missing" in config.read_config(tmp_path / "config.yaml")[1]
    assert not folders._is_a_runs(tmp_path / "config.yaml")
    content = {**KD, "run": {"name": tmp_path.name, "output_dir": str(tmp_path.parents[1]), "project": "p"}}
    assert Job(Config("kd.yaml", content), 0).result() is None


@pytest.mark.parametrize("where", ["config", "sub-config", "argument"])
def test_configs(tmp_path: Path, where: str, capfd: pytest.CaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "kd.yaml").write_text(
        yaml.safe_dump({**KD, **({"data": "pipe.yaml"} if where == "sub-config" else {})})
    )
    arguments = {"config": [f"--config={tmp_path / 'pipe.yaml'}"], "argument": [f"--data={tmp_path / 'pipe.yaml'}"]}
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={tmp_path / 'kd.yaml'}", *arguments.get(where, [])])
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "pipe.yaml is a pipe, a socket or a device; give a regular file" in line


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("é\r\nb".encode())
    (tmp_path / "b").symlink_to("a")
    assert read_text(tmp_path / "b") == "é\nb"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "c")


ALLOWED = {
    ("commands/catalog.py", "read_text"): "the source files of the package",
    ("commands/new_method/command.py", "read_text"): "the templates of the package",
    ("commands/new_method/package_entries.py", "read_text"): "the source files of the package",
    ("commands/repeat/processes.py", "read_bytes"): "the log that this command has just written",
}


def test_texts_are_read_by_one_function() -> None:
    """Path.read_text waits for a pipe; `kd_lightning.io.paths.read_text` does not."""
    root = Path(kd_lightning.__file__).parent
    found = {
        (str(path.relative_to(root)), name)
        for path in root.rglob("*.py")
        for name in re.findall(r"\.(read_text|read_bytes)\(", path.read_text())
    }
    assert found == {*ALLOWED}
