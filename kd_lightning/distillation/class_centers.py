"""ClassCenters: the teacher's mean embedding of each class, which a method computes once, at the start of training."""

from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning import distributed
from kd_lightning.errors import ConfigError
from kd_lightning.models import Network, Reads


class ClassCenters(nn.Module):
    """Mean embeddings K,D of a teacher for the training images of each of K classes.

    The images are not augmented, and the teacher is in eval mode. Autocast is off, and the sums are computed in
    float64. All devices have the same centers. Checkpoints contain them together with a hash of the teacher's weights
    and of the training images, so that a resumed run computes them again only if one of these has changed. Until
    `compute` is called, the centers are random unit vectors. The center of a class without images is 0.

    Args:
        classes: Number of classes K.
        width: Width D of the teacher's embedding.
    """

    bytes: Tensor
    source: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        start = nn.functional.normalize(torch.randn(classes, width))
        self.register_buffer("bytes", start.view(torch.uint8))  # a float buffer would be rounded in `bf16-true`
        self.register_buffer("source", torch.zeros(32, dtype=torch.uint8))

    def forward(self) -> Tensor:
        """Return the centers K,D as float32."""
        return self.bytes.view(torch.float32)

    @torch.no_grad()
    def compute(self, teacher: Network, data: Any) -> None:
        """Compute the centers, unless they are those of this teacher and of these training images.

        Args:
            teacher: Teacher in eval mode.
            data: Data of the run, after `setup`. Each device reads its share of the training images.

        Raises:
            ConfigError: if the run has no data set of this package.
        """
        if not hasattr(data, "in_order"):
            raise ConfigError("data: the class centers are computed from the training images; give a data set")
        images = data.datasets["train"]
        source = _digest(teacher, data.name, images.labels, images.indices).to(self.source.device)
        if torch.equal(source, self.source):
            return
        classes, width = len(self.bytes), teacher.embedding_width
        sums, counts = torch.zeros(classes, width, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
        device = self.bytes.device
        with torch.random.fork_rng(devices=[]), torch.autocast(device.type, enabled=False):  # a loader draws a seed
            for batch in data.in_order(images):
                embedding = teacher.features(batch.images.to(device), **Reads(embedding=True)._asdict()).embedding
                sums.index_add_(0, batch.labels.cpu(), embedding.cpu().double())
                counts += batch.labels.cpu().bincount(minlength=classes)
        if distributed.world_size() > 1:
            sums, counts = (distributed.gather(each[None].to(device)).sum(0).cpu() for each in (sums, counts))
        centers = sums / counts.clamp(min=1)[:, None]
        self.bytes.copy_(centers.float().view(torch.uint8))
        self.source.copy_(source)


def _digest(teacher: Network, name: str, *columns: Tensor) -> Tensor:
    digest = sha256(f"{teacher.fingerprint()} {name}".encode())
    for column in columns:
        digest.update(column.cpu().contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
