"""Where commands write: each looks at its place before it works, refuses it in one line, and leaves nothing there."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers.configs import KD
from helpers.fake_runs import write_run

from kd_lightning.callbacks import SavePredictions
from kd_lightning.cli import main
from kd_lightning.commands.build_neighbors import MakeNeighbors
from kd_lightning.commands.compare import Compare
from kd_lightning.commands.export import Export
from kd_lightning.commands.repeat.command import Repeat
from kd_lightning.commands.repeat.plan import Config
from kd_lightning.commands.show_batch import Show
from kd_lightning.errors import ConfigError
from kd_lightning.io import paths
from kd_lightning.io.paths import check_writable


def predict(path: str) -> None:
    method = SimpleNamespace(trains_classifier=True)
    SavePredictions(path=path).setup(SimpleNamespace(world_size=1, datamodule=None), method, "predict")


def repeat(path: str) -> None:
    made = Repeat(configs=[__file__])
    made._resolve([path])


COMMANDS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "compare": ("folder", "", lambda path: Compare(["runs"], out=path)),
    "compare --figure": ("file", ".svg", lambda path: Compare(["runs"], figure=path)),
    "export": ("folder", "", lambda path: Export(ckpt_path="none", format=["safetensors"], path=path)),
    "show-batch": ("file", ".png", lambda path: Show(path=path)),
    "build-neighbors": ("file", ".safetensors", lambda path: MakeNeighbors(path=path)),
    "predict": ("file", ".safetensors", predict),
    "repeat": ("folder", "", repeat),
}
"""For each command, what it writes, the ending, and a call that looks at the place."""
PLACES: dict[str, tuple[str, str]] = {
    "a file in the way": ("plain/x", "plain is a file and not a folder"),
    "another kind": ("other", "is a folder; give|is a file; give|exists and is not overwritten"),
    "a link to nowhere": ("nowhere", "is a link to a missing file"),
    "a link to itself": ("circle", "Too many levels"),
    "read-only": ("/proc/kd/x", "/proc cannot be written to"),
    "too long": (f"{'a' * 300}", "File name too long"),
    "no such user": ("~no-such-user-here/x", "cannot be written to"),
    "a pipe": ("pipe", "is a pipe, a socket or a device|exists and is not overwritten"),
    "a full disk": ("new/x", "No space left on device"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written(
    command: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, ending, call = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").touch()
    (tmp_path / f"other{ending}").mkdir() if kind == "file" else (tmp_path / "other").touch()
    (tmp_path / f"nowhere{ending}").symlink_to("missing")
    (tmp_path / f"circle{ending}").symlink_to(f"circle{ending}")
    os.mkfifo(tmp_path / f"pipe{ending}")

    def resolved(requests: list[tuple[str, dict]], arguments: list[str]) -> list[Config]:
        config = {**KD, "run": {"output_dir": arguments[0], "project": "p", "name": "a"}}
        return [Config(path, config, settings) for path, settings in requests]

    monkeypatch.setattr("kd_lightning.commands.repeat.command.resolve", resolved)
    if place == "a full disk":

        def full(**kwargs: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(paths.tempfile, "TemporaryFile", full)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=PLACES[place][1]) as refused:
        call(f"{PLACES[place][0]}{ending}")
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_can(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    (tmp_path / "link").symlink_to("there")
    for name in ("new/deep/x", "there", "link"):
        check_writable(tmp_path / name, "path", kind="file")
    check_writable(tmp_path / "new/deep", "path")
    check_writable(tmp_path, "path")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "there"]


def test_a_folder_in_the_place_of_a_report_or_export(tmp_path: Path) -> None:
    (tmp_path / "out" / "table.csv").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"table\.csv is a folder"):
        Compare(["runs"], out=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threads": 100_000}, "threads: 100,000 is more than 1,024"),
        ({"side": 100_000}, "side: 100,000 is more than 8,192"),
        ({"batch_sizes": [1, 10**9]}, "batch_sizes: 1,000,000,000 is more than 65,536"),
    ],
)
def test_numbers_that_would_end_the_process(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Export(ckpt_path="none", format=["safetensors"], **fields)
    with pytest.raises(ConfigError, match="seeds: 1,000,000,000 is more than 10,000"):
        Repeat(configs=[__file__], seeds=10**9)


def test_more_rows_than_a_picture_can_show(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    with pytest.raises(SystemExit):
        main(["show-batch", f"--config={tmp_path / 'kd.yaml'}", f"--path={tmp_path / 'a.png'}", "--rows=100000"])
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: rows: 100000 is more than 100, ")
    assert not (tmp_path / "a.png").exists()


def run(line: str, **environment: str) -> subprocess.CompletedProcess:
    command = line.replace("KD", f"{sys.executable} -m kd_lightning")
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=known, timeout=120, check=False)


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("KD list methods > /dev/full", 1, b"cannot be written (No space left on device)"),
        ("KD list methods | true; exit ${PIPESTATUS[0]}", 141, b""),
        ("KD list methods >&-", 0, b""),
    ],
)
def test_an_output_that_cannot_be_written(line: str, status: int, words: bytes) -> None:
    done = run(line)
    assert done.returncode in (status, 0 if status == 141 else status)  # `true` may end late
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == bool(words)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_output_that_is_not_utf_8(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process: the terminal's encoding is that of sys.stdout."""
    for name in ("kd", "sp"):
        write_run(tmp_path / "runs", name, 0, data="Größe 一")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    main(["list", "networks"])
    out.write("Größe ± 一\n")
    out.flush()
    assert b"Gr" in out.buffer.getvalue()


def test_a_full_disk_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs", "kd", 0)
    (tmp_path / "out").mkdir()
    for name in ("report.html", "table.csv", "table.md"):
        (tmp_path / "out" / name).write_text("earlier")
    write = Path.write_text

    def full(self: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if "report.html" in self.name:
            write(self, text[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, text, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(tmp_path / "runs"), f"--out={tmp_path / 'out'}", "--images=false"])
    assert stopped.value.code == 1
    left = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert left == dict.fromkeys(("report.html", "table.csv", "table.md"), "earlier")
