"""Downloads that are atomic."""

import socket
from http.client import HTTPException
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torchvision.datasets.utils import check_md5

from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.atomic import atomic_write

_TIMEOUT = 60  # seconds without data


def fetch(address: str, target: Path, md5: str, *, field: str) -> None:
    """Download a file if it does not exist.

    The file is renamed to its final name only after its checksum has been verified. An interrupted download therefore
    leaves no file with this name, and the next call starts again.

    Args:
        address: Official URL of the file.
        target: Path of the file.
        md5: Checksum of the file.
        field: Name of the config field in error messages.

    Raises:
        ConfigError: if the file cannot be downloaded, or if a file with another checksum exists. The existing file is
            not changed.
    """
    if target.exists():
        if not target.is_file():
            raise ConfigError(f"{field}: {target} is a folder, not the file from {address}; give another path")
        if not check_md5(str(target), md5):
            raise ConfigError(
                f"{field}: {target} has a wrong checksum (expected md5 {md5}), so it is truncated or another file; "
                "delete it or give another path"
            )
        return
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with atomic_write(target) as partial:
            rank_zero_info(f"downloading {address} to {target}")
            torch.hub.download_url_to_file(address, str(partial))
            if not check_md5(str(partial), md5):
                raise ConfigError(
                    f"{field}: the download from {address} has a wrong checksum ({partial.stat().st_size:,} bytes) "
                    f"and was deleted; try again, or put the correct file at {target}"
                )
    except (OSError, RuntimeError, HTTPException) as error:
        reason = one_line(error)
        raise ConfigError(
            f"{field}: {target} is missing and {address} cannot be downloaded ({reason}); put the file there"
        ) from error
    finally:
        socket.setdefaulttimeout(previous_timeout)
