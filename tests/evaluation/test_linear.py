"""The linear probe against scikit-learn's own search, and what every evaluator shares."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.factories import digits, method, student, trainer, weights
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kd_lightning.cli import main
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import KNN, LinearProbe, knn_scores, network_view, read
from kd_lightning.evaluation.classifiers import logistic_scores, sgd_scores
from kd_lightning.methods import KD, CoSS, Supervised

COSS = Path(__file__).parents[2] / "configs/digits/coss.yaml"


class Blobs(NamedTuple):
    vectors: torch.Tensor
    labels: torch.Tensor


def blobs(count: int, seed: int) -> Blobs:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    centres = np.random.default_rng(0).normal(size=(4, 6)) * 1.2
    vectors = centres[labels] + generator.normal(size=(count, 6))
    return Blobs(torch.from_numpy(vectors).float() * 100 + 7, torch.from_numpy(labels))


def test_scores_are_scikit_learns_log_probabilities() -> None:
    known, asked = blobs(400, 1), blobs(200, 2)
    found = logistic_scores(*known, asked.vectors, classes=5)
    assert torch.isinf(found[:, 4]).all()  # a class that no image has
    scaler = StandardScaler().fit(known.vectors)
    theirs = []
    for strength in np.logspace(-4, 2, 7):
        fitted = LogisticRegression(C=strength, max_iter=2000).fit(scaler.transform(known.vectors), known.labels)
        theirs.append(fitted.predict_log_proba(scaler.transform(asked.vectors)))
    gaps = [np.abs(found[:, :4].numpy() - each).max() for each in theirs]
    assert min(gaps) < 0.02
    accuracies = [(each.argmax(1) == asked.labels.numpy()).mean() for each in theirs]
    assert (found.argmax(1) == asked.labels).float().mean() > max(accuracies) - 0.03


def test_sgd_ends_where_logistic_regression_does() -> None:
    """CoSS's recipe, at a rate for embeddings of this length, against scikit-learn without a penalty."""
    known, asked = (Blobs(x.vectors / 100, x.labels) for x in (blobs(512, 1), blobs(300, 2)))
    found = sgd_scores(*known, asked.vectors, classes=4, lr=0.3, epochs=300).softmax(1)
    theirs = LogisticRegression(C=np.inf, max_iter=5000).fit(*known)
    np.testing.assert_allclose(found.numpy(), theirs.predict_proba(asked.vectors), atol=0.05)
    short = [sgd_scores(*known, asked.vectors, classes=4, lr=0.3, epochs=5) for _ in range(2)]
    assert torch.equal(*short)


def test_the_strength_is_chosen() -> None:
    """Where one class is common, the weakest of all says nothing else."""
    known, asked = (blobs(count, seed) for count, seed in ((600, 3), (400, 4)))
    keep = [each.labels.eq(0) | (torch.arange(len(each.labels)) % 5 == 0) for each in (known, asked)]
    known, asked = (Blobs(each.vectors[k], each.labels[k]) for each, k in zip((known, asked), keep, strict=True))
    found = logistic_scores(*known, asked.vectors, classes=4).argmax(1)
    scaler = StandardScaler().fit(known.vectors)
    weakest = LogisticRegression(C=1e-4).fit(scaler.transform(known.vectors), known.labels)
    assert (found == asked.labels).float().mean() > weakest.score(scaler.transform(asked.vectors), asked.labels) + 0.1


def test_what_is_evaluated_is_not_what_was_learnt_from(tmp_path: Path) -> None:
    """The nearest of the training images to one of themselves would be itself."""
    run, built = trainer(tmp_path, KNN(k=1, every_n_epochs=1)), method(CoSS)
    run.fit(built, digits())
    assert 0.3 < run.callback_metrics["val/knn"] < 1
    run.test(built, digits(), verbose=False)
    assert 0.3 < run.callback_metrics["test/knn"] < 1


def test_few_images_of_a_class_are_evaluated_all_the_same() -> None:
    known = Blobs(
        torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])
    )
    assert logistic_scores(*known, torch.randn(5, 3), classes=3).shape == (5, 3)


def test_evaluators_share_one_pass_of_each_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def noted(network: torch.nn.Module, *args: object, **kwargs: object) -> network_view.Predictions:
        names.append(network.name)
        return read(network, *args, **kwargs)

    monkeypatch.setattr(network_view, "read", noted)
    both = KNN(teacher=True), LinearProbe(teacher=True)
    run, built = trainer(tmp_path, *both), method(CoSS)
    run.test(built, digits(), verbose=False)
    assert sorted(names) == ["cifar_resnet20.digits"] * 2 + ["cifar_resnet8"] * 2
    found = run.callback_metrics
    assert found["test/knn_teacher"] > 0.9 < found["test/linear_teacher"]
    assert found["test/linear"] > 0.3


