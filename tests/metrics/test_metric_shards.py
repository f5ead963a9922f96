"""Two processes with shards of different sizes, or one without an image, find what one process finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.ranks import start_ranks
from torch import Tensor, nn
from torchmetrics import Metric

from kd_lightning.metrics import (
    NLL,
    Agreement,
    Brier,
    CalibrationError,
    LinearCKA,
    LogitCosine,
    MeanOverImages,
    PerClassAccuracy,
    SimilarityDistance,
    SoftKL,
    similarity_distance,
)
from kd_lightning.metrics.classification import ece

CLASSES = 5
# with b = 8, the first leaves 6 images over and the second 2; the last batch is too small for CKA
SHARDS = {
    "uneven": (((0, 16), (16, 32), (32, 46)), ((46, 62), (62, 69), (69, 72))),
    "one has none": (((0, 16), (16, 32), (32, 46)), ()),
}
IN_ORDER = {  # the rows as one process must have them for the same minibatches of 8
    "uneven": [*range(40), *range(46, 70), *range(40, 46), *range(70, 72)],
    "one has none": [*range(46)],
}


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn((72, CLASSES), generator=generator)
    return {
        "student": teacher + 2 * torch.randn((72, CLASSES), generator=generator),
        "teacher": teacher,
        "labels": torch.randint(CLASSES, (72,), generator=generator),
        "ours": torch.randn((72, 6), generator=generator),
        "theirs": torch.randn((72, 9), generator=generator),
        "values": teacher[:, 0],
    }


CASES: dict[str, tuple[Callable[[], Metric], tuple[str, ...]]] = {
    "nll": (NLL, ("student", "labels")),
    "brier": (Brier, ("student", "labels")),
    "ece": (lambda: CalibrationError(CLASSES), ("student", "labels")),
    "per class": (lambda: PerClassAccuracy(CLASSES), ("student", "labels")),
    "agreement": (Agreement, ("student", "teacher")),
    "where the teacher errs": (lambda: Agreement(where_teacher_errs=True), ("student", "teacher", "labels")),
    "kl": (SoftKL, ("student", "teacher")),
    "cosine": (LogitCosine, ("student", "teacher")),
    "cka": (LinearCKA, ("ours", "theirs")),
    "sp distance": (lambda: SimilarityDistance(batch_size=8), ("ours", "theirs")),
    "mean": (MeanOverImages, ("values",)),
}


def found(batches: list[tuple[int, int] | list[int]], dtype: torch.dtype | None = None) -> dict[str, Any]:
    held, values = rows(), {}
    for name, (build, wanted) in CASES.items():
        metric = build()
        if dtype:
            nn.ModuleList([metric]).to(dtype)  # as `trainer.precision: bf16-true` does with a module's metrics
        for batch in batches:
            places = [*range(*batch)] if isinstance(batch, tuple) else batch
            metric.update(*(held[what][places] for what in wanted))
        values[name] = [metric.compute(), getattr(metric, "skipped", 0)]
    return values


def functions(shards: tuple[tuple[int, int], ...]) -> list[Tensor]:
    held = {name: x[shards[0][0] : shards[-1][1]] for name, x in rows().items()}
    return [ece(held["student"], held["labels"]), similarity_distance(held["ours"], held["theirs"], batch_size=8)]


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    values = {title: found([*shards[rank]]) for title, shards in SHARDS.items()}
    values["bf16-true"] = found([*SHARDS["one has none"][rank]], torch.bfloat16)
    values["functions"] = functions(SHARDS["uneven"][rank])
    torch.save(values, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("shards")
    start_ranks(process, (folder,), 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("title", SHARDS)
def test_two_processes_find_what_one_finds(title: str, name: str, ranks: list[dict]) -> None:
    batches = [batch for shard in SHARDS[title] for batch in shard]
    expected = found([IN_ORDER[title]] if name == "sp distance" else batches)[name][0]
    for rank in ranks:
        torch.testing.assert_close(rank[title][name][0], expected, rtol=1e-12, atol=1e-12)
    if title == "uneven":  # what each finds alone is another value, so that the test can fail
        for shard in SHARDS[title]:
            with pytest.raises(AssertionError):
                torch.testing.assert_close(found([*shard])[name][0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_module_in_bf16_counts_as_well(name: str, ranks: list[dict]) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank["bf16-true"][name][0], rank["one has none"][name][0], rtol=1e-6, atol=1e-6)


def test_what_cka_leaves_out_is_counted_once(ranks: list[dict]) -> None:
    assert [rank["uneven"]["cka"][1].item() for rank in ranks] == [0, 3]


def test_functions_stay_with_what_they_are_given(ranks: list[dict]) -> None:
    for rank, shards in zip(ranks, SHARDS["uneven"], strict=True):
        assert rank["functions"] == functions(shards)
    assert ranks[0]["functions"] != ranks[1]["functions"]


def test_sums_stay_exact_in_a_module_of_bf16() -> None:
    metric = NLL()
    nn.ModuleList([metric]).to(torch.bfloat16)
    for _ in range(600):  # bfloat16 counts to 256
        metric.update(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    assert metric.compute().item() == pytest.approx(0.6931471805599453, abs=1e-12)
