"""CoSS: golden values, two wrong variants, the invariances of each term, and training without labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.factories import digits, method, trainer
from helpers.golden import student, teacher
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
from kd_lightning.methods import CoSS
from kd_lightning.methods.coss import coss_loss, feature_similarity_loss, space_similarity_loss
from kd_lightning.models import Network, Reads

CO, SS = -0.3607743893165766, -0.3430859615961995


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-12)


def test_golden_values() -> None:
    ours, theirs = student(6, 4), teacher(6, 4)
    assert feature_similarity_loss(ours, theirs).item() == near(CO)
    assert space_similarity_loss(ours, theirs).item() == near(SS)
    assert coss_loss(ours, theirs, scale=1).item() == near(-0.7038603509127761)
    assert coss_loss(ours, theirs, scale=1, space_weight=0.5).item() == near(-0.5323173701146764)
    assert coss_loss(ours, theirs).item() == near(-49.270224563894324)
    assert coss_loss(ours, theirs, scale=1 / 0.007).item() == near(-100.55147870182515)
    assert feature_similarity_loss(ours[:1], theirs[:1]).item() == near(-0.898315603423085)
    assert space_similarity_loss(ours[:1], theirs[:1]).item() == near(-0.5)


def test_each_term_is_blind_to_what_the_other_sees() -> None:
    theirs = teacher(6, 4)
    rows, columns = theirs * torch.arange(1, 7)[:, None], theirs * torch.arange(1, 5)
    assert feature_similarity_loss(rows, theirs).item() == near(-1)
    assert space_similarity_loss(rows, theirs).item() == near(-0.8972064538757037)
    assert feature_similarity_loss(columns, theirs).item() == near(-0.9124232010697316)
    assert space_similarity_loss(columns, theirs).item() == near(-1)


def test_columns_are_of_features_as_they_are() -> None:
    """Two variants in circulation have other values: they normalise the rows first or centre the columns (Pearson)."""
    ours, theirs = student(6, 4), teacher(6, 4)
    rows = -F.cosine_similarity(F.normalize(ours), F.normalize(theirs), dim=0).mean().item()
    centred = -F.cosine_similarity(ours - ours.mean(0), theirs - theirs.mean(0), dim=0).mean().item()
    for wrong in (rows, centred):
        assert abs(wrong - SS) > 1e-3


def test_equals_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn((2, 9, 5), dtype=torch.float64, generator=generator)

    def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]))

    assert feature_similarity_loss(ours, theirs).item() == near(-mean_cosine(ours.numpy(), theirs.numpy()))
    assert space_similarity_loss(ours, theirs).item() == near(-mean_cosine(ours.numpy().T, theirs.numpy().T))


def test_a_dead_dimension_of_the_teacher_or_the_student_teaches_nothing() -> None:
    ours, theirs = student(6, 4).requires_grad_(), teacher(6, 4)
    theirs[:, 1] = 0
    space_similarity_loss(ours, theirs).backward()
    assert (ours.grad[:, 1] == 0).all()
    assert ours.grad[:, 0].abs().min() > 0
    dead = torch.where(torch.arange(4) == 2, 0.0, ours.detach()).requires_grad_()
    space_similarity_loss(dead, theirs).backward()
    assert torch.isfinite(dead.grad).all()
    assert (dead.grad[:, 2] == 0).all()


def network(width: int = 64) -> Network:
    return Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [16, 16, 32, width]})


def taught(**kwargs: object) -> CoSS:
    return CoSS(teacher=Network("cifar_resnet20.digits", pretrained=True), **kwargs)


def test_the_head_is_there_where_widths_differ_alone() -> None:
    assert isinstance(taught(student=network(64)).head, nn.Identity)
    head = taught(student=network(16), hidden=7).head
    assert [tuple(p.shape) for p in head.parameters()] == [(7, 16), (7,), (64, 7), (64,)]
    assert taught(student=network(), scale="released").scale == pytest.approx(142.857, abs=1e-3)
    with pytest.raises(ConfigError, match="hidden: 0"):
        taught(student=network(), hidden=0)


def test_the_terms_sum_to_the_loss() -> None:
    built = method(CoSS, scale=3.0, space_weight=0.5).eval()
    images, rows = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8), torch.arange(9)
    losses = built.training_terms(Batch(images, rows, rows, rows))
    ours = built.head(built.student.features(images, embedding=True).embedding)
    theirs = built.teacher_features(images, Reads(embedding=True)).embedding
    torch.testing.assert_close(sum(losses.values()), coss_loss(ours, theirs, scale=3.0, space_weight=0.5))


def test_small_batches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and 1 is too few"):
        trainer(tmp_path).fit(taught(student=network()), digits(batch_size=1))
    with pytest.warns(UserWarning, match="over 16 images is noisy"):
        taught(student=network()).check_data(digits(batch_size=16))


def agreement_of_neighbours(one: Tensor, other: Tensor) -> float:
    near = [(F.normalize(x) @ F.normalize(x).T).fill_diagonal_(-2).topk(5).indices for x in (one, other)]
    return (near[0][:, :, None] == near[1][:, None, :]).any(dim=2).float().mean().item()


@pytest.mark.e2e
def test_without_labels_the_student_comes_to_have_the_teachers_neighbours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # with SGD at the learning rate of long runs, this small head's weights grow until training stalls
    method = taught(student=network(32), optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3))
    data = Digits(batch_size=64)
    data.setup("test")
    images = data.datasets["test"].take(torch.arange(360)).images

    def evaluated() -> float:
        with torch.no_grad():
            seen = [n.eval().features(images, embedding=True).embedding for n in (method.student, method.teacher)]
        return agreement_of_neighbours(*seen)

    before = evaluated()
    assert not method.needs_labels
    trainer(tmp_path, max_epochs=6).fit(method, data)
    assert evaluated() > before + 0.1
