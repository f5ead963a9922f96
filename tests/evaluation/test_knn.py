"""The kNN evaluator against scikit-learn, and through the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from kd_lightning.cli import main
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import KNN, knn_scores

COSS = f"--config={Path(__file__).parents[2] / 'configs/digits/coss.yaml'}"


@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("temperature", [0.07, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_votes_are_scikit_learns(k: int, temperature: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn((n, 8), generator=generator).to(dtype) for n in (200, 60))
    labels = torch.randint(0, 5, (200,), generator=generator)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature)

    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    theirs.fit(bank.double().numpy(), labels.numpy())
    shares = knn_scores(queries, bank, labels, k=k, temperature=temperature, classes=5)
    shares = shares / shares.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(shares.numpy(), theirs.predict_proba(queries.double().numpy()), atol=1e-4)


def test_a_list_of_ks_has_the_votes_of_each_k() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn((n, 8), generator=generator) for n in (200, 60))
    settings = {"labels": torch.randint(0, 5, (200,), generator=generator), "temperature": 0.07, "classes": 5}
    scores = knn_scores(queries, bank, k=[1, 10, 50], **settings)
    assert scores.shape == (60, 3, 5)
    for place, k in enumerate((1, 10, 50)):
        torch.testing.assert_close(scores[:, place], knn_scores(queries, bank, k=k, **settings))


def test_a_small_temperature_does_not_overflow() -> None:
    rows = torch.eye(4)
    scores = knn_scores(rows, rows, torch.arange(4), k=2, temperature=1e-3, classes=4)
    assert torch.isfinite(scores).all()
    assert torch.equal(scores.argmax(1), torch.arange(4))


def test_a_label_free_run_is_evaluated_by_neighbours_alone(tmp_path: Path) -> None:
    args = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}", "--trainer.max_epochs=6"]
    cli = main(["fit", COSS, *args, "--trainer.enable_progress_bar=false"])
    metrics = cli.trainer.callback_metrics
    assert 0.8 < metrics["test/knn"] < metrics["test/knn_teacher"]
    assert metrics["test/knn_teacher"] > 0.98
    assert not {"test/acc", "test/agreement", "val/acc"} & {*metrics}
    classifier = cli.model.student.model.get_classifier()
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    (csv,) = tmp_path.rglob("metrics.csv")
    assert "test/knn" in csv.read_text().splitlines()[0]


def test_refusals(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ConfigError, match="k: 0"):
        KNN(k=0)
    with pytest.raises(ConfigError, match="temperature: 0"):
        KNN(temperature=0)
