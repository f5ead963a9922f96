"""Downloads from a server on this machine: whole, or not there."""

import contextlib
import errno
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.messages import message_of

from kd_lightning.data.downloads import fetch
from kd_lightning.errors import ConfigError

CONTENT = b"the whole content" * 100
MD5 = hashlib.md5(CONTENT).hexdigest()


def answer_of(content: bytes, length: int = len(CONTENT)) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, content)


WHOLE = answer_of(CONTENT)
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(CONTENT), CONTENT[:50])
Serve = Callable[[bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that gives every caller the same answer and hangs up; returns its address."""
    opened: list[socket.socket] = []

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)

        def answers() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # the test is over
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=answers, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/data.zip"

    yield start
    for listener in opened:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def refusal(address: str, target: Path, md5: str = MD5) -> str:
    """What a fetch that must fail says, in one line."""
    with pytest.raises(ConfigError) as refused:
        fetch(address, target, md5, field="data.path")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("data.path: ")
    assert str(target) in str(refused.value)
    return str(refused.value)


@pytest.fixture
def reason(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Gives what torch itself says of an address that it cannot download."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "data.zip"
    return lambda address: message_of(lambda: torch.hub.download_url_to_file(address, str(elsewhere), progress=False))


def test_a_file_is_downloaded_once(tmp_path: Path, serve: Serve) -> None:
    target, patience = tmp_path / "new" / "folder" / "data.zip", socket.getdefaulttimeout()
    fetch(serve(WHOLE), target, MD5, field="data.path")
    assert target.read_bytes() == CONTENT
    assert [*target.parent.iterdir()] == [target]
    assert socket.getdefaulttimeout() == patience
    fetch("http://127.0.0.1:9/data.zip", target, MD5, field="data.path")  # it is there, so nobody is asked


def test_a_file_address(tmp_path: Path, reason: Callable[[str], str]) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    fetch((tmp_path / "source").as_uri(), tmp_path / "data.zip", MD5, field="data.path")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    nowhere = (tmp_path / "nowhere").as_uri()
    assert f"{nowhere} cannot be downloaded ({reason(nowhere)})" in refusal(nowhere, tmp_path / "other.zip")


@pytest.mark.parametrize("content", [CONTENT[:-1], b"", CONTENT.replace(b"t", b"T", 1), CONTENT + b"x"])
def test_another_content_leaves_nothing(tmp_path: Path, serve: Serve, content: bytes) -> None:
    address = serve(answer_of(content, max(len(content), len(CONTENT))))
    words = refusal(address, tmp_path / "data.zip")
    assert f"the download from {address} has a wrong checksum" in words
    assert [*tmp_path.iterdir()] == []


def test_a_broken_off_download_starts_again(tmp_path: Path, serve: Serve) -> None:
    refusal(serve(answer_of(CONTENT[:50])), tmp_path / "data.zip")
    fetch(serve(WHOLE), tmp_path / "data.zip", MD5, field="data.path")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_left_alone(tmp_path: Path, serve: Serve) -> None:
    target = tmp_path / "data.zip"
    target.write_bytes(b"the user's own")
    assert "has a wrong checksum" in (words := refusal(serve(WHOLE), target))
    assert MD5 in words
    assert target.read_bytes() == b"the user's own"
    assert [*tmp_path.iterdir()] == [target]


def test_an_address_that_gives_nothing(tmp_path: Path, serve: Serve, reason: Callable[[str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}/data.zip"
    reasons = []
    for address in (closed, serve(b""), serve(b"HTTP/1.0 404 Not Found\r\n\r\n")):
        words = refusal(address, tmp_path / "data.zip")
        reasons.append(reason(address))
        assert f"{address} cannot be downloaded ({reasons[-1]})" in words
        assert [*tmp_path.iterdir()] == []
    assert len({*reasons}) == 3
    assert os.strerror(errno.ECONNREFUSED) in reasons[0]
    assert "404" in reasons[2]


@pytest.mark.parametrize("answer", [CHUNK, b"220 ftp ready\r\n"])
def test_what_is_not_http_or_breaks_off_is_one_line(tmp_path: Path, serve: Serve, answer: bytes) -> None:
    refusal(serve(answer), tmp_path / "data.zip")


@pytest.mark.parametrize("answer", [CHUNK, b"220 ftp ready\r\n"])
def test_what_is_not_http_or_breaks_off_leaves_nothing(tmp_path: Path, serve: Serve, answer: bytes) -> None:
    with contextlib.suppress(Exception):
        fetch(serve(answer), tmp_path / "data.zip", MD5, field="data.path")
    assert [*tmp_path.iterdir()] == []


def test_a_target_below_a_file_is_one_line(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "file").write_text("no folder")
    refusal(serve(WHOLE), tmp_path / "file" / "data.zip")


def test_a_target_that_is_a_folder_is_one_line(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "data.zip").mkdir()
    refusal(serve(WHOLE), tmp_path / "data.zip")
