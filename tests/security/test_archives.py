"""Hostile archives: nothing leaves the folder, nothing fills the disk, nothing is left behind."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kd_lightning.data import archives
from kd_lightning.data.archives import extract, unpack_to_cache
from kd_lightning.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "kd_lightning").mkdir(parents=True)
    return tmp_path / "cache" / "kd_lightning"


def tar(path: Path, *entries: tarfile.TarInfo | str, mode: str = "w") -> Path:
    """Files of three bytes by name, or entries as they are."""
    with tarfile.open(path, mode) as file:
        for entry in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if info.isreg() and not info.size:
                info.size = 3
            file.addfile(info, io.BytesIO(b"abc" + bytes(info.size)) if info.isreg() else None)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(path: Path, *names: str, mode: int = 0, **kwargs: object) -> Path:
    with zipfile.ZipFile(path, "w", **kwargs) as file:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            file.writestr(info, b"abc")
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def encrypted(path: Path) -> Path:
    """Both headers' flag is set, as in an archive with a password."""
    content = bytearray(zipped(path, "a/1.png").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    return path


def lying(path: Path) -> Path:
    """A zip whose directory says 3 bytes where 100,000 come."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/1.png", bytes(100_000))
    return patched(path, (100_000).to_bytes(4, "little"), (3).to_bytes(4, "little"))


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(3):
            file.writestr(f"a/{number}.png", bytes(30_000_000))
    return path


def tar_bomb(path: Path) -> Path:
    info = tarfile.TarInfo("a/1.png")
    info.size = 10**15
    path.write_bytes(gzip.compress(info.tobuf() + bytes(2000)))
    return path


def header_bomb(path: Path) -> Path:
    """A header that is a gigabyte long would be read into memory."""
    info = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 10**9
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(5000))
    return path


def broken_within(path: Path) -> Path:
    tar(path, *[f"a/{number}.png" for number in range(6)])
    content = bytearray(path.read_bytes())
    content[4 * 1024 : 4 * 1024 + 512] = b"\xff" * 512  # the fifth header; tarfile alone would take it for the end
    path.write_bytes(content)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


HOSTILE: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "up": ("tar", lambda p: tar(p, "a/1.png", "../outside"), "would leave its folder"),
    "up within": ("tar", lambda p: tar(p, "a/../../outside"), "would leave its folder"),
    "absolute": ("tar", lambda p: tar(p, "/tmp/kd-outside"), "would leave its folder"),
    "drive": ("tar", lambda p: tar(p, "C:/outside"), "would leave its folder"),
    "backslash": ("tar", lambda p: tar(p, "..\\outside"), "would leave its folder"),
    "control": ("tar", lambda p: tar(p, "a/\x1b[2J.png"), "is not a valid file name"),
    "link out": ("tar", lambda p: tar(p, special("a", tarfile.SYMTYPE, "/etc"), "a/passwd"), "is a link"),
    "link in": ("tar", lambda p: tar(p, "a/1.png", special("b", tarfile.SYMTYPE, "a")), "is a link"),
    "hard link": ("tar", lambda p: tar(p, special("a", tarfile.LNKTYPE, "/etc/passwd")), "is a link"),
    "device": ("tar", lambda p: tar(p, special("a", tarfile.CHRTYPE)), "is a device or pipe"),
    "disk": ("tar", lambda p: tar(p, special("a", tarfile.BLKTYPE)), "is a device or pipe"),
    "pipe": ("tar", lambda p: tar(p, special("a", tarfile.FIFOTYPE)), "is a device or pipe"),
    "twice": ("tar", lambda p: tar(p, "a/1.png", "b/1.png", "a/1.png"), "'a/1.png' occurs twice"),
    "file and folder": ("tar", lambda p: tar(p, "a", "a/1.png"), "occurs twice"),
    "huge": ("tar.gz", tar_bomb, "it contains more than 64,000,000 bytes, 200 times its size"),
    "huge header": ("tar", header_bomb, "a header of 1,000,000,000 bytes"),
    "broken": ("tar", broken_within, "it is truncated or corrupt"),
    "cut tar": ("tar", lambda p: cut(tar(p, *[f"a/{n}.png" for n in range(20)])), "corrupt or not accepted"),
    "cut gz": (
        "tar.gz",
        lambda p: cut(tar(p, *[f"a/{n}" for n in range(500)], mode="w:gz")),
        "corrupt or not accepted",
    ),
    "cut xz": (
        "tar.xz",
        lambda p: cut(tar(p, *[f"a/{n}" for n in range(500)], mode="w:xz")),
        "corrupt or not accepted",
    ),
    "cut bz2": (
        "tar.bz2",
        lambda p: cut(tar(p, *[f"a/{n}" for n in range(500)], mode="w:bz2")),
        "corrupt or not accepted",
    ),
    "zip up": ("zip", lambda p: zipped(p, "a/1.png", "../outside"), "would leave its folder"),
    "zip absolute": ("zip", lambda p: zipped(p, "/tmp/kd-outside"), "would leave its folder"),
    "zip backslash": ("zip", lambda p: zipped(p, "..\\outside"), "would leave its folder"),
    "zip link": ("zip", lambda p: zipped(p, "a", mode=stat.S_IFLNK | 0o777), "is a link or a device"),
    "zip pipe": ("zip", lambda p: zipped(p, "a", mode=stat.S_IFIFO), "is a link or a device"),
    "zip twice": ("zip", lambda p: zipped(p, "a/1.png", "a/1.png"), "occurs twice"),
    "zip encrypted": ("zip", encrypted, "is encrypted; unpack it manually"),
    "zip bomb": ("zip", bomb, "it contains more than 64,000,000 bytes, 200 times its size"),
    "zip that lies": ("zip", lying, "corrupt or not accepted"),
    "zip cut": ("zip", lambda p: cut(zipped(p, "a/1.png", "a/2.png")), "corrupt or not accepted"),
    "zip of text": ("zip", lambda p: p.write_text("no zip") and p, "corrupt or not accepted"),
    "tar of text": ("tar", lambda p: p.write_text("no tar" * 1000) and p, "corrupt or not accepted"),
    "gz of text": ("tar.gz", lambda p: p.write_bytes(b"\x1f\x8b no gzip") and p, "corrupt or not accepted"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_refused_and_nothing_is_left(name: str, tmp_path: Path, home: Path) -> None:
    ending, make, words = HOSTILE[name]
    archive = make(tmp_path / f"evil.{ending}")
    beside = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as refused:
        unpack_to_cache(archive)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"data.path: {archive}")
    assert "\n" not in str(refused.value)
    assert [*home.iterdir()] == []
    assert sorted(tmp_path.iterdir()) == beside
    assert not Path("/tmp/kd-outside").exists()


def test_the_bounds(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "a.tar", *[f"a/{number}.png" for number in range(6)])
    monkeypatch.setattr(archives, "MAX_ENTRIES", 5)
    with pytest.raises(ConfigError, match="more than 5 files"):
        unpack_to_cache(archive)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 6)
    full = type(archives.shutil.disk_usage(tmp_path))(10**9, 10**9, archives.RESERVED_BYTES + 17)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ConfigError, match="more than 17 bytes, the free space of this disk"):
        unpack_to_cache(archive)
    assert [*home.iterdir()] == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent))
    assert len([*unpack_to_cache(archive).iterdir()]) == 6


def test_ratio_is_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs hardly shrink: what is 200 times its archive's size is none."""
    monkeypatch.setattr(archives, "MIN_LIMIT", 1000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/1.png", os.urandom(50_000))
    assert unpack_to_cache(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/1.png", bytes(5_000_000))
    with pytest.raises(ConfigError, match="200 times it"):
        unpack_to_cache(path)


def test_rights_and_times(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a/1.png")
    entry.mode, entry.size, entry.uid = 0o6777, 3, 12345
    place = unpack_to_cache(tar(tmp_path / "a.tar", entry, "a/2.png")) / "1.png"
    assert not place.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)
    assert place.stat().st_uid == os.getuid()


def test_names_of_any_language_and_leading_dots(tmp_path: Path) -> None:
    names = ["./Katze/猫.png", "./Katze/قط.png", "./Hund/chien à poil.png"]
    found = unpack_to_cache(tar(tmp_path / "a.tar", special("./", tarfile.DIRTYPE), *names))
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*.png")) == sorted(n[2:] for n in names)


def test_case_matters_where_the_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "a.tar", "A/1.png", "a/1.png")
    assert len([*unpack_to_cache(archive).rglob("*.png")]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: True)
        with pytest.raises(ConfigError, match="differs from another name only in case"):
            extract(archive, tmp_path / "cache")


def test_extract_goes_over_old_files_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "a").mkdir(parents=True)
    (target / "a" / "1.png").write_text("before")
    with pytest.raises(ConfigError, match=r"data\.path"):
        extract(tar(tmp_path / "bad.tar", "a/1.png", "../x"), target, "data.path")
    assert (target / "a" / "1.png").read_text() == "before"
    extract(tar(tmp_path / "good.tar", "a/1.png", "b/2.png"), target, "data.path")
    assert (target / "a" / "1.png").read_bytes() == b"abc"
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]


def test_a_tar_of_many_is_read_once_and_quickly(tmp_path: Path) -> None:
    found = unpack_to_cache(tar(tmp_path / "a.tar.gz", *[f"a/{number}.png" for number in range(3000)], mode="w:gz"))
    assert len([*found.iterdir()]) == 3000
    assert zlib.crc32((found / "7.png").read_bytes()) == zlib.crc32(b"abc")
