"""Read a gallery: a network's embeddings of many images, which the command `embed` has written."""

import json

from safetensors import SafetensorError, safe_open
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import resolve
from kd_lightning.models import Network

TENSOR, FINGERPRINT = "embedding", "fingerprint"
"""Names of the embeddings and of the network's fingerprint in the file."""


def read(path: str, teacher: Network, field: str = "model.gallery") -> Tensor:
    """Return the embeddings M,D of a gallery that a teacher has computed.

    Args:
        path: Path of a safetensors file that `embed` or `predict` has written.
        teacher: Network that must have computed the embeddings.
        field: Field of the path, for error messages.

    Raises:
        ConfigError: if the file is missing or cannot be read, if it contains no embeddings, or if another network has
            computed them. The message names both networks.
    """
    file = resolve(path, field)
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            embeddings = content.get_tensor(TENSOR) if TENSOR in content.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{field}: {file} cannot be read ({error}); give a file that embed has written") from error
    if embeddings is None or embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ConfigError(f"{field}: {file} contains no embeddings; give a file that embed has written")
    written_by, name = (json.loads(metadata.get(key, "null")) for key in (FINGERPRINT, "network"))
    if written_by is None:
        raise ConfigError(
            f"{field}: {file} does not say which network computed its embeddings; write it again by embed"
        )
    if written_by != teacher.fingerprint():
        raise ConfigError(
            f"{field}: {file} was computed by another network than the teacher ({name}, fingerprint {written_by[:16]}; "
            f"the teacher is {teacher.name}, fingerprint {teacher.fingerprint()[:16]}); give the gallery of this "
            "teacher, or the weights of that network as teacher.checkpoint"
        )
    if embeddings.shape[1] != teacher.embedding_width or not len(embeddings) or not embeddings.isfinite().all():
        raise ConfigError(
            f"{field}: {file} contains {len(embeddings)} embeddings of {embeddings.shape[1]} numbers, but finite "
            f"embeddings of {teacher.embedding_width} numbers are needed; write it again by embed"
        )
    return embeddings.float()
