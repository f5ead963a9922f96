"""Whole files: the old one, or the new one, and nothing between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lightning.io.atomic import atomic_write


def test_the_new_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for text in ("old", "new"):
        with atomic_write(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file"]


def test_an_error_on_the_way_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as partial:
            partial.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of the calls: a power cut cannot be tested otherwise."""
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(os.readlink(f"/proc/self/fd/{number}")), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("move"), replace(*paths)))
    with atomic_write(tmp_path / "file") as partial:
        partial.write_text("text")
    assert done == [str(partial), "move", str(tmp_path)]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
import os, signal
from pathlib import Path
from kd_lightning.io.atomic import atomic_write
with atomic_write(Path({str(path)!r})) as partial:
    partial.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert [name.startswith(".file.") for name in sorted(os.listdir(tmp_path))] == [True, False]
