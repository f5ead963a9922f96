"""The teacher is frozen, whatever a caller does to it."""

import copy
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.factories import digits, method, student, trainer, with_weights
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.distillation import Combined
from kd_lightning.errors import ConfigError
from kd_lightning.methods import DKD, KD, NST, SEED, SP, VID, CoSS, ReviewKD, SimReg, Supervised
from kd_lightning.models import Features, Network, Reads

IMAGES = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher(tmp_path: Path) -> Network:
    """Return a teacher with BatchNorm, dropout and stochastic depth."""
    network = with_weights(tmp_path, "tf_efficientnet_lite0", drop_rate=0.5, drop_path_rate=0.5)
    kinds = {type(module).__name__ for module in network.modules()}
    assert {"DropPath"} <= kinds
    assert any("BatchNorm" in kind for kind in kinds)
    return network


def state(network: Network) -> dict[str, Tensor]:
    """Return all tensors of a network, including those that are not in its state_dict."""
    return {name: value.detach().clone() for name, value in (*network.named_parameters(), *network.named_buffers())}


def unchanged(method: KD, before: dict[str, Tensor], logits: Tensor) -> bool:
    same = all(torch.equal(value, before[name]) for name, value in state(method.teacher).items())
    return same and torch.equal(method.teacher_features(IMAGES, Reads(logits=True)).logits, logits)


def test_it_is_a_constant_through_training_validation_and_anyones_train(teacher: Network, tmp_path: Path) -> None:
    method, before = KD(teacher=teacher, student=student()), state(teacher)
    logits = method.teacher_features(IMAGES, Reads(logits=True)).logits
    first, second = (trainer(tmp_path, limit_train_batches=2) for _ in range(2))
    for step in (
        lambda: first.fit(method, digits()),
        lambda: first.validate(method, digits(), verbose=False),
        lambda: first.test(method, digits(), verbose=False),
        lambda: second.fit(method, digits()),
        lambda: method.train(),
        lambda: method.teacher.train(),
        lambda: method.teacher.model.train(),
        lambda: method.teacher.model.blocks[1].train(),
    ):
        step()
        assert unchanged(method, before, logits)
        assert not any(module.training for module in method.teacher.modules())
    assert method.student.training
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    held = {id(parameter) for group in second.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in method.student.parameters()}


def test_it_gives_no_gradient(teacher: Network) -> None:
    method = KD(teacher=teacher, student=student())
    seen = method.teacher_features(IMAGES, Reads(maps=2, embedding=True, logits=True))
    assert not any(tensor.requires_grad for tensor in (*seen.maps, seen.embedding, seen.logits))
    assert not seen.logits.is_inference()  # an inference tensor cannot be saved for the student's backward pass


def test_it_is_out_of_the_checkpoint_and_loading_is_strict(teacher: Network, tmp_path: Path) -> None:
    method = KD(teacher=teacher, student=student())
    run = trainer(tmp_path, limit_train_batches=1)
    run.fit(method, digits())
    run.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert not any("teacher" in name for name in saved["state_dict"])
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"student"}
    alone = Supervised.load_from_checkpoint(tmp_path / "run.ckpt", student=student())
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in alone.state_dict().items())
    again = KD.load_from_checkpoint(tmp_path / "run.ckpt", teacher=teacher, student=student())
    for name, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for spoil, word in ((lambda keys: keys.pop("student.model.fc.bias"), "missing"), (typo, "not expected")):
        broken = torch.load(tmp_path / "run.ckpt", weights_only=True)
        spoil(broken["state_dict"])
        torch.save(broken, tmp_path / "broken.ckpt")
        with pytest.raises(ConfigError, match=word) as refused:
            KD.load_from_checkpoint(tmp_path / "broken.ckpt", teacher=teacher, student=student())
        assert "\n" not in str(refused.value)


def typo(keys: dict[str, Tensor]) -> None:
    keys["student.modle.fc.bias"] = keys["student.model.fc.bias"]


@pytest.mark.parametrize("combined", [False, True])
def test_what_walks_the_modules_does_not_find_it_but_it_moves_along(teacher: Network, combined: bool) -> None:
    given = {"teacher": teacher, "student": student()}
    method = Combined(parts=[SP, partial(SEED, queue_size=64)], **given) if combined else KD(**given)
    everything = (*method.named_modules(), *method.named_parameters(), *method.named_buffers())
    assert not [name for name, _ in everything if "teacher" in name]
    tensors = [*teacher.parameters(), *teacher.buffers()]
    held = {id(module) for module in method.modules()} | {
        id(value) for value in method.state_dict(keep_vars=True).values()
    }
    assert not held & {id(value) for value in (*teacher.modules(), *tensors)}
    copied = copy.deepcopy(method).to(torch.float64)
    assert {value.dtype for value in (*copied.teacher.parameters(), copied.teacher.mean)} == {torch.float64}
    assert all(part.teacher is copied.teacher for part in getattr(copied, "parts", nn.ModuleDict()).values())
    method.to("meta")
    assert {value.device.type for value in (*teacher.parameters(), *teacher.buffers())} == {"meta"}


def test_a_student_with_two_classifiers_that_are_not_trained() -> None:
    small = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2, "embed_dim": 16}
    built = method(CoSS, student=Network("deit_tiny_distilled_patch16_224", num_classes=10, model_kwargs=small))
    assert not any(p.requires_grad for head in built.student.model.get_classifier() for p in head.parameters())