def test_looking_during_training_shows_progress_and_changes_nothing(tmp_path: Path) -> None:
    students = []
    for evaluators in ((), (KNN(every_n_epochs=2), LinearProbe(every_n_epochs=2))):
        torch.manual_seed(0)
        built = method(KD, student=student())
        run = trainer(tmp_path, *evaluators, max_epochs=2)
        run.fit(built, digits(num_workers=0))
        students.append(weights(built))
    assert torch.equal(*students)
    assert 0.1 < run.callback_metrics["val/knn"] < 1
    assert 0.1 < run.callback_metrics["val/linear"] < 1


def test_what_is_evaluated_is_the_student_as_it_is_now(tmp_path: Path) -> None:
    """Evaluators that run at different epochs share no embeddings of an earlier student."""
    found = []

    class Fresh(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            data = trainer.datamodule
            bank, asked = (
                read(pl_module.student, data.in_order(s), pl_module.device, quiet=True).embedding
                for s in (data.datasets["train"], data.datasets["val"])
            )
            scores = knn_scores(asked, bank, data.datasets["train"].labels, k=10, temperature=0.07, classes=10)
            found.append((scores.argmax(1) == data.datasets["val"].labels).float().mean().item())
            pl_module.train()
            assert trainer.callback_metrics["val/knn"].item() == pytest.approx(found[-1])

    evaluators = KNN(every_n_epochs=1), LinearProbe(every_n_epochs=3), LinearProbe()
    run, built = trainer(tmp_path, *evaluators, Fresh(), max_epochs=4), method(KD, student=student())
    data = digits()
    run.fit(built, data)
    assert len({*found}) > 1
    run.test(built, data, verbose=False)
    fresh = trainer(tmp_path, KNN())
    fresh.test(built, digits(), verbose=False)
    assert run.callback_metrics["test/knn"] == fresh.callback_metrics["test/knn"]


def test_the_last_epoch_is_evaluated_whatever_the_interval(tmp_path: Path) -> None:
    run = trainer(tmp_path, KNN(every_n_epochs=5), max_epochs=2)
    run.fit(method(CoSS), digits())
    assert "val/knn" in run.callback_metrics


def test_a_run_without_labels_is_evaluated_by_other_images(tmp_path: Path) -> None:
    """The small labelled set beside many images without labels."""
    from PIL import Image

    bare = tmp_path / "bare"
    bare.mkdir()
    pictures = digits()
    pictures.setup("fit")
    images = pictures.datasets["train"].take(torch.arange(100)).images
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(bare / f"{number}.png")
    data = ["--data=ImageFolder", f"--data.path={bare}", "--data.labeled=false", "--data.batch_size=50"]
    labelled = "{class_path: Digits, init_args: {max_train_samples: 100, batch_size: 50}}"
    knn = f"--trainer.callbacks=[{{class_path: KNN, init_args: {{data: {labelled}}}}}]"
    model = ["--model=CoSS", "--model.teacher={name: cifar_resnet20.digits, pretrained: true}"]
    model += ["--model.student={name: cifar_resnet8}"]
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}"]
    run = main(["fit", *data, "--data.augmentations=[]", *model, knn, "--trainer.max_epochs=2", *fixed])
    assert 0.2 < run.trainer.callback_metrics["val/knn"] < 1
    (csv,) = (tmp_path / "runs").rglob("metrics.csv")
    assert "val/knn" in csv.read_text().splitlines()[0]


def test_refusals_before_the_first_step(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ConfigError, match="max_iter: 0"):
        LinearProbe(max_iter=0)
    with pytest.raises(ConfigError, match="every_n_epochs: -1"):
        KNN(every_n_epochs=-1)
    fixed = [f"--config={COSS}", "--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}"]
    many = "--trainer.callbacks=[{class_path: KNN, init_args: {k: 5000}}]"
    with pytest.raises(SystemExit):
        main(["fit", *fixed, many])
    assert "KNN.k: 5000 is given, but there are only" in capfd.readouterr().err
    often = "--trainer.callbacks=[{class_path: LinearProbe, init_args: {every_n_epochs: 1}}]"
    with pytest.raises(SystemExit):
        main(["fit", *fixed, often, "--data.val_split=0"])
    assert "LinearProbe.every_n_epochs: there are no validation images" in capfd.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_supervised_students_are_evaluated_as_well(tmp_path: Path) -> None:
    run = trainer(tmp_path, KNN(teacher=True))
    run.test(Supervised(student=student()), digits(), verbose=False)
    assert {"test/knn", "test/acc"} <= {*run.callback_metrics}
    assert "test/knn_teacher" not in run.callback_metrics
