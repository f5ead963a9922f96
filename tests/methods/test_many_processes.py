"""Losses and gradients of two and three processes equal those of one process with all samples."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.factories import EVERY_METHOD, METHODS, changed, method, refuses_vits, relates_samples, with_views
from helpers.ranks import start_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.methods import CPCL, PCKD, SEED, STKD
from kd_lightning.models import Network, checkpoints

pytestmark = pytest.mark.e2e
SAMPLES, SIDE = 12, 32
TINY, KWARGS = "vit_tiny_patch16_224", {"img_size": 16, "patch_size": 4, "depth": 2, "num_heads": 2, "embed_dim": 16}
PAIRS = {  # networks without normalisation over the batch
    "cnn": (("cifar_resnet20", {}), ("test_resnet", {"norm_layer": "groupnorm1"})),
    "vit": (("test_vit2", {"img_size": SIDE}), ("test_vit", {"img_size": SIDE})),
    "vit16": ((TINY, {**KWARGS, "embed_dim": 32}), (TINY, KWARGS)),
}
RELATIONS = [kind.__name__ for kind in METHODS if relates_samples(kind)]
CASES = {
    f"{kind.__name__}-{pair}": (kind, pair, {})
    for kind in EVERY_METHOD
    for pair in ("cnn", "vit16" if kind.min_positions > 4 else "vit")  # test_vit has 4 positions
    if pair == "cnn" or not refuses_vits(kind)
}
CASES |= {
    f"STKD-{value}": (STKD, "cnn", {name: value})
    for name, value in (("per", "sample"), ("targets", "sources"), ("plain", True), ("images", 3), ("labels", "hard"))
}
CASES |= {"PCKD-kd": (PCKD, "cnn", {"kd_weight": 1.0}), "CPCL-views": (CPCL, "cnn", {"target": "views"})}
OTHER_TERMS = {"PCKD": {"ce_weight": 1e-4, "alignment_weight": 1e-4}}
"""Weights with which the other terms of a method do not hide its relation, whose gradient is small before training."""
CASES |= {f"{name}-relation": (CASES[f"{name}-cnn"][0], "cnn", weights) for name, weights in OTHER_TERMS.items()}
MUTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "each its own": lambda x: x,
    "detached": lambda x: distributed.gather(x).detach(),
    "detached but for the own rows": lambda x: _only_own(distributed.gather(x)),
    "twice the gradient": lambda x: 2 * distributed.gather(x) - distributed.gather(x).detach(),
}


def _only_own(rows: Tensor) -> Tensor:
    mine = torch.arange(len(rows)) % distributed.world_size() == distributed.rank()
    return torch.where(mine.view(-1, *[1] * (rows.ndim - 1)), rows, rows.detach())


def relation_of(name: str) -> str:
    """Return the name of the case in which the relation of a method is tested."""
    return f"{name}-relation" if name in OTHER_TERMS else f"{name}-vit"


class Step(nn.Module):
    """Module that DistributedDataParallel wraps, as in Lightning; it passes on the method's list of ignored names."""

    def __init__(self, built: StudentModule) -> None:
        super().__init__()
        self.method = built
        ignored = getattr(built, "_ddp_params_and_buffers_to_ignore", [])
        self._ddp_params_and_buffers_to_ignore = [f"method.{name}" for name in ignored]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.training_terms(batch)


def build(kind: type[StudentModule], pair: str, folder: Path, arguments: dict[str, Any]) -> StudentModule:
    (teacher, theirs), (student, ours) = PAIRS[pair]
    torch.manual_seed(1)
    network = Network(teacher, checkpoint=str(folder / f"{pair}.safetensors"), model_kwargs=theirs)
    small = {"queue_size": 40} if "queue_size" in inspect.signature(kind).parameters else {}
    built = method(kind, network, student=Network(student, num_classes=10, model_kwargs=ours), **small, **arguments)
    built.log = built.log_dict = lambda *args, **kwargs: None
    return in_stage(built, 0)


