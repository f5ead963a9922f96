"""Downloads that are whole or not there."""

import socket
from http.client import HTTPException
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torchvision.datasets.utils import check_md5

from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.atomic import atomic_write

_PATIENCE = 60  # seconds without a byte


def fetch(address: str, target: Path, md5: str, *, field: str) -> None:
    """Downloads a file, unless it is there already; it gets its name when its checksum has been found right.

    A download that breaks off leaves nothing of the target's name behind and starts again the next time.

    Args:
        address: official one.
        target: of the file.
        md5: its checksum.
        field: that an error names.

    Raises:
        ConfigError: if it cannot be had, or a file of this name is there with another checksum (it is left alone).
    """
    if target.exists():
        if not target.is_file():
            raise ConfigError(f"{field}: {target} is a folder, where {address} was to go; give another path")
        if not check_md5(str(target), md5):
            raise ConfigError(
                f"{field}: {target} has the wrong checksum (right: md5 {md5}), so it is cut off or another file; "
                "delete it or give another path"
            )
        return
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        with atomic_write(target) as partial:
            rank_zero_info(f"downloading {address} to {target}")
            torch.hub.download_url_to_file(address, str(partial))
            if not check_md5(str(partial), md5):
                raise ConfigError(
                    f"{field}: what came from {address} has the wrong checksum ({partial.stat().st_size:,} bytes), "
                    f"and was deleted; try again, or put the right file at {target}"
                )
    except (OSError, RuntimeError, HTTPException) as error:
        reason = one_line(error)
        raise ConfigError(
            f"{field}: {target} is missing and {address} cannot be downloaded ({reason}); put the file there"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
