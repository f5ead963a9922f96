"""CPCL: golden values, the two targets, the passes of the networks, the head, and training without labels."""

from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, trainer, with_views
from helpers.golden import check, student, teacher
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.errors import ConfigError
from kd_lightning.methods import CPCL
from kd_lightning.methods.cpcl import principal_component_loss, projection_loss
from kd_lightning.models import Network


@pytest.mark.parametrize(("k", "value", "gradient"), [(1.0, 0.6310938364, 1.4203875), (2.0, 1.685207877, 1.4682262)])
def test_golden_values_of_the_views(k: float, value: float, gradient: float) -> None:
    check(lambda one, other: principal_component_loss(one, other, k=k), (teacher(6, 5), student(6, 5)), value, gradient)


def test_golden_values_of_the_projection() -> None:
    target = (teacher(6, 5) + student(6, 5)) / 2

    def both(embedding: Tensor) -> tuple[Tensor, Tensor]:
        return projection_loss(embedding, target), projection_loss(embedding, target, normalized=True)

    check(both, (student(6, 5, 1),), [0.4592513737, 0.2017081233], 0.31346044)


def test_the_views_equal_loops() -> None:
    views = [teacher(4, 3), student(4, 3)]
    rows = [(number, row / row.norm()) for view in views for number, row in enumerate(view)]
    pairs = [(a == b, (u @ v / 0.2).item()) for i, (a, u) in enumerate(rows) for j, (b, v) in enumerate(rows) if i != j]
    positives = [value for same, value in pairs if same]
    negatives = [value**2 for same, value in pairs if not same]
    expected = -2 * sum(positives) / len(positives) + 3 * sum(negatives) / len(negatives)
    assert principal_component_loss(*views, temperature=0.2, k=3.0).item() == pytest.approx(expected, rel=1e-12)
    assert principal_component_loss(*reversed(views), temperature=0.2, k=3.0).item() == pytest.approx(
        expected, rel=1e-12
    )
    scaled = principal_component_loss(views[0] * torch.arange(1, 5)[:, None], views[1], temperature=0.2, k=3.0)
    assert scaled.item() == pytest.approx(expected, rel=1e-12)


def test_it_is_least_where_views_agree_and_images_are_orthogonal() -> None:
    own = torch.eye(4, dtype=torch.float64)
    assert principal_component_loss(own, own).item() == pytest.approx(-4)
    assert principal_component_loss(own, own[[1, 0, 2, 3]]) > -4
    assert principal_component_loss(own[:1], own[:1]).item() == pytest.approx(-4)  # one image has no negatives


def batch(count: int = 6) -> Batch:
    rows = torch.arange(count)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return with_views(Batch(images, rows, rows, rows))


@pytest.mark.parametrize("target", ["teacher", "views"])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_terms_are_those_of_the_functions(target: str, normalized: bool) -> None:
    given = batch()
    settings = {"temperature": 0.3, "k": 2.0, "principal_weight": 0.5, "projection_weight": 3.0}
    built = method(CPCL, target=target, normalized=normalized, **settings).eval()
    terms = built.training_terms(given)
    with torch.no_grad():
        first, *views = (
            built.head(built.student.features(images, embedding=True).embedding)
            for images in (given.images, given.views[0], given.views[1])
        )
        other = built.teacher.features(given.images, embedding=True).embedding
        goal = other if target == "teacher" else (views[0] + views[1]) / 2
        expected = {
            "principal": 0.5 * principal_component_loss(*views, temperature=0.3, k=2.0),
            "projection": 3 * projection_loss(first, goal, normalized=normalized),
        }
    assert {*terms} == {*expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value)


def test_no_gradient_flows_through_the_targets() -> None:
    """Only the pass of the first view gets a gradient from the projection."""
    given = batch()
    built = method(CPCL, target="views", principal_weight=0.0).eval()
    built.training_terms(given)["projection"].backward()
    gradients = [parameter.grad.clone() for parameter in built.head.parameters()]
    built.zero_grad()
    first = built.head(built.student.features(given.images, embedding=True).embedding)
    with torch.no_grad():
        views = [built.head(built.student.features(view, embedding=True).embedding) for view in given.views[:2]]
    projection_loss(first, (views[0] + views[1]) / 2).backward()
    for gradient, parameter in zip(gradients, built.head.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [({}, 1), ({"target": "views"}, 0), ({"target": "views", "kd_weight": 1.0}, 1)],
)
def test_the_teacher_runs_only_if_it_teaches(settings: dict, passes: int) -> None:
    built, given = method(CPCL, **settings), batch()
    inputs = built.inputs(given)
    assert all(map(torch.equal, inputs.student, (given.images, given.views[0], given.views[1])))
    assert len(inputs.teacher) == passes
    assert all(images is given.images for images in inputs.teacher)
    assert {*built.training_terms(given)} == {"principal", "projection"} | (
        {"kd"} if "kd_weight" in settings else set()
    )


def test_the_head() -> None:
    wide = {"name": "cifar_resnet8", "num_classes": 10, "model_kwargs": {"channels": [4, 4, 8, 64]}}
    assert isinstance(method(CPCL, student=Network(**wide)).head, nn.Identity)
    for settings, widths in (
        ({}, [(16, 16), (16, 64)]),
        ({"hidden": 7}, [(16, 7), (7, 64)]),
        ({"hidden": 0}, [(16, 64)]),
        ({"target": "views"}, [(16, 16), (16, 128)]),
        ({"target": "views", "student": Network(**wide)}, [(64, 64), (64, 128)]),
    ):
        layers = [layer for layer in method(CPCL, **settings).head.modules() if isinstance(layer, nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in layers] == widths


def test_only_the_head_of_the_teachers_target_maps_into_the_teachers_space() -> None:
    built = method(CPCL)
    assert built.to_teacher is built.head
    assert method(CPCL, target="views").to_teacher is None


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^data.views: CPCL needs at least 3 views of each image, and 2 is too few$"):
        method(CPCL).check_data(digits(views=2))
    with pytest.raises(ConfigError, match="CPCL needs at least 2 images per batch, and 1 is too few"):
        method(CPCL).check_data(digits(batch_size=1))
    assert method(CPCL, principal_weight=0.0).min_batch_size == 1
    with pytest.raises(ConfigError, match="hidden: -1 is negative"):
        method(CPCL, hidden=-1)


@pytest.mark.parametrize("target", ["teacher", "views"])
def test_it_trains_on_images_without_labels(target: str, tmp_path: Path) -> None:
    built, data = method(CPCL, target=target), digits()
    data.labeled = False
    run = trainer(tmp_path, TeacherAgreement())
    run.fit(built, data)
    assert not built.needs_labels
    assert "val/neighbors" in run.callback_metrics
    assert ("val/cosine" in run.callback_metrics) == (target == "teacher")
