"""What the networks of a run see in whole sets of images, each read once for all probes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from rich.progress import track
from torch import Tensor

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.data import ImageData
from kd_lightning.data.images import ImageDataset
from kd_lightning.evaluation.votes import knn_scores
from kd_lightning.models import Network


class Predictions(NamedTuple):
    """Images as a network sees them, in float32."""

    embedding: Tensor
    """N,D."""
    logits: Tensor
    """N,K of the network's own classes."""
    labels: Tensor
    """N int64, -1 where there is no label."""
    indices: Tensor
    """N int64, positions in the data set's split."""


@torch.no_grad()
def read(
    network: Network, batches: Iterable[Batch], device: torch.device, *, side: int | None = None, quiet: bool = False
) -> Predictions:
    """What a network, in eval mode, sees in the images of a loader, in order.

    Args:
        network: its mode is put back.
        batches: of images as the data have them.
        device: where the network is.
        side: height and width in pixels that images of another size are brought to first (bilinear).
        quiet: no progress bar.
    """
    was_training = network.training
    network.eval()
    width, none = network.embedding_width, torch.empty(0, dtype=torch.int64, device=device)
    empty = torch.empty(0, width, device=device), torch.empty(0, network.num_classes or width, device=device)
    parts = [Predictions(*empty, none, none)]  # the share of a device may be no image
    for batch in track(batches, description=f"reading with {network.name}", disable=quiet):
        images = batch.images.to(device, non_blocking=True)
        if side and images.shape[-1] != side:
            images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
            images = images.round().clamp(0, 255).to(torch.uint8)
        seen = network.features(images, embedding=True, logits=True)
        labels, indices = (x.to(device, non_blocking=True) for x in (batch.labels, batch.indices))
        parts.append(Predictions(seen.embedding.float(), seen.logits.float(), labels, indices))
    network.train(was_training)
    return Predictions(*map(torch.cat, zip(*parts, strict=True)))


@dataclass
class FeatureCache:
    """Reads each network over each set of images once; all devices read their shares, and each has the whole."""

    device: torch.device
    held: dict[tuple[int, int, str], Predictions] = field(default_factory=dict)

    def seen(self, network: Network, data: ImageData, split: str, *, side: int | None = None) -> Predictions:
        """The images of a split, not augmented."""
        place = (id(network), id(data), split)
        if place not in self.held:
            data.setup("test" if split == "test" else "fit")
            self.held[place] = self.read(network, data, data.datasets[split], side=side)
        return self.held[place]

    def read(
        self,
        network: Network,
        data: ImageData,
        images: ImageDataset,
        *,
        change: Callable[[Batch], Batch] | None = None,
        side: int | None = None,
    ) -> Predictions:
        """The same of any images, which `data` serve, and which may be changed first; not kept."""
        place = {"rank": distributed.rank(), "world": distributed.world_size()}
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed; training is not to move by that
            loader = data.in_order(images, place=place)
            seen = read(network, map(change, loader) if change else loader, self.device, side=side, quiet=True)
        return Predictions(*map(distributed.gather_all, seen))


@dataclass
class NetworkView:
    """One network's view of the images that a run is evaluated by."""

    network: Network
    reader: FeatureCache
    data: ImageData
    split: str
    """Which images are evaluated: `val` or `test`."""
    knows_classes: bool
    """Whether its logits are of the data's classes, and trained."""
    is_student: bool = False
    teacher: "NetworkView | None" = None
    """The teacher's, beside a student's."""

    def seen(self, split: str | None = None, data: ImageData | None = None) -> Predictions:
        """Return what it sees in a split, by default the evaluated one; other data at the data's own size."""
        side = None if data is None else self.side
        return self.reader.seen(self.network, data or self.data, split or self.split, side=side)

    @property
    def side(self) -> int:
        """Height and width of the data's images."""
        self.data.setup("test" if self.split == "test" else "fit")
        return self.data.datasets[self.split].side

    def scores(self, seen: Predictions) -> Tensor:
        """A score N,K for each class: its logits or, where its classifier is not trained, the votes of its kNN."""
        if self.knows_classes:
            return seen.logits
        known = self.seen("train")
        k, count = min(10, len(known.labels)), self.data.num_classes
        return knn_scores(seen.embedding, known.embedding, known.labels, k=k, temperature=0.07, classes=count)


def eyes_of(
    trainer: Trainer, method: LightningModule, data: ImageData, split: str, reader: FeatureCache
) -> NetworkView:
    """The student's eyes and, where the method has a teacher, the teacher's beside them."""
    teacher = getattr(method, "teacher", None)
    own = data is trainer.datamodule  # classifiers are of the run's own classes
    beside = teacher and NetworkView(teacher, reader, data, split, knows_classes=own and method.has_task_classifier)
    knows = own and method.trains_classifier
    return NetworkView(method.student, reader, data, split, knows_classes=knows, is_student=True, teacher=beside)
