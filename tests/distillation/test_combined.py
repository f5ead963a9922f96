"""Combined: one pass of each network, the terms of all parts."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, student, trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined, Distiller
from kd_lightning.errors import ConfigError
from kd_lightning.methods import AT, KD, RKD, SEED, SP, CoSS, FitNet, TinTeM
from kd_lightning.models import Features, Network, Reads


def batch(count: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(count)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Batch(images, rows % 10, rows, rows)


def combined(*parts: object, **kwargs: object) -> Combined:
    return method(Combined, parts=list(parts), **kwargs)


def test_its_terms_are_those_of_its_parts_alone() -> None:
    network, given = student().eval(), batch()
    parts, weights = (SP, partial(AT, layers=3), partial(RKD, angle_weight=0.0), CoSS), [1.0, 1.0, 0.5, 2.0]
    built = combined(*parts, student=network, part_weights=weights, kd_weight=0.9)
    torch.manual_seed(1)
    terms = built.eval().training_terms(given)
    alone = {kind: method(kind, student=network).eval() for kind in (SP, AT, RKD, CoSS, KD)}
    alone[CoSS].head.load_state_dict(built.parts["coss"].head.state_dict())
    expected = {kind: one.training_terms(given) for kind, one in alone.items()}
    assert [*terms] == ["ce", "sp", "at", "rkd_distance", "coss_feature", "coss_space", "kd"]
    torch.testing.assert_close(terms["ce"], expected[SP]["ce"])
    torch.testing.assert_close(terms["sp"], expected[SP]["sp"])
    torch.testing.assert_close(terms["at"], expected[AT]["at"])  # AT reads three stages, SP only the last
    torch.testing.assert_close(terms["rkd_distance"], 0.5 * expected[RKD]["distance"])
    torch.testing.assert_close(terms["coss_space"], 2 * expected[CoSS]["space"])
    torch.testing.assert_close(terms["kd"], expected[KD]["kd"])


def test_each_network_runs_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    built, calls = combined(SP, AT, RKD, kd_weight=1.0), []
    original = Network.features

    def counted(self: Network, images: Tensor, **reads: object) -> Features:
        calls.append((self is built.teacher, {name for name, value in reads.items() if value}))
        return original(self, images, **reads)

    monkeypatch.setattr(Network, "features", counted)
    built.training_terms(batch())
    assert calls == [(False, {"maps", "embedding", "logits"}), (True, {"maps", "embedding", "logits"})]


def test_what_its_parts_train_is_trained_kept_and_loaded(tmp_path: Path) -> None:
    built = combined(CoSS, partial(SEED, queue_size=64), ce_weight=1.0)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    run = trainer(tmp_path, limit_train_batches=2)
    run.fit(built, digits())
    moved = [name for name, value in built.state_dict().items() if not torch.equal(value, before[name])]
    assert {"parts.coss.head.0.weight", "parts.seed.head.0.weight", "parts.seed.queue"} <= {*moved}
    assert "student.model.fc.weight" in moved  # label-free parts freeze the classifier, but here the labels train it
    run.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"student", "parts"}
    assert not any("teacher" in name or "parts.coss.student" in name for name in saved)
    again = combined(CoSS, partial(SEED, queue_size=64), ce_weight=1.0)
    trainer(tmp_path).test(again, digits(), ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)
    assert all(torch.equal(value, saved[name]) for name, value in again.state_dict().items() if name in saved)


def test_diagnostics_of_a_part_carry_its_name() -> None:
    built = combined(TinTeM, SP)
    built.training_terms(batch())
    assert {*built.recorded} == {"acc", "tintem_head/not_orthogonal", "tintem_head/cosine_error"}
    built.recording = False
    built.recorded.clear()
    built.training_terms(batch())
    assert not built.recorded


def test_without_labels() -> None:
    built = combined(SP, CoSS, ce_weight=0.0)
    assert not built.needs_labels
    assert {*built.training_terms(batch())} == {"sp", "coss_feature", "coss_space"}
    unlabelled = digits()
    unlabelled.labeled = False
    built.check_data(unlabelled)
    with pytest.raises(ConfigError, match=r"data.labeled: Combined reads labels, .* set model.ce_weight to 0"):
        combined(SP, CoSS).check_data(unlabelled)


class ReadsLabels(Distiller):
    """Method with a term that reads labels."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.set_weights(own_weight=1.0)

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    @property
    def needs_labels(self) -> bool:
        return True

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"own": student.logits.gather(1, batch.labels[:, None]).mean()}


def test_a_hint_within_the_student_needs_the_combinations_labels() -> None:
    combined(partial(FitNet, layer=2), AT)
    with pytest.raises(ConfigError, match=r"layer: 2 is given, but without labels and soft targets"):
        combined(partial(FitNet, layer=2), AT, ce_weight=0.0)


def test_a_part_names_itself_where_the_data_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"model.parts: RKD: data.batch_size: RKD needs at least 3 images"):
        combined(SP, RKD).check_data(digits(batch_size=2))
    assert not combined(SP, gather=False).parts["sp"].gather


def test_a_part_that_reads_labels_needs_labelled_data() -> None:
    unlabelled = digits()
    unlabelled.labeled = False
    for ce_weight in (0.0, 1.0):  # without the cross-entropy, labels are needed as well
        with pytest.raises(ConfigError, match=r"data.labeled: Combined reads labels, .* none; choose a method without"):
            combined(SP, ReadsLabels, ce_weight=ce_weight).check_data(unlabelled)


class ReadsByItself(SP):
    """A method whose term reads the student's classifier, without logits."""

    trains_classifier = True


def test_the_classifier_is_trained_where_a_part_says_so() -> None:
    for kind, trained in ((ReadsByItself, True), (SP, False)):
        built = combined(kind, ce_weight=0.0)
        assert built.trains_classifier is trained
        assert built.student.model.fc.weight.requires_grad is trained