def in_stage(built: StudentModule, number: int) -> StudentModule:
    """Let a method enter a stage of training, with the stored statistics of BatchNorm."""
    built.enter_stage(number)
    for module in built.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # in heads; SyncBatchNorm would need a GPU
            module.eval()
    return built


def samples(rank: int, world: int, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (SAMPLES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    rows = torch.arange(SAMPLES)
    whole = with_views(Batch(images, rows % 10, rows, 7919 * rows + step))
    return changed(whole, lambda column: column[rank::world])


def two_steps(built: StudentModule, rank: int, world: int, **kwargs: bool) -> dict[str, Any]:
    step = Step(built)
    run = DistributedDataParallel(step, **kwargs) if world > 1 else step
    for number in range(2):  # in the second step, a queue holds the embeddings of the first
        built.zero_grad()
        in_stage(built, number)  # of a run with two stages, the first step is in the first stage
        losses = run(samples(rank, world, number))
        built.with_zero_gradients(sum(losses.values())).backward()
    trained = [p for p in built.parameters() if p.requires_grad]
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    queue = getattr(built, "queue", torch.zeros(0))
    return {"losses": {n: loss.detach() for n, loss in losses.items()}, "gradient": gradient, "queue": queue}


def every_case(rank: int, world: int, folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for name, (kind, pair, arguments) in CASES.items():
        # timm's ViT does not compute all of float64 in float64, so one process runs it, for the error of float32
        for dtype in (torch.float32, torch.float64)[: 1 if pair != "cnn" and world > 1 else 2]:
            built = build(kind, pair, folder, arguments).to(dtype)
            found[f"{name} {dtype}"] = two_steps(built, rank, world)
    return found


def mutated(rank: int, world: int, folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for title, mutation in MUTATIONS.items():
        for name in RELATIONS:
            kind, pair, arguments = CASES[relation_of(name)]
            built = build(kind, pair, folder, arguments)
            learns: list[bool] = []
            built.all_gather = lambda *tensors, how=mutation, learns=learns: (
                learns.extend(tensor.requires_grad for tensor in tensors),
                *map(how, tensors),
            )[1:]
            built.local_rows = (lambda x: x) if title == "each its own" else built.local_rows
            found[f"{name} {title}"] = two_steps(built, rank, world, find_unused_parameters=True)
            found[f"{name} {title}"]["learns"] = any(learns)
    return found


def told(rank: int, folder: Path) -> dict[str, Any]:
    """Return the results of `distributed` on a rank whose values differ from those of the other ranks."""
    rows = torch.tensor([[10.0 + rank], [20.0 + rank]], dtype=torch.bfloat16)
    torch.manual_seed(rank)
    fresh = method(SEED, Network("cifar_resnet20", checkpoint=str(folder / "cnn.safetensors")), queue_size=4)
    drawn = fresh.queue.clone()
    fresh.on_fit_start()
    return {
        "rows": distributed.gather(rows),
        "own": distributed.share(distributed.gather(rows)),
        "any": [distributed.any_rank(torch.tensor(flag)).item() for flag in (rank == 1, False)],
        "all": distributed.everyones(str(rank)),
        "queue": fresh.queue,
        "drawn": drawn,
    }


def process(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / f'meeting{world}'}", rank=rank, world_size=world)
    found = every_case(rank, world, folder) | (mutated(rank, world, folder) if world == 2 else {})
    found["told"] = told(rank, folder)
    torch.save(found, folder / f"{world}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    for pair, ((teacher, kwargs), _) in PAIRS.items():
        network = Network(teacher, num_classes=10, model_kwargs=kwargs)
        checkpoints.write(folder / f"{pair}.safetensors", network.model.state_dict(), network.facts())
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict]:
    return every_case(0, 1, folder)


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[int, list[dict[str, dict]]]:
    """Return the results of each rank, for two and for three processes."""
    for world in (2, 3):
        start_ranks(process, (world, folder), world)
    return {world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)] for world in (2, 3)}


def apart(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_gradients_and_losses_are_those_of_one_process(name: str, world: int, alone: dict, ranks: dict) -> None:
    exact, single = alone[f"{name} torch.float64"], alone[f"{name} torch.float32"]
    for dtype, expected, most in (
        # 4e-6, or twice the float32 error of one process if that is larger: rounding depends on torch's version and
        # on the processor. The error of a wrong gather is above 1e-3
        (torch.float32, single, max(4e-6, 2 * apart(single["gradient"], exact["gradient"]))),
        (torch.float64, exact, 1e-12),
    ):
        if f"{name} {dtype}" not in ranks[world][0]:
            continue
        found = [rank[f"{name} {dtype}"] for rank in ranks[world]]
        for one in found:
            assert apart(one["gradient"], expected["gradient"]) < most
            torch.testing.assert_close(one["queue"], expected["queue"])
        for term, value in expected["losses"].items():
            mean = torch.stack([one["losses"][term] for one in found]).mean()
            torch.testing.assert_close(mean, value, rtol=most, atol=0)


@pytest.mark.parametrize("world", [2, 3])
def test_what_ranks_tell_each_other(world: int, ranks: dict) -> None:
    everyone = [rank["told"] for rank in ranks[world]]
    for rank, one in enumerate(everyone):
        rows = [[10.0 + other] for other in range(world)] + [[20.0 + other] for other in range(world)]
        assert one["rows"].tolist() == rows
        assert one["rows"].dtype == torch.float32  # gradients are not summed in half precision
        assert one["own"].tolist() == [[10.0 + rank], [20.0 + rank]]
        assert one["any"] == [True, False]
        assert one["all"] == [str(other) for other in range(world)]
        assert torch.equal(one["queue"], everyone[0]["drawn"])
    assert not torch.equal(everyone[1]["drawn"], everyone[0]["drawn"])


def test_methods_that_relate_samples_are_known(alone: dict, ranks: dict) -> None:
    """Without a gather, these methods have another gradient, so the test of the gradients detects a missing gather."""
    for name in RELATIONS:
        own = [rank[f"{name} each its own"]["gradient"] for rank in ranks[2]]
        assert apart(own[0], alone[f"{relation_of(name)} torch.float32"]["gradient"]) > 1e-4, name


@pytest.mark.parametrize("title", MUTATIONS)
@pytest.mark.parametrize("name", RELATIONS)
def test_a_wrong_gather_is_seen(name: str, title: str, alone: dict, ranks: dict) -> None:
    wrong = ranks[2][0][f"{name} {title}"]
    if not wrong["learns"]:
        pytest.skip("it gathers no tensor with a gradient")
    assert apart(wrong["gradient"], alone[f"{relation_of(name)} torch.float32"]["gradient"]) > 1e-3


@pytest.mark.parametrize("kind", EVERY_METHOD)
def test_accumulated_halves_are_the_whole_where_no_samples_are_related(
    kind: type[StudentModule], folder: Path, alone: dict
) -> None:
    """With trainer.accumulate_grad_batches, relational losses compare only the images of each smaller batch."""
    name = f"{kind.__name__}-relation" if kind.__name__ in OTHER_TERMS else f"{kind.__name__}-cnn"
    built = build(*CASES[name][:2], folder, CASES[name][2]).double()
    sum(built.training_terms(samples(0, 1, 0)).values()).backward()
    in_stage(built, 1).zero_grad()
    for half in range(2):
        (sum(built.training_terms(samples(half, 2, 1)).values()) / 2).backward()
    trained = [p for p in built.parameters() if p.requires_grad]
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    error = apart(gradient, alone[f"{name} torch.float64"]["gradient"])
    assert error > 1e-4 if relates_samples(kind) else error < 1e-12
