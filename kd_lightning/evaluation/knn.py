"""KNN: how well the classes can be told from the nearest training images alone."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.embedding import embed
from kd_lightning.models import Network


def knn_scores(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, classes: int) -> Tensor:
    """Votes N,K for each class: the sum of exp(cosine / temperature) over its images among the k nearest of the bank.

    Wu et al. 2018, section 3.4, as DINO's and CoSS's evaluation use it.

    Args:
        queries: N,D.
        bank: M,D.
        labels: M int64.
        k: number of neighbours, at most M.
        temperature: above 0; a large one makes all votes equal.
        classes: K.
    """
    with torch.autocast(queries.device.type, enabled=False):
        bank = F.normalize(bank.float(), dim=1)
        parts = []
        for some in F.normalize(queries.float(), dim=1).split(1024):
            near = (some @ bank.T).topk(k, dim=1)
            votes = torch.exp((near.values - 1) / temperature)  # minus 1: the same order, and no overflow
            parts.append(
                torch.zeros(len(some), classes, device=some.device).scatter_add_(1, labels[near.indices], votes)
            )
        return torch.cat(parts)


class KNN(Callback):
    """Logs `test/knn`: the share of test images whose nearest training images, not augmented, vote for their class.

    Nothing is trained, so it judges an embedding that never saw a label. `teacher: true` logs the teacher's own as
    `test/knn_teacher`.

    Args:
        k: neighbours; 10 is CoSS's and TinTeM's.
        temperature: of the votes; 0.07 is DINO's and TinTeM's.
        teacher: also judge the teacher.
    """

    def __init__(self, *, k: int = 10, temperature: float = 0.07, teacher: bool = False) -> None:
        if k < 1:
            raise ConfigError(f"k: {k} is not positive")
        if temperature <= 0:
            raise ConfigError(f"temperature: {temperature} is not above 0")
        self.k, self.temperature, self.teacher = k, temperature, teacher

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        data.setup("fit")
        train, test = data.sets["train"], data.sets["test"]
        if self.k > len(train):
            raise ConfigError(f"k: {self.k} neighbours of {len(train)} training images")
        labels, truth = train.labels.to(pl_module.device), test.labels.to(pl_module.device)
        networks: dict[str, Network] = {"knn": pl_module.student}
        if self.teacher and hasattr(pl_module, "teacher"):
            networks["knn_teacher"] = pl_module.teacher
        for name, network in networks.items():
            bank = embed(network, data.training_images_in_order(), len(train), pl_module.device, quiet=True)
            queries = embed(network, data.test_images_in_order(), len(test), pl_module.device, quiet=True)
            scores = knn_scores(queries, bank, labels, k=self.k, temperature=self.temperature, classes=data.num_classes)
            metric = MulticlassAccuracy(data.num_classes, average="micro").to(pl_module.device)
            metric.update(scores, truth)
            pl_module.log(f"test/{name}", metric.compute())
            rank_zero_info(f"test/{name}: {metric.compute():.2%} (k = {self.k})")
