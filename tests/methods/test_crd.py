"""CRD: golden values, the banks and their checkpoint, and the draws of the negatives."""

from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, trainer
from helpers.golden import bias, check, student, teacher, weight
from torch import Tensor
from torch.nn.functional import linear
from torch.optim.lr_scheduler import StepLR

from kd_lightning.data import Digits
from kd_lightning.distillation import Combined
from kd_lightning.distillation.contrast_memory import ContrastMemory
from kd_lightning.errors import ConfigError
from kd_lightning.methods import CRD, SP

ROWS = torch.arange(4)
NEGATIVES = (ROWS[:, None] + torch.arange(1, 5)) % 10


def memory(**kwargs: object) -> ContrastMemory:
    return ContrastMemory(torch.arange(10), 6, **{"temperature": 0.07, "momentum": 0.5, **kwargs}).double()


def test_golden_values_of_two_steps() -> None:
    built = memory()
    built.student_bank.copy_(0.5 * teacher(10, 6))
    built.teacher_bank.copy_(0.5 * student(10, 6))

    def loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        mapped = linear(student_embedding, weight(1, 6, 5), bias(1, 6))
        return built(mapped, linear(teacher_embedding, weight(2, 6, 8), bias(2, 6)), ROWS, NEGATIVES)

    pair = (student(4, 5), teacher(4, 8))
    check(loss, pair, 24.89748294, 7.4730339)
    assert built.log_normalizers.exp().tolist() == pytest.approx([8460894.819, 87378.18563], rel=1e-9)
    check(loss, pair, 13.48126413, 6.1902833)


def terms(built: CRD, data: Digits) -> Tensor:
    built.log = built.log_dict = lambda *args, **kwargs: None
    return built.training_terms(data.datasets["train"].take(torch.arange(8)))["crd"]


def ready(built: CRD, **kwargs: object) -> Digits:
    data = digits(**kwargs)
    data.setup("fit")
    built.on_data_ready(data)
    return data


def test_a_bank_is_the_running_mean_of_unit_vectors() -> None:
    built = memory(momentum=0.25)
    before = built.student_bank.clone()
    built(student(4, 6), teacher(4, 6), ROWS, NEGATIVES)
    unit = student(4, 6) / student(4, 6).norm(dim=1, keepdim=True)
    mean = 0.25 * before[:4] + 0.75 * unit
    torch.testing.assert_close(built.student_bank[:4], mean / mean.norm(dim=1, keepdim=True))
    assert torch.equal(built.student_bank[4:], before[4:])


def test_extreme_embeddings_leave_banks_finite() -> None:
    """A zero vector gives NaN in the released code."""
    for vectors in (torch.zeros(4, 6), torch.full((4, 6), 1e4), torch.full((4, 6), torch.nan)):
        built = memory().float()
        moved = vectors.half().requires_grad_()
        loss = built(moved, vectors, ROWS, NEGATIVES)
        if vectors.isfinite().all():
            loss.backward()
            assert moved.grad.isfinite().all()
        assert all(value.isfinite().all() for value in built.buffers())


def test_negatives_are_uniform_and_of_other_classes() -> None:
    classes = torch.tensor([2, 0, 2, 1, 0, 1, 1])
    drawn = ContrastMemory(classes, 2, temperature=1.0, momentum=0.5)
    rows = torch.arange(7)
    found = drawn.negatives(rows + 100, rows, 4000)
    assert found.shape == (7, 4000)
    for row in range(7):
        counts = found[row].bincount(minlength=7)
        others = classes != classes[row]
        assert counts[~others].sum() == 0
        assert (counts[others] - 4000 / others.sum()).abs().max() < 150
    assert torch.equal(drawn.negatives(rows[3:] + 100, rows[3:], 4000), found[3:])
    assert not torch.equal(drawn.negatives(rows + 101, rows, 4000), found)


