"""Decoded images on disk: found again, made anew where they are not whole, never half there."""

import errno
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data import cache
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files

SHAPE = (3, 2)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where decoded images are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kd_lightning" / "decoded"


class Filler:
    """Fills an array with its number of calls and says which rows are bad."""

    def __init__(self, *bad: int) -> None:
        self.bad, self.calls = np.isin(np.arange(SHAPE[0]), bad), 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        self.calls += 1
        array[:] = self.calls
        return self.bad


def test_the_second_time_nothing_is_decoded(kept: Path) -> None:
    fill = Filler()
    first, bad, said = cache.decoded("a", SHAPE, fill)
    assert not bad.any()
    assert (first.shape, first.dtype, said) == (SHAPE, np.uint8, "decoded now, and stored in the disk cache")
    first[0] = 99  # never reaches the disk
    again, bad, said = cache.decoded("a", SHAPE, fill)
    assert not bad.any()
    assert (again == 1).all()
    assert (fill.calls, said) == (1, "from the disk cache")
    assert (cache.decoded("b", SHAPE, fill)[0] == 2).all()
    assert sorted(path.name for path in kept.iterdir()) == ["a.npy", "b.npy"]


@pytest.mark.parametrize("spoil", ["torn", "empty", "text", "shape", "type", "pickle"])
def test_a_file_that_is_not_whole_is_made_anew(kept: Path, spoil: str) -> None:
    cache.decoded("a", SHAPE, Filler())
    path = kept / "a.npy"
    whole = path.read_bytes()
    arrays = {"shape": np.zeros((2, 3), np.uint8), "type": np.zeros(SHAPE, np.int8), "pickle": np.array([{}])}
    if spoil in arrays:
        np.save(path, arrays[spoil], allow_pickle=True)
    else:
        path.write_bytes({"torn": whole[:-1], "empty": b"", "text": b"no array"}[spoil])
    with pytest.warns(UserWarning, match=r"a\.npy is incomplete \(.+\); it is created again"):
        assert (cache.decoded("a", SHAPE, Filler())[0] == 1).all()
    assert path.read_bytes() == whole
    assert [*kept.iterdir()] == [path]


def test_bad_rows_are_remembered_and_a_failure_leaves_nothing(kept: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.decoded("a", SHAPE, lambda array: 1 / 0)
    assert [*kept.iterdir()] == []
    fill = Filler(1)
    for _ in range(2):
        array, bad, _ = cache.decoded("a", SHAPE, fill)
        assert (array == 1).all()
        assert bad.tolist() == [False, True, False]
    assert fill.calls == 1


def test_two_that_decode_at_once_both_have_all(kept: Path) -> None:
    both_in = threading.Barrier(2, timeout=30)

    def fill(array: np.ndarray) -> np.ndarray:
        array[:10] = 7
        both_in.wait()
        array[10:] = 7
        return np.zeros(len(array), bool)

    with ThreadPoolExecutor(2) as pool:
        arrays = [*pool.map(lambda _: cache.decoded("a", (1000, 50), fill)[0], range(2))]
    assert [(array == 7).sum() for array in arrays] == [50_000] * 2
    assert [path.name for path in kept.iterdir()] == ["a.npy"]


def test_a_cache_that_cannot_be_written_to_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"decoded cannot store 0 MB of decoded images \(.+\)"):
        assert (cache.decoded("a", SHAPE, Filler())[0] == 1).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_cache_that_may_not_be_entered_costs_only_time(kept: Path) -> None:
    kept.parents[1].mkdir(mode=0o000)
    with pytest.warns(UserWarning, match="cannot store"):
        assert (cache.decoded("a", SHAPE, Filler())[0] == 1).all()


def test_a_full_disk_costs_only_time(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(UserWarning, match=rf"cannot store 0 MB .*\(.*{re.escape(os.strerror(errno.ENOSPC))}"):
        assert (cache.decoded("a", SHAPE, Filler())[0] == 1).all()
    assert [*kept.iterdir()] == []


def test_the_disk_space_is_taken_before_decoding(kept: Path) -> None:
    taken: list[int] = []

    def fill(array: np.ndarray) -> np.ndarray:
        taken.extend(file.stat().st_blocks for file in kept.iterdir())
        return np.zeros(len(array), bool)

    cache.decoded("a", (1000, 1000), fill)
    assert 512 * taken[0] >= 1_000_000


def test_other_files_or_another_size_are_kept_apart(kept: Path, tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")

    def stored(size: int = 8, ratio: float = 1.0) -> torch.Tensor:
        files = Files(tmp_path, ["0.png", "1.png"])
        return EncodedImages(files, torch.zeros(2).long(), size, crop_ratio=ratio).stored("name").images

    assert torch.equal(stored(), stored())
    assert len([*kept.iterdir()]) == 1
    assert stored(size=4).shape == (2, 3, 4, 4)
    stored(ratio=0.5)
    assert len([*kept.iterdir()]) == 3
    os.utime(tmp_path / "0.png", ns=(0, 0))
    stored()
    assert len([*kept.iterdir()]) == 4
    time = (tmp_path / "1.png").stat().st_mtime_ns
    Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp_path / "1.png", compress_level=0)
    os.utime(tmp_path / "1.png", ns=(time, time))
    assert stored()[1, :, 0, 0].tolist() == [200, 100, 0]
    assert len([*kept.iterdir()]) == 5
