"""Gathering and SyncBatchNorm of several processes; methods/test_many_processes.py compares the losses."""

from pathlib import Path

import pytest
import torch
from helpers.factories import method
from helpers.ranks import start_ranks
from torch import nn

from kd_lightning import distributed
from kd_lightning.methods import SP
from kd_lightning.models import Network


def test_one_process_gathers_nothing() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(rows) is rows
    assert torch.equal(distributed.share(rows), rows)
    assert (distributed.world_size(), distributed.rank()) == (1, 0)


SHARES = ([3, 2, 2], [1, 0, 0])


def _gather_unevenly(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=3)
    torch.set_num_threads(1)
    found = []
    for counts in SHARES:
        mine = torch.arange(counts[rank]) * 3 + rank  # the order in which ranks get an epoch's samples
        found += [distributed.gather_all(mine), distributed.gather_all(torch.stack([mine, -mine], dim=1).half())]
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    torch.distributed.destroy_process_group()


def test_gather_all_restores_the_order_of_unequal_shares(tmp_path: Path) -> None:
    start_ranks(_gather_unevenly, (str(tmp_path),), 3)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for whole, pairs, counts in zip(found[::2], found[1::2], SHARES, strict=True):
        assert whole.tolist() == list(range(sum(counts)))
        assert whole.dtype == torch.int64
        assert pairs.tolist() == [[n, -n] for n in range(sum(counts))]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "cifar_resnet8"])
def test_sync_batchnorm_does_not_change_the_student(name: str) -> None:
    """Lightning's SyncBatchNorm would drop the activations in timm's normalisation layers."""
    built = method(SP, student=Network(name, num_classes=10)).train()
    built.student(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))  # so that the statistics are not 0 and 1
    built.eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    before, keys = built.student(images), [*built.state_dict()]
    modules = [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)]
    sync = distributed.SyncBatchNorm()
    sync.apply(built)
    synced = {n for n, module in built.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    assert synced
    assert all(name.startswith("student.") for name in synced)
    assert torch.equal(built.student(images), before)
    assert [*built.state_dict()] == keys
    built.to(torch.float64)  # creates new buffers
    with torch.no_grad():
        built.student.model.get_submodule(next(iter(synced)).removeprefix("student.model.")).running_mean += 1
    built.train()
    changed = built.eval().student(images)
    sync.revert(built)
    assert [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)] == modules
    assert torch.equal(built.student(images), changed)
    assert not torch.allclose(changed, before.double(), atol=1e-4)
