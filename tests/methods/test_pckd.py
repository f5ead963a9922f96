"""PCKD: golden values, preview weights, rotations, the two classifiers, the soft targets, and wrong arguments."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.factories import digits, method, student, trainer
from helpers.golden import bias, check, weight
from helpers.golden import student as student_vectors
from helpers.golden import teacher as teacher_vectors
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.data.base import Mixing
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss, regression_loss
from kd_lightning.methods import PCKD, pckd
from kd_lightning.methods.pckd import category_contrast, category_scores, center_loss, preview_weights
from kd_lightning.models import Network

LABELS = torch.tensor([0, 2, 1])
ROWS = LABELS.repeat_interleave(4)  # the four rotations of an image follow one another in the golden inputs
UNROTATED = slice(0, None, 4)
STUDENT, TEACHER = student_vectors(12, 5), teacher_vectors(12, 8)
VIT = {"img_size": 8, "patch_size": 4, "depth": 1, "num_heads": 2, "embed_dim": 16}
CONTRAST = [363.0170906, 357.4225435, 358.1840184, 358.7737531, 366.756017, 352.2098606]
CONTRAST += [351.839467, 352.1267893, 361.0166155, 354.1615954, 353.8581239, 354.0803526]


def contrast(vectors: Tensor) -> Tensor:
    own = category_scores(F.linear(vectors, weight(1, 5, 5), bias(1, 5)), weight(3, 4, 5))
    other = category_scores(F.linear(vectors, weight(2, 8, 5), bias(2, 8)), weight(4, 4, 8))
    return category_contrast(own, other, ROWS)


def logits(vectors: Tensor) -> Tensor:
    return F.linear(vectors, weight(3, 4, 5), bias(3, 4))[UNROTATED]


def divergences(vectors: Tensor) -> Tensor:
    target = F.linear(TEACHER, weight(4, 4, 8), bias(4, 4))[UNROTATED]
    return kd_loss(logits(vectors), target, temperature=4.0, reduction="none") / len(LABELS)


def cross_entropies(vectors: Tensor) -> Tensor:
    return F.cross_entropy(logits(vectors), LABELS, reduction="none")


def preview(vectors: Tensor) -> Tensor:
    return preview_weights(cross_entropies(vectors), epoch=1)


def alignment(vectors: Tensor) -> Tensor:
    return regression_loss(F.linear(vectors, weight(5, 8, 5), bias(5, 8)), TEACHER)


def total(vectors: Tensor, *, kd_weight: float) -> Tensor:
    weighted = (preview(vectors).detach().repeat_interleave(4) * contrast(vectors)).mean()
    soft_targets = kd_weight * (preview(vectors) * divergences(vectors)).sum()
    return cross_entropies(vectors).mean() + soft_targets + 0.05 * weighted + 20 * alignment(vectors)


def test_golden_values_of_the_terms() -> None:
    check(contrast, (STUDENT,), CONTRAST, 53.562999)
    check(divergences, (STUDENT,), [0.000571999961, 0.000635026142, 0.004939897314], 0.013456451)
    check(preview, (STUDENT,), [0.3463028351, 1, 1], 0.10668755)
    check(lambda x: (cross_entropies(x).mean(), alignment(x)), (STUDENT,), [1.444869023, 2.181373633], 0.21199243)


@pytest.mark.parametrize(("kd_weight", "value", "gradient"), [(0, 59.00494009, 4.1836209), (1, 59.0107131, 4.1901326)])
def test_golden_value_of_the_sum(kd_weight: float, value: float, gradient: float) -> None:
    """The norm of the gradient tells whether the preview weights are detached in the contrast, and there alone."""
    check(lambda x: total(x, kd_weight=kd_weight), (STUDENT,), value, gradient)


def test_golden_value_of_the_category_centers() -> None:
    def loss(own: Tensor) -> Tensor:
        pairs = ((own, bias(3, 4)), (weight(4, 4, 5), bias(4, 4)))
        return center_loss(*(torch.cat([rows, column[:, None]], dim=1) for rows, column in pairs))

    check(loss, (weight(3, 4, 5),), 0.07561066735, 0.11157954)


def test_the_contrast_equals_loops() -> None:
    own, other, labels = student_vectors(5, 3), teacher_vectors(5, 3), torch.tensor([0, 1, 0, 2, 1])
    vectors, classes = torch.cat([own, other]).tolist(), [*labels.tolist()] * 2
    values = []
    for i, u in enumerate(vectors):
        products = torch.tensor([sum(a * b for a, b in zip(u, v, strict=True)) / 2 for v in vectors]).double()
        others = [k for k in range(10) if k != i]
        shift = products.max()
        log_sum = torch.log(torch.exp(products[others] - shift).sum() + 1e-7) + shift
        positives = [p for p in others if classes[p] == classes[i]]
        values.append(-2 / 0.1 * sum(products[p] - log_sum for p in positives) / len(positives))
    expected = torch.stack(values).view(2, 5).sum(dim=0)
    found = category_contrast(own, other, labels, temperature=2.0, base_temperature=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = category_contrast(own[order], other[order], labels[order], temperature=2.0, base_temperature=0.1)
    torch.testing.assert_close(moved, found[order])


def test_the_preview_grows_and_stays_finite() -> None:
    values = torch.tensor([0.5, 1.0, 1.5])
    assert preview_weights(values, epoch=1).tolist() == pytest.approx([1, 1, torch.exp(torch.tensor(-2.25)).item()])
    assert preview_weights(values, epoch=81).tolist() == pytest.approx([1, 1, torch.exp(torch.tensor(-2.25)).item()])
    assert preview_weights(values, epoch=82).tolist() == [1, 1, 1]  # 1.005^81 = 1.498, 1.005^82 = 1.505
    zero = torch.zeros(3, requires_grad=True)
    preview_weights(zero, epoch=1).sum().backward()
    assert preview_weights(zero, epoch=1).tolist() == [1, 1, 1]
    assert zero.grad.isfinite().all()


def batch(count: int = 6) -> Batch:
    rows = torch.arange(count)
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator), rows % 3, rows, rows)


def test_both_networks_look_at_four_rotations_the_images_first() -> None:
    given, built = batch(2), method(PCKD)
    images = built.inputs(given)
    assert torch.equal(images[:2], given.images)
    for turns in range(4):
        for number in range(2):
            expected = torch.from_numpy(given.images[number].numpy().copy()).rot90(turns, (1, 2))
            assert torch.equal(images[2 * turns + number], expected)
    assert images[0, :, 0, -1].tolist() == images[2, :, 0, 0].tolist()  # a quarter turn to the left


def test_the_terms_are_those_of_the_functions() -> None:
    """Labels of different classes, an epoch above 0, and preview weights that are not all 1."""
    given = batch()
    built = method(PCKD, kd_weight=0.5, student=student()).eval()
    terms = built.training_terms(given)
    images = built.inputs(given)
    with torch.no_grad():
        own = built.student.features(images, embedding=True, logits=True)
        other = built.teacher.features(images, embedding=True, logits=True)
        weights = preview_weights(F.cross_entropy(own.logits[:6], given.labels, reduction="none"), epoch=1)
        assert len({*weights.tolist()}) > 1
        values = category_contrast(
            category_scores(built.student_head(own.embedding), built.student.model.fc.weight),
            category_scores(built.teacher_head(own.embedding), built.teacher.model.fc.weight),
            given.labels.repeat(4),
        )
        expected = {
            "ce": F.cross_entropy(own.logits[:6], given.labels),
            "contrast": 0.05 * (weights.repeat(4) * values).mean(),
            "alignment": 20 * regression_loss(built.alignment_head(own.embedding), other.embedding),
            "kd": 0.5 * (weights * kd_loss(own.logits[:6], other.logits[:6], temperature=4.0, reduction="none")).mean(),
        }
    assert {*terms} == {*expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value)


def test_the_weight_of_the_soft_targets_is_a_factor() -> None:
    given, net = batch(), student().eval()
    terms = []
    for kd_weight in (1.0, 2.0):
        torch.manual_seed(0)
        terms.append(method(PCKD, kd_weight=kd_weight, student=net).eval().training_terms(given))
    torch.testing.assert_close(terms[1].pop("kd"), 2 * terms[0].pop("kd"))
    assert all(torch.equal(value, terms[0][name]) for name, value in terms[1].items())


def wide() -> Network:
    """Return a student with embeddings as wide as those of the teacher."""
    return Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [4, 4, 8, 64]})


def test_category_centers_are_matched_where_the_widths_are_equal() -> None:
    built = method(PCKD, student=wide(), center_weight=3.0)
    own, other = (torch.cat([n.model.fc.weight, n.model.fc.bias[:, None]], 1) for n in (built.student, built.teacher))
    torch.testing.assert_close(built.training_terms(batch())["center"], 3 * F.mse_loss(own, other))
    assert method(PCKD, student=wide()).center_weight == 1
    narrow = method(PCKD)
    assert narrow.center_weight == 0
    assert "center" not in narrow.training_terms(batch())
    words = "center_weight: 2 is given, but the embeddings of student and teacher have the widths 16 and 64"
    with pytest.raises(ConfigError, match=words):
        method(PCKD, center_weight=2)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"center_weight: {value}"):
            method(PCKD, student=wide(), center_weight=value)


def test_refusals() -> None:
    unlabelled = digits()
    unlabelled.labeled = False
    with pytest.raises(
        ConfigError, match=r"^data.labeled: PCKD reads labels, but the data have none; choose a method wit"
    ):
        method(PCKD, ce_weight=0.5).check_data(unlabelled)
    with pytest.raises(ConfigError, match=r"^data.labeled: PCKD reads labels, but the data have none, and no classes"):
        method(PCKD, student=Network("cifar_resnet8", num_classes=0))
    with pytest.raises(ConfigError, match=r"^data.mixing: PCKD needs one label per image; remove data.mixing$"):
        method(PCKD).check_data(digits(mixing=Mixing(mixup=0.5)))
    with pytest.raises(ConfigError, match="hidden: 0 is not above 0"):
        method(PCKD, hidden=0)
    two = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=VIT)
    two.model.head = nn.Sequential(two.model.head)
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224: the classifier of this network is a Sequential"):
        method(PCKD, student=two)


def test_the_layers_of_the_heads(tmp_path: Path) -> None:
    built = method(PCKD)
    assert [tuple(p.shape) for p in built.student_head.parameters()] == [(16, 16), (16,)]
    assert [tuple(p.shape) for p in built.teacher_head.parameters()] == [(64, 16), (64,)]
    layers = [layer for layer in built.alignment_head if not isinstance(layer, nn.Dropout)]
    assert [type(layer) for layer in layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert (layers[0].out_features, layers[-1].out_features) == (16 * 64, 64)
    assert method(PCKD, hidden=7).alignment_head[0].out_features == 7


def test_the_epoch_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    monkeypatch.setattr(
        pckd, "preview_weights", lambda values, *, epoch: (epochs.append(epoch.item()), torch.ones_like(values))[1]
    )
    trainer(tmp_path, max_epochs=2).fit(method(PCKD), digits(max_train_samples=20, batch_size=10, val_split=0))
    assert epochs[-4:] == [1, 1, 2, 2]
