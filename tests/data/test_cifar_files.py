"""CIFAR-10 and -100 from small archives of the official form, made here."""

import hashlib
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from kd_lightning.data import CIFAR10, CIFAR100
from kd_lightning.errors import ConfigError


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of tmp_path, on this machine alone."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_port}"
        opened.shutdown()


def official(tmp_path: Path, server: str, kind: type[CIFAR10], spoil: object = None) -> type:
    """A stand-in for torchvision's class: files of the official form, their checksums, an archive to download."""
    base: type = kind.official
    names = [name for name, _ in [*base.train_list, *base.test_list]]
    (tmp_path / "source" / base.base_folder).mkdir(parents=True)
    sums = {}
    for number, name in enumerate(names):
        pixels = np.full((20, 3072), number, np.uint8)
        pixels[:, 0] = np.arange(20)  # the first red pixel
        content = {"data": pixels, kind.labels_key: [n % kind.num_classes for n in range(20)]}
        content["coarse_labels"] = [19 - n for n in range(20)]
        raw = pickle.dumps(content if spoil is None else {**content, "extra": spoil}, protocol=2)
        (tmp_path / "source" / base.base_folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    archive = tmp_path / base.filename
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "source" / base.base_folder, base.base_folder)
    content = {
        "train_list": [[name, sums[name]] for name, _ in base.train_list],
        "test_list": [[name, sums[name]] for name, _ in base.test_list],
        "url": f"{server}/{archive.name}",
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
    }
    return type("Official", (base,), content)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_official_files_are_downloaded_checked_and_read(
    kind: type[CIFAR10], tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "official", official(tmp_path, server, kind))
    data = kind(path=str(tmp_path / "data"), val_split=0, batch_size=2)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    batches = len(kind.official.train_list)
    images = data.datasets["train"].take(torch.arange(20 * batches)).images
    assert images.shape == (20 * batches, 3, 32, 32)
    assert images[:, 0, 0, 0].tolist() == [*range(20)] * batches
    assert images[:, 2, 31, 31].tolist() == [n for n in range(batches) for _ in range(20)]
    assert torch.equal(data.datasets["test"].labels, torch.arange(20) % kind.num_classes)
    assert len(data.class_names) == len({*data.class_names}) == data.num_classes
    assert data.class_names == sorted(data.class_names)


def test_coarse_labels(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR100, "official", official(tmp_path, server, CIFAR100))
    data = CIFAR100(path=str(tmp_path / "data"), labels="coarse")
    data.prepare_data()
    data.setup("test")
    assert data.datasets["test"].labels.tolist() == [19 - n for n in range(20)]
    assert data.num_classes == len({*data.class_names}) == 20
    assert data.class_names == sorted(data.class_names)
    assert CIFAR100(path="nowhere").num_classes == 100


def test_a_wrong_checksum_or_no_network_is_one_line(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = official(tmp_path, server, CIFAR10)
    monkeypatch.setattr(CIFAR10, "official", fake)
    data = CIFAR10(path=str(tmp_path / "data"))
    data.prepare_data()
    file = tmp_path / "data" / fake.base_folder / fake.test_list[0][0]
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConfigError, match=rf"data.path: {file} has a wrong checksum; delete it"):
        data.setup("test")
    monkeypatch.setattr(fake, "url", "http://127.0.0.1:9/nowhere.tar.gz")
    with pytest.raises(ConfigError, match=r"data.path: .*cifar-10-python.tar.gz is missing and .* put the file there"):
        CIFAR10(path=str(tmp_path / "other")).prepare_data()


def test_a_pickle_that_would_run_code_runs_nothing(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = tmp_path / "executed"
    monkeypatch.setattr(CIFAR10, "official", official(tmp_path, server, CIFAR10, spoil=Touch(executed)))
    data = CIFAR10(path=str(tmp_path / "data"))
    data.prepare_data()
    with pytest.raises(ConfigError, match="contains other objects than arrays"):
        data.setup("test")
    assert not executed.exists()


def test_the_official_addresses_and_checksums_are_torchvisions() -> None:
    assert CIFAR10.official is datasets.CIFAR10
    assert CIFAR100.official is datasets.CIFAR100
