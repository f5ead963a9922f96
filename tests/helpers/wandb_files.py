"""Functions that read the files of offline W&B runs."""

import struct
import time
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2


def records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """Return the records of the single offline W&B run below a folder."""
    (session,) = sessions(folder)
    return session


def sessions(folder: Path) -> list[list[wandb_internal_pb2.Record]]:
    """Return the records of each offline session of a run, in order."""
    return [_read(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _read(file: Path) -> list[wandb_internal_pb2.Record]:
    """Return the records of a file. W&B's own process may still write it when `wandb.finish()` returns."""
    for _ in range(50):
        try:
            if file.stat().st_size > 7:
                return _parsed(file.read_bytes())
        except DecodeError:  # a record is not complete yet
            pass
        time.sleep(0.2)
    return _parsed(file.read_bytes())


def _parsed(content: bytes) -> list[wandb_internal_pb2.Record]:
    """Return the records in the content of a file in LevelDB's log format, after a header of 7 bytes."""
    place, found, whole = 7, [], b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # a block's tail is too short for a record's header
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a record in one piece, or the last piece of one
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found
