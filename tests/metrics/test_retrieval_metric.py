"""retrieval against scikit-learn and torchmetrics, query by query, and its edges."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor
from torchmetrics.retrieval import RetrievalMAP

from kd_lightning.errors import ConfigError
from kd_lightning.metrics import cosines, retrieval

KS = (1, 5, 10)


def some(images: int = 90, classes: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=generator)
    centres = torch.randn((classes, 7), generator=generator)
    return centres[labels] + 1.2 * torch.randn((images, 7), generator=generator), labels


def expected(queries: Tensor, labels: Tensor, bank: Tensor, known: Tensor, *, itself: bool) -> dict[str, float]:
    near = cosine_similarity(queries.double(), bank.double())
    precisions, firsts = [], []
    for query, row in enumerate(near):
        others = [n for n in range(len(bank)) if itself or n != query]
        right = np.array([known[n] == labels[query] for n in others])
        if right.any():
            precisions.append(average_precision_score(right, row[others]))
            firsts.append(next(n for n, other in enumerate(np.argsort(-row[others])) if right[other]))
    return {"map": np.mean(precisions)} | {f"recall_{k}": np.mean([first < k for first in firsts]) for k in KS}


@pytest.mark.parametrize("floats", [1, 1000, 1 << 24])
def test_every_query_by_scikit_learn(floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_FLOATS", floats)
    vectors, labels = some()
    labels[11] = 77  # alone in its class: it asks nothing
    found = retrieval(vectors, labels, KS)
    assert found == pytest.approx(expected(vectors, labels, vectors, labels, itself=False), abs=1e-9)
    assert 0.3 < found["map"] < 0.9
    assert found["recall_1"] < found["recall_5"] < found["recall_10"]
    bank, known = some(130)
    found = retrieval(vectors, labels, KS, bank=bank, bank_labels=known)
    assert found == pytest.approx(expected(vectors, labels, bank, known, itself=True), abs=1e-9)


def test_torchmetrics_mean_average_precision() -> None:
    vectors, labels = some()
    near = torch.from_numpy(cosine_similarity(vectors)) + 2  # torchmetrics takes scores below 0 for not relevant
    rows, columns = torch.nonzero(~torch.eye(90, dtype=torch.bool), as_tuple=True)
    value = RetrievalMAP(empty_target_action="skip")(near[rows, columns], labels[rows] == labels[columns], rows)
    assert retrieval(vectors, labels)["map"] == pytest.approx(value.item(), abs=1e-6)


def test_the_first_of_those_that_are_equally_near() -> None:
    many = torch.ones(400, 1)
    labels = torch.randint(3, (400,), generator=torch.Generator().manual_seed(0))
    orders = [[n for n in range(400) if n != query] for query in range(400)]
    first = np.mean([labels[order[0]] == labels[query] for query, order in enumerate(orders)])
    precise = [average_precision_score(labels[order] == labels[n], range(399, 0, -1)) for n, order in enumerate(orders)]
    assert retrieval(many, labels, (1,)) == pytest.approx({"map": np.mean(precise), "recall_1": first}, abs=1e-9)
    vectors = torch.tensor([[1.0, 0.0]] * 4)
    # each ranks the others in their order: 0: 1 2 3, 1: 0 2 3, 2: 0 1 3, 3: 0 1 2
    found = retrieval(vectors, torch.tensor([0, 1, 1, 0]), (1, 2))
    assert found == pytest.approx({"map": (1 / 3 + 1 / 2 + 1 / 2 + 1) / 4, "recall_1": 0.25, "recall_2": 0.75})


def test_unlabelled_images_are_ranked_but_ask_nothing() -> None:
    vectors, labels = some()
    labels[:30] = -1
    without = expected(vectors[30:], labels[30:], vectors[30:], labels[30:], itself=False)
    found = retrieval(vectors, labels, KS)
    assert found["map"] < without["map"]
    own = torch.where(labels < 0, torch.arange(90) + 100, labels)
    assert found == pytest.approx(expected(vectors, own, vectors, labels, itself=False))


def test_extremes() -> None:
    vectors, labels = some()
    exact = retrieval(vectors, labels)["map"]
    for dtype in (torch.bfloat16, torch.float16):
        assert retrieval(vectors.to(dtype), labels)["map"] == pytest.approx(exact, abs=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert retrieval(vectors, labels)["map"] == exact
    for scale in (1e-30, 1e30):
        assert retrieval(vectors * scale, labels)["map"] == pytest.approx(exact, abs=1e-3)
    for constant in (torch.zeros(90, 3), torch.full((90, 3), 0.1)):
        assert 0 < retrieval(constant, labels)["map"] < 1
    assert retrieval(vectors, labels % 2, (1, 1000))["recall_1000"] == 1
    for few in (0, 1):
        assert math.isnan(retrieval(vectors[:few], labels[:few])["map"])
    found = retrieval(torch.full_like(vectors, math.nan), labels)
    assert all(map(math.isnan, found.values()))
    assert {*found} == {"map", "recall_1", "recall_5", "recall_10"}
    with pytest.raises(ConfigError, match="k: 0"):
        retrieval(vectors, labels, (0,))
    with pytest.raises(ConfigError, match="labels: 89 and 89 labels are given for 90 and 90"):
        retrieval(vectors, labels[1:])
    with pytest.raises(ConfigError, match="bank_labels"):
        retrieval(vectors, labels, bank=vectors)
    with pytest.raises(ConfigError, match="embeddings"):
        retrieval(vectors, labels, bank=vectors[:, 1:], bank_labels=labels)