def test_refusals(tmp_path: Path) -> None:
    seven = with_weights(tmp_path, "cifar_resnet8", classes=7)
    fresh = Network("cifar_resnet8", checkpoint=str(tmp_path / "cifar_resnet8.safetensors"), num_classes=10)
    for kind, teacher, line in (
        (SP, Network("cifar_resnet8"), r"^model.teacher: cifar_resnet8 has no weights.*model.teacher.checkpoint.*$"),
        (KD, seven, r"^model.teacher.num_classes: .* 7 classes, .* 10, and KD reads logits; .*$"),
        (KD, fresh, r"^model.teacher.num_classes: .*random.*$"),
    ):
        with pytest.raises(ConfigError) as refused:
            kind(teacher=teacher, student=student())
        assert re.fullmatch(line, str(refused.value)), refused.value
    for other in (seven, fresh):  # SP does not read logits, so it accepts any classes and logs no agreement
        method = SP(teacher=other, student=student())
        run = trainer(tmp_path, TeacherAgreement(), limit_train_batches=1)
        run.fit(method, digits())
        assert "val/acc" in run.callback_metrics
        assert "val/agreement" not in run.callback_metrics


def test_any_part_that_trains_is_in_the_optimizer(teacher: Network, tmp_path: Path) -> None:
    class WithAdapter(SP):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.adapter = nn.Linear(16, 4)

        def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
            return {
                **super().losses(student, teacher, batch),
                "adapter": sum(p.mean() for p in self.adapter.parameters()),
            }

    method = WithAdapter(teacher=teacher, student=student())
    run = trainer(tmp_path, limit_train_batches=1)
    run.fit(method, digits())
    held = {id(parameter) for group in run.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in (*method.student.parameters(), *method.adapter.parameters())}


@pytest.mark.parametrize("kind", [KD, SP])
def test_it_may_be_of_another_family_and_size(kind: type[KD | SP], tmp_path: Path) -> None:
    """The teacher is a vision transformer for 32 pixels only, the student a convolutional network on 8 pixels."""
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    noise = {"drop_rate": 0.5, "drop_path_rate": 0.5, "proj_drop_rate": 0.5}
    method = kind(teacher=with_weights(tmp_path, "vit_tiny_patch16_224", **small, **noise), student=student())
    before, run = state(method.teacher), trainer(tmp_path, TeacherAgreement(), limit_train_batches=1)
    seen = method.teacher_features(IMAGES, Reads(logits=True)).logits
    run.fit(method, digits())
    assert torch.isfinite(run.callback_metrics["train/loss"])
    assert "val/agreement" in run.callback_metrics
    method.teacher.model.blocks[0].train()
    assert unchanged(method, before, seen)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "bf16-true"])
def test_a_teacher_of_half_the_memory_teaches(precision: str, tmp_path: Path) -> None:
    low = Network("cifar_resnet20.digits", pretrained=True, dtype="bfloat16")
    for kind in (KD, SP, CoSS):
        built = method(kind, low)
        trainer(tmp_path, precision=precision).fit(built, digits())
        assert next(built.teacher.model.parameters()).dtype == torch.bfloat16


def test_a_teachers_dtype_that_the_precision_would_overrule_is_refused(tmp_path: Path) -> None:
    built = method(KD, Network("cifar_resnet20.digits", pretrained=True, dtype="float32"))
    with pytest.raises(
        ConfigError, match=r"^model.teacher.dtype: .*trainer.precision bf16-true casts .*; remove model.teacher.dtype"
    ):
        trainer(tmp_path, precision="bf16-true").fit(built, digits())
    with pytest.raises(ConfigError, match=r"^model.student.dtype: .*only a teacher can have a dtype"):
        method(KD, student=student(dtype="bfloat16"))


@pytest.mark.parametrize("gather", [True, False])
def test_how_many_images_are_too_few_is_a_question_of_all_devices(gather: bool) -> None:
    data = digits(batch_size=1)
    data.trainer = SimpleNamespace(world_size=2, precision="32-true")
    built = method(SP, gather=gather)
    assert built.effective_batch_size(data) == 1 + gather
    with (
        nullcontext() if gather else pytest.raises(ConfigError, match=r"SP needs at least 2 images .* and 1 is too few")
    ):
        built.check_data(data)
    with pytest.raises(ConfigError, match=r"SimReg needs at least 2 images .* and 1 is too few"):  # for its BatchNorm
        method(SimReg, gather=gather).check_data(data)
    with pytest.raises(ConfigError, match="queue_size: 1 is less than the 2 images") if gather else nullcontext():
        method(SEED, gather=gather, queue_size=1).check_data(data)


@pytest.mark.parametrize(("ce_weight", "logged"), [(0.0, set()), (1.0, {"val/acc", "val/ce"})])
def test_accuracy_is_logged_where_the_classifier_is_trained(ce_weight: float, logged: set, tmp_path: Path) -> None:
    built = method(CoSS, ce_weight=ce_weight, check_teacher=False)
    assert built.trains_classifier is bool(logged)
    assert built.student.model.fc.weight.requires_grad is bool(logged)
    before = built.student.model.fc.weight.clone()
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=1)
    run.fit(built, digits())
    assert {*run.callback_metrics} & {"val/acc", "val/ce"} == logged
    assert torch.equal(built.student.model.fc.weight, before) is not bool(logged)


@pytest.mark.parametrize(("kind", "words"), [(DKD, "^data.labeled: DKD reads"), (KD, "^data.num_classes: KD reads")])
def test_data_without_classes_are_refused_for_what_the_method_lacks(kind: type[KD | DKD], words: str) -> None:
    """Classes without labels would not help a method that reads labels."""
    with pytest.raises(ConfigError, match=words):
        method(kind, student=student(classes=0), ce_weight=0.0)


@pytest.mark.parametrize("kind", [NST, ReviewKD, VID])
def test_the_default_number_of_stages_is_at_most_that_of_the_networks(kind: type[NST | ReviewKD | VID]) -> None:
    settings = {"img_size": 8, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 1}
    vit = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=settings)
    assert method(kind, student=vit).layers == 2
