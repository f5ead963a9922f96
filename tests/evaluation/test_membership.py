"""MembershipInference against scikit-learn, on a student that has overfitted a few digits, and on its teacher."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.factories import digits, method, trainer
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score, roc_curve

from kd_lightning.data import RandomImages
from kd_lightning.data.images import ImageDataset
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import MembershipInference, read
from kd_lightning.evaluation.membership import drawn
from kd_lightning.evaluation.network_view import Predictions
from kd_lightning.methods import KD, CoSS

FEW = {"max_train_samples": 100, "batch_size": 20, "augmentations": []}
NAMES = [f"{attack}_{metric}" for attack in ("loss", "confidence") for metric in ("auroc", "tpr_at_1_fpr")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudentModule:
    torch.manual_seed(0)
    built = method(KD, ce_weight=1.0, kd_weight=0.0, check_teacher=False)
    trainer(tmp_path_factory.mktemp("run"), max_epochs=25).fit(built, digits(**FEW))
    return built


def evaluated(folder: Path, built: StudentModule, evaluator: MembershipInference) -> dict[str, float]:
    run = trainer(folder, evaluator)
    run.test(built, digits(**FEW), verbose=False)
    values = {name: float(value) for name, value in run.callback_metrics.items()}
    return {name: value for name, value in values.items() if "membership" in name}


def images_of(split: str) -> ImageDataset:
    data = digits(**FEW)
    data.setup("test" if split == "test" else "fit")
    return data.datasets[split]


def losses(built: StudentModule, network: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropies with the label, and largest log-probabilities, of the drawn images."""
    data, images = digits(**FEW), images_of(split)
    found = read(getattr(built, network), data.in_order(images), torch.device("cpu"), quiet=True)
    chosen = drawn(found, count, 3)
    log_p = log_softmax(chosen.logits.double().numpy(), axis=1)
    return -log_p[np.arange(count), chosen.labels.numpy()], log_p.max(axis=1)


def test_both_attacks_on_both_networks_are_scikit_learns(tmp_path: Path, trained: StudentModule) -> None:
    found = evaluated(tmp_path, trained, MembershipInference(teacher=True, seed=3))
    count, expected = len(images_of("train")), {}
    assert count < len(images_of("test"))
    truth = np.repeat([1, 0], count)
    for network, suffix in (("student", ""), ("teacher", "_teacher")):
        members, others = (losses(trained, network, split, count) for split in ("train", "test"))
        for attack, sign, place in (("loss", -1, 0), ("confidence", 1, 1)):
            scores = sign * np.concatenate([members[place], others[place]])
            false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
            expected[f"test/membership_{attack}_auroc{suffix}"] = roc_auc_score(truth, scores)
            expected[f"test/membership_{attack}_tpr_at_1_fpr{suffix}"] = true[false <= 0.01].max()
    assert found == pytest.approx(expected, abs=2e-3)
    assert found["test/membership_loss_auroc"] > 0.53


def test_an_untrained_student_has_no_members(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = evaluated(tmp_path, method(KD, check_teacher=False), MembershipInference())
    assert found["test/membership_loss_auroc"] == pytest.approx(0.5, abs=0.08)
    assert found["test/membership_confidence_auroc"] == pytest.approx(0.5, abs=0.08)


def test_a_student_without_a_trained_classifier_is_skipped(tmp_path: Path) -> None:
    found = evaluated(tmp_path, method(CoSS, check_teacher=False), MembershipInference(teacher=True))
    assert {*found} == {f"test/membership_{name}_teacher" for name in NAMES}


def test_during_fit_the_others_are_the_validation_images(tmp_path: Path) -> None:
    run = trainer(tmp_path, MembershipInference(every_n_epochs=1))
    run.fit(method(KD, check_teacher=False), digits(**FEW))
    assert {f"val/membership_{name}" for name in NAMES} <= {*run.callback_metrics}


def test_the_draw_is_a_function_of_the_seed() -> None:
    rows = torch.arange(50)
    outputs = Predictions(torch.zeros(50, 1), torch.zeros(50, 2), rows, rows)
    one, again, other = (drawn(outputs, 20, seed).labels for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert len(one.unique()) == 20
    assert not torch.equal(one, other)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^MembershipInference.seed: -1 is not between 0 and 4294967295$"):
        MembershipInference(seed=-1)
    data = RandomImages(images=500, classes=10)
    data.labeled = False
    line = "^MembershipInference: the run's images have no labels, which MembershipInference needs; remove Membership"
    with pytest.raises(ConfigError, match=line):
        MembershipInference().check_data(data)
