"""Wrong settings of evaluators, and data that they cannot judge, are refused with the name of the field."""

import pytest
import torch
from helpers.factories import digits

from kd_lightning.data import RandomImages
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import (
    KNN,
    Corruptions,
    Cost,
    Evaluator,
    Faithfulness,
    FewShot,
    OutOfDistribution,
    Retrieval,
    Shifts,
    Transfer,
)
from kd_lightning.evaluation.few_shot import sample_per_class


def test_few_shots_of_a_rare_class_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"FewShot.shots: 3 .* class 1 has 2"):
        sample_per_class(torch.tensor([0, 0, 0, 1, 1]), 3, 0)


def test_names_to_leave_out_that_no_data_have_are_refused() -> None:
    data, other = digits(), RandomImages(images=200, size=8, classes=2)
    with pytest.raises(ConfigError, match="no data set has a class 'randm 1'; nearest: random 1"):
        OutOfDistribution(data=[other], exclude=["randm 1"]).prepare(data)
    with pytest.raises(ConfigError, match="all classes of random are excluded"):
        OutOfDistribution(data=[other], exclude=["random 0", "Random 1"]).prepare(data)


def test_names_that_sound_known_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = digits(), RandomImages(images=20, size=8, classes=2)
    data.class_names, other.class_names = ["cat", "ship"], ["Egyptian cat", "viaduct"]
    said: list[str] = []
    monkeypatch.setattr("kd_lightning.evaluation.ood.rank_zero_warn", said.append)
    OutOfDistribution(data=[other])._check_classes(data, other)
    assert "1 classes of random have names similar to known classes (Egyptian cat)" in said[0]
    other.class_names = ["tabby, cat", "viaduct"]
    with pytest.raises(ConfigError, match="tabby, cat"):
        OutOfDistribution(data=[other])._check_classes(data, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNN(k=[]), "KNN.k"),
        (lambda: KNN(k=[5, 5]), "must contain at least one number of neighbours, and each number only once"),
        (lambda: FewShot(shots=0), "FewShot.shots: 0"),
        (lambda: Retrieval(k=[0]), "Retrieval.k: 0"),
        (lambda: Transfer(to=[]), "Transfer.to"),
        (lambda: OutOfDistribution(data=[]), "OutOfDistribution.data"),
        (lambda: OutOfDistribution(data=[digits(), digits()]), "each name may occur only once"),
        (lambda: Corruptions(names=["frog"]), "there is no corruption 'frog'; nearest: fog"),
        (lambda: Corruptions(severities=[6]), "6 is not a whole number from 1 to 5"),
        (lambda: Corruptions(images=0), "images: 0"),
        (lambda: Shifts(folders={}), "Shifts.folders"),
        (lambda: Cost(repeats=0), "Cost.repeats: 0"),
        (lambda: Cost(batch_sizes=[0]), "Cost.batch_sizes: 0"),
        (lambda: Faithfulness(k=[0]), "Faithfulness.k: 0"),
        (lambda: Faithfulness(batch_size=0), "Faithfulness.batch_size: 0"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def unlabelled() -> RandomImages:
    data = RandomImages(images=500, classes=10)
    data.labeled = False
    return data


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (KNN(), "^KNN: the run's images have no labels, which KNN needs; remove KNN, or give labelled data as its"),
        (Shifts(folders={"a": "b"}), "^Shifts: the run's images have no labels, which Shifts needs; remove Shifts$"),
        (KNN(data=unlabelled()), "^KNN.data: random has no labels, which KNN needs; give labelled data$"),
    ],
)
def test_images_without_labels(evaluator: Evaluator, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(evaluator), "prepare", lambda *args: None)
    with pytest.raises(ConfigError, match=message):
        evaluator.check_data(unlabelled())


class ReturnsDict(Evaluator):
    """An evaluator that returns its numbers without `EvaluationResult`."""

    def evaluate(self, view: object) -> dict[str, float]:
        return {"one": 1.0}


def test_an_evaluator_that_returns_no_result_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^ReturnsDict\.evaluate returned dict; return EvaluationResult\(values\)$"):
        ReturnsDict()._evaluated(None)
