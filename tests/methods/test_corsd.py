"""CORSD: golden value, pairs, gradients that stop at the deepest layer, exits, and errors."""

import inspect

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cross_entropy, mixed_cross_entropy
from kd_lightning.methods import CORSD
from kd_lightning.methods import corsd as module
from kd_lightning.methods.corsd import Relation, pairs, relation_distance
from kd_lightning.models import Network


def relation() -> Relation:
    """A relation network with golden weights."""
    built = Relation(5, 4, 3).double()
    first, second = (layer for layer in built.network if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        for number, layer in ((1, first), (2, second)):
            layer.weight.copy_(golden.weight(number, *layer.weight.shape))
            layer.bias.copy_(golden.bias(number, len(layer.bias)))
    assert (first.weight.shape, second.weight.shape) == ((8, 10), (4, 8))
    return built


def test_golden_value() -> None:
    network = relation()

    def loss(shallow: Tensor, deep: Tensor) -> Tensor:
        return relation_distance(network(shallow), network(deep))

    golden.check(loss, (golden.student(6, 5), golden.teacher(6, 5)), 0.03786042641, 0.078869689)


def test_pairs_are_neighbours_in_the_batch() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert pairs(rows).tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 1, 2]]
    order = torch.tensor([1, 2, 0])  # a rotation keeps the pairs, but not another order
    torch.testing.assert_close(pairs(rows[order]), pairs(rows)[order])
    assert pairs(rows[[0, 2, 1]]).tolist() != pairs(rows)[[0, 2, 1]].tolist()


def test_the_classifier_of_relations_predicts_the_classes_of_both_images() -> None:
    network = relation()
    relations, labels = golden.student(3, 4), torch.tensor([2, 0, 1])
    logits = network.classifier(relations)
    first, second = logits[:, :3], logits[:, 3:]
    expected = (cross_entropy(first, labels) + cross_entropy(second, torch.tensor([0, 1, 2]))) / 2
    torch.testing.assert_close(network.class_loss(relations, labels, None, None), expected)
    mixed = (labels, torch.tensor([1, 1, 2]), torch.tensor([0.2, 0.5, 0.9]).double())
    rolled = (torch.tensor([0, 1, 2]), torch.tensor([1, 2, 1]), torch.tensor([0.5, 0.9, 0.2]).double())
    expected = (mixed_cross_entropy(first, *mixed) + mixed_cross_entropy(second, *rolled)) / 2
    torch.testing.assert_close(network.class_loss(relations, *mixed), expected)


def batch(side: int = 8) -> Batch:
    rows = torch.arange(6)
    images = torch.randint(0, 256, (6, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, rows % 10, rows, rows)


def reached(built: CORSD, term: str) -> set[str]:
    """Names of the parts of the method, and of the last stage, that the gradient of a term reaches."""
    named = dict(built.named_parameters())
    found = torch.autograd.grad(built.training_terms(batch())[term], [*named.values()], allow_unused=True)
    parts = ("heads", "relations.1.", "relations.2.", "student.model.layer3", "student.model.fc")
    names = [name for name, gradient in zip(named, found, strict=True) if gradient is not None]
    return {part for part in parts if any(name.startswith(part) for name in names)}


def test_no_gradient_of_what_is_transferred_reaches_the_deepest_layer() -> None:
    built = method(CORSD)
    assert reached(built, "heads") == reached(built, "heads_kd") == {"heads"}
    assert reached(built, "relation") == {"heads", "relations.2."}
    assert reached(built, "relation_class") == {"heads", "relations.1.", "relations.2.", "student.model.layer3"}
    assert reached(built, "ce") == {"student.model.layer3", "student.model.fc"}


@pytest.mark.parametrize("side", [8, 13])
def test_the_heads_end_at_the_size_of_the_last_map(side: int) -> None:
    built = method(CORSD)
    last = built.student.stage_map(batch(side).images, 1)
    for number in (3, 2):
        bottleneck = built.heads[str(number)].embed
        sizes = []
        bottleneck[-1].register_forward_hook(lambda layer, given, output, sizes=sizes: sizes.append(output.shape[-2:]))
        embedding = bottleneck(built.student.stage_map(batch(side).images, number))
        assert sizes == [last.shape[-2:]]
        assert embedding.shape == (6, built.student.embedding_width)


def test_it_has_no_teacher_and_all_its_terms_are_learnt() -> None:
    torch.manual_seed(0)
    built, given = method(CORSD), batch()
    assert not isinstance(built, Distiller)
    assert not hasattr(built, "teacher")
    optimizer = torch.optim.AdamW(built.parameters(), lr=0.01)
    seen = []
    for _ in range(40):
        terms = built.training_terms(given)
        seen.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert {*seen[0]} == {"ce", "heads", "heads_kd", "relation", "relation_class"}
    for name in ("ce", "heads", "relation_class"):
        assert seen[-1][name] < 0.5 * seen[0][name], name
    assert {*built.exits} == {3, 2}
    assert not any("heads" in name for name in built.deployed.state_dict())


def test_the_docstrings_say_first_that_the_paper_could_not_be_read() -> None:
    for text in (inspect.getdoc(module), inspect.getdoc(CORSD)):
        assert text.split("\n\n")[1].startswith("The body of the paper could not be read")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [1, 2]}, r"stages: 1 is given, but cifar_resnet8 has 4 stages, .* choose 2 to 4"),
        ({"relation_width": 0}, "relation_width: 0 is not above 0"),
        ({"ce_weight": 0.0}, "ce_weight: 0 is given, but the heads learn from the final classifier"),
        ({"relation_class_weight": 0.0}, "relation_class_weight: 0 is given, but the stages learn the relations"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(CORSD, **arguments)


def test_without_the_final_classifiers_labels_no_accuracy_is_logged() -> None:
    assert not method(CORSD, ce_weight=0.0, heads_kd_weight=0.0).trains_classifier
    assert method(CORSD).trains_classifier


def test_labels_are_needed() -> None:
    data = digits()
    data.labeled = False
    with pytest.raises(ConfigError, match=r"^data.labeled: CORSD reads labels, but the data have none; choose a met"):
        method(CORSD).check_data(data)
    assert method(CORSD, ce_weight=0.0, heads_kd_weight=0.0).needs_labels
    with pytest.raises(ConfigError, match=r"^data.labeled: heads on stages learn from labels, but the data have no"):
        method(CORSD, student=Network("cifar_resnet8", num_classes=0))
