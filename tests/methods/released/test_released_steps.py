"""SGD steps of SP on WRNs give the losses of HobbitLong/RepDistiller's training loop, computed in float64.

They depend on the map that is distilled, the normalisation of the images, BatchNorm in train mode, and the weights.
"""

import pytest
import torch
from helpers.released import fill, signal

from kd_lightning.batch import Batch
from kd_lightning.methods import SP
from kd_lightning.models import Network

CIFAR100 = {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}
CE_AND_SP = [
    (1.671294628, 58.77102049),
    (1.44937, 135.0364683),
    (1.555771845, 53.51987633),
    (1.495825702, 33.30891116),
]


def test_sp_on_wide_resnets() -> None:
    teacher, student = (Network(name, num_classes=5, **CIFAR100) for name in ("cifar_wrn_16_2", "cifar_wrn_16_1"))
    for network in (teacher, student):
        fill(network.model)
    teacher.has_weights, teacher.fresh_classifier = True, False
    built = SP(teacher=teacher, student=student).double()
    built.log_dict = lambda *args, **kwargs: None
    built.train()
    images, rows = (127.5 + 127.5 * signal(6, 3, 16, 16)).round().to(torch.uint8), torch.arange(6)
    optimizer = torch.optim.SGD(built.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for expected in CE_AND_SP:
        losses = built.training_terms(Batch(images, torch.tensor([0, 1, 2, 3, 4, 0]), rows, rows))
        assert (losses["ce"].item(), losses["sp"].item()) == pytest.approx(expected, rel=1e-4)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
