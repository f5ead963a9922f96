"""Embeddings and logits of a run's networks for complete sets of images, computed once for all evaluators."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from rich.progress import track
from torch import Tensor, nn

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.data import ImageData
from kd_lightning.data.images import ImageDataset
from kd_lightning.evaluation.knn_scores import knn_scores
from kd_lightning.models import Network
from kd_lightning.models.modes import eval_mode

LARGEST_GROUP, SMALLEST_GROUP = 256, 8
PIXELS = 1 << 22
"""Largest number of pixels in a group of images, unless the group has SMALLEST_GROUP images."""


class Predictions(NamedTuple):
    """A network's outputs for N images, in float32."""

    embedding: Tensor
    """Embeddings N,D."""
    logits: Tensor
    """Logits N,K for the K classes of the network's classifier."""
    labels: Tensor
    """Labels N int64, -1 for images without a label."""
    indices: Tensor
    """Positions of the images in the split of the data set, N int64."""


@torch.no_grad()
def read(
    network: Network, batches: Iterable[Batch], device: torch.device, *, side: int | None = None, quiet: bool = False
) -> Predictions:
    """Run a network in eval mode over batches of images, and return the outputs in the order of the images.

    Args:
        network: Network to run. Its mode (training or eval) is restored afterwards.
        batches: Batches of images that are not normalised, as the data module yields them.
        device: Device of the network.
        side: Height and width in pixels to which images of another size are resized (bilinear).
        quiet: Whether the progress bar is hidden.
    """
    width, none = network.embedding_width, torch.empty(0, dtype=torch.int64, device=device)
    empty = torch.empty(0, width, device=device), torch.empty(0, network.num_classes or width, device=device)
    parts = [Predictions(*empty, none, none)]  # a rank may have no images
    with eval_mode(network):
        for batch in track(batches, description=f"reading with {network.name}", disable=quiet):
            images = batch.images.to(device, non_blocking=True)
            if side and images.shape[-1] != side:
                images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
                images = images.round().clamp(0, 255).to(torch.uint8)
            outputs = network.features(images, embedding=True, logits=True)
            labels, indices = (x.to(device, non_blocking=True) for x in (batch.labels, batch.indices))
            parts.append(Predictions(outputs.embedding.float(), outputs.logits.float(), labels, indices))
    return Predictions(*map(torch.cat, zip(*parts, strict=True)))


@dataclass
class FeatureCache:
    """Cache of outputs, so that each network runs only once over each set of images.

    Each rank runs the network over its share of the images, and then receives the outputs for all images. A network
    always gets the same groups of images, because the other images of a batch change the rounding of its outputs, and
    rounding can change which images are nearest neighbours. The results are therefore the same for any number of ranks
    and any `data.eval_batch_size`.
    """

    device: torch.device
    cached: dict[tuple[int, int, str], Predictions] = field(default_factory=dict)

    def predictions(self, network: Network, data: ImageData, split: str, *, side: int | None = None) -> Predictions:
        """Return a network's outputs for the images of a split, without augmentation."""
        key = (id(network), id(data), split)
        if key not in self.cached:
            data.setup("test" if split == "test" else "fit")
            self.cached[key] = self.read(network, data, data.datasets[split], side=side)
        return self.cached[key]

    def read(
        self,
        network: Network,
        data: ImageData,
        images: ImageDataset,
        *,
        change: Callable[[Batch], Batch] | None = None,
        side: int | None = None,
    ) -> Predictions:
        """Return the outputs of a network for images that `data` loads and `change` modifies, without caching."""
        place = {"rank": distributed.rank(), "world": distributed.world_size()}
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed, which must not change the training
            loader = data.in_order(images, place=place, group=group_size(images.side, side, network.size))
            outputs = read(network, map(change, loader) if change else loader, self.device, side=side, quiet=True)
        if distributed.world_size() == 1:
            return outputs
        rows = torch.tensor(loader.sampler.rows(), dtype=torch.int64, device=self.device)
        order = distributed.gather_all(rows).argsort()
        return Predictions(*(distributed.gather_all(output)[order] for output in outputs))


def group_size(*sides: int | None) -> int:
    """Return the number of images that a network sees at a time, for images of the largest of the given sides."""
    return min(max(PIXELS // max(side or 1 for side in sides) ** 2, SMALLEST_GROUP), LARGEST_GROUP)


@dataclass
class NetworkView:
    """One network and the images on which it is evaluated."""

    network: Network
    cache: FeatureCache
    data: ImageData
    split: str
    """The evaluated split: `val` or `test`."""
    knows_classes: bool
    """Whether the network has a classifier trained on the data's classes."""
    is_student: bool = False
    teacher: "NetworkView | None" = None
    """The teacher's view, in a student's view."""
    to_teacher: nn.Module | None = None
    """Layers that map the network's embedding into the teacher's embedding space (`Distiller.to_teacher`)."""
    exits: Mapping[int, nn.Module] = field(default_factory=dict)
    """Classifiers of the maps of earlier stages of the student, by the number of the stage (`StudentModule.exits`)."""

    def predictions(self, split: str | None = None, data: ImageData | None = None) -> Predictions:
        """Return the outputs for a split. By default, this is the evaluated split.

        Images of the argument `data` are resized to the side of the run's images.
        """
        side = None if data is None else self.side
        return self.cache.predictions(self.network, data or self.data, split or self.split, side=side)

    @property
    def side(self) -> int:
        """Height and width of the data's images."""
        self.data.setup("test" if self.split == "test" else "fit")
        return self.data.datasets[self.split].side

    def scores(self, outputs: Predictions) -> Tensor:
        """Return scores N,K: the logits, or the votes of a kNN classifier if the classifier is not trained."""
        if self.knows_classes:
            return outputs.logits
        bank = self.predictions("train")
        k, count = min(10, len(bank.labels)), self.data.num_classes
        return knn_scores(outputs.embedding, bank.embedding, bank.labels, k=k, temperature=0.07, classes=count)


def network_view(
    method: LightningModule, data: ImageData, split: str, cache: FeatureCache, *, own_data: bool = True
) -> NetworkView:
    """Return the student's view, which contains the teacher's view if the method has a teacher.

    Args:
        method: Method of the run.
        data: Images on which the networks are evaluated.
        split: Evaluated split.
        cache: Cache of the outputs of the networks.
        own_data: Whether `data` are the run's own data. The classifiers predict the classes of these data.
    """
    teacher = getattr(method, "teacher", None)
    teacher_view = teacher and NetworkView(
        teacher, cache, data, split, knows_classes=own_data and method.has_task_classifier
    )
    return NetworkView(
        method.deployed,
        cache,
        data,
        split,
        knows_classes=own_data and method.trains_classifier,
        is_student=True,
        teacher=teacher_view,
        to_teacher=getattr(method, "to_teacher", None),
        exits=method.exits,
    )