@pytest.mark.parametrize("negatives", ["index", "class"])
def test_the_banks_have_a_row_for_each_training_image(negatives: str) -> None:
    built = method(CRD, negatives=negatives)
    data = ready(built)
    train = data.datasets["train"]
    assert len(built.memory.student_bank) == len(train) == 100
    assert built.rows[train.indices].tolist() == [*range(100)]
    before = built.memory.student_bank.clone()
    terms(built, data)
    assert (built.memory.student_bank != before).any(dim=1).nonzero().flatten().tolist() == [*range(8)]
    assert built.memory.classes.tolist() == (train.labels.tolist() if negatives == "class" else [*range(100)])
    built.on_data_ready(data)  # a second call keeps the banks
    assert not torch.equal(built.memory.student_bank, before)


def test_the_first_banks_depend_only_on_the_seed_of_the_data() -> None:
    banks = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        built = method(CRD)
        ready(built, seed=seed)
        banks.append(built.memory.teacher_bank)
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])
    assert banks[0].norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("combined", [False, True])
def test_banks_and_normalisers_are_resumed_and_tested(combined: bool, tmp_path: Path) -> None:
    def build() -> CRD:
        torch.manual_seed(0)
        kwargs = {"lr_scheduler": lambda optimizer: StepLR(optimizer, 1, gamma=0.5)}
        return method(Combined, parts=[CRD, SP], **kwargs) if combined else method(CRD, **kwargs)

    def fit(epochs: int, resume: Path | None = None) -> dict[str, Tensor]:
        built, run = build(), trainer(tmp_path, max_epochs=epochs)
        run.fit(built, digits(max_train_samples=40, batch_size=20, val_split=0), ckpt_path=resume)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return built.state_dict()

    fit(1)
    whole = fit(2)
    resumed = fit(2, tmp_path / "1.ckpt")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    name = "parts.crd.memory." if combined else "memory."
    assert whole[f"{name}student_bank"].shape == (40, 128)
    assert (whole[f"{name}log_normalizers"] != 0).all()
    fresh = build()
    trainer(tmp_path).test(fresh, digits(), ckpt_path=tmp_path / "2.ckpt", verbose=False)
    assert torch.equal(fresh.state_dict()[f"{name}student_bank"], whole[f"{name}student_bank"])
    ignored = fresh._ddp_params_and_buffers_to_ignore
    assert {key for key, _ in fresh.named_buffers() if "memory." in key or key.endswith("rows")} <= {*ignored}


@pytest.mark.parametrize("combined", [False, pytest.param(True, marks=pytest.mark.e2e)])
def test_weights_can_be_loaded_before_the_training_images_are_known(combined: bool) -> None:
    """After ddp_fork, the main process loads the weights of a process that knew the images."""
    built, fresh = (method(Combined, parts=[CRD, SP]) if combined else method(CRD) for _ in range(2))
    ready(built)
    fresh.load_state_dict(built.state_dict())
    assert all(torch.equal(value, built.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_other_images_cannot_resume(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(method(CRD), digits(max_train_samples=60))
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="ckpt_path: the checkpoint does not fit CRD"):
        trainer(tmp_path, max_epochs=2).fit(method(CRD), digits(), ckpt_path=tmp_path / "a.ckpt")


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"model.negative_count: 100 negatives are given, but .* 100 training images"):
        ready(method(CRD, negative_count=100))
    with pytest.raises(ConfigError, match=r"model.negative_count: 1000000000000 negatives are given, but"):
        ready(method(CRD, negative_count=10**12))
    with pytest.raises(ConfigError, match="negative_count: 0 is not above 0"):
        method(CRD, negative_count=0)
    with pytest.raises(ConfigError, match="momentum: 2 is not between 0 and 1"):
        method(CRD, momentum=2)
    by_class, unlabelled = method(CRD, negatives="class", ce_weight=0.0), digits()
    unlabelled.labeled = False
    with pytest.raises(ConfigError, match=r"data.labeled: CRD reads labels, but the data have none"):
        by_class.check_data(unlabelled)
    assert not method(CRD, ce_weight=0.0).needs_labels
    data = digits()
    data.setup("fit")
    data.datasets["train"].labels = torch.zeros(100, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"model.negatives: class needs images of other classes"):
        by_class.on_data_ready(data)


def test_all_other_images_are_the_negatives_of_a_small_data_set() -> None:
    built = method(CRD, negative_count=None)
    data = ready(built)
    assert built.memory.negatives(torch.arange(3), torch.arange(3), 99).shape == (3, 99)
    assert terms(built, data).isfinite()
