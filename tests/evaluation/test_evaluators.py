"""Results of the evaluators against values computed by other means, on real digits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.factories import digits, method, trainer
from lightning.pytorch import Callback
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, confusion_matrix, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.data import Digits, ImageFolder, RandomImages
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import (
    KNN,
    Classification,
    Corruptions,
    Cost,
    Evaluator,
    Faithfulness,
    FewShot,
    OutOfDistribution,
    Retrieval,
    Shifts,
    Transfer,
    read,
)
from kd_lightning.evaluation.few_shot import sample_per_class
from kd_lightning.evaluation.ood import histograms
from kd_lightning.evaluation.robustness import relative_error
from kd_lightning.methods import KD, CoSS, EmbedDistill, SimReg
from kd_lightning.models import Network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudentModule:
    """A student that is right on most of the digits."""
    torch.manual_seed(0)
    built = method(KD)
    trainer(tmp_path_factory.mktemp("run"), max_epochs=15).fit(built, digits(max_train_samples=400))
    return built


def evaluated(
    folder: Path, built: StudentModule, *evaluators: Evaluator | Callback, data: Digits | None = None
) -> dict[str, float]:
    run = trainer(folder, *evaluators)
    data = data or digits(max_train_samples=400)
    data.checks += [evaluator.prepare for evaluator in evaluators if isinstance(evaluator, Evaluator)]
    run.test(built, data, verbose=False)
    return {key: float(value) for key, value in run.callback_metrics.items()}


def seen(built: StudentModule, split: str = "test", network: str = "student") -> tuple[np.ndarray, ...]:
    data = digits(max_train_samples=400)
    data.setup("test" if split == "test" else "fit")
    found = read(getattr(built, network), data.in_order(data.datasets[split]), torch.device("cpu"), quiet=True)
    return tuple(part.double().numpy() if part.is_floating_point() else part.numpy() for part in found)


def test_classification(tmp_path: Path, trained: StudentModule) -> None:
    evaluator = Classification()
    found = evaluated(tmp_path, trained, evaluator)
    _, logits, labels, indices = seen(trained)
    shares = softmax(logits, axis=1)
    assert found["test/nll"] == pytest.approx(log_loss(labels, shares), rel=1e-5)
    assert found["test/brier"] == pytest.approx(((shares - np.eye(10)[labels]) ** 2).sum(1).mean(), rel=1e-5)
    top5 = np.mean([label in row.argsort()[-5:] for row, label in zip(logits, labels, strict=True)])
    assert found["test/top5"] == pytest.approx(top5)
    assert evaluator.result.details["confusion"] == confusion_matrix(labels, logits.argmax(1)).tolist()
    right = [(logits.argmax(1) == labels)[labels == k].mean() for k in range(10)]
    assert evaluator.result.details["per_class"]["accuracy"] == pytest.approx(right)
    assert np.average(right, weights=evaluator.result.details["per_class"]["count"]) == pytest.approx(found["test/acc"])
    _, theirs, labels, _ = seen(trained, network="teacher")
    assert found["test/acc_teacher"] == pytest.approx((theirs.argmax(1) == labels).mean())
    assert found["test/nll_teacher"] == pytest.approx(log_loss(labels, softmax(theirs, axis=1)), rel=1e-4)
    assert evaluator.result.samples["indices"].tolist() == indices.tolist()
    assert evaluator.result.samples["prediction"].tolist() == logits.argmax(1).tolist()
    assert evaluator.result.samples["teacher_prediction"].tolist() == theirs.argmax(1).tolist()
    np.testing.assert_allclose(evaluator.result.samples["confidence"].numpy(), shares.max(1), rtol=1e-5)


def test_the_temperature_is_fitted_on_validation_images(tmp_path: Path, trained: StudentModule) -> None:
    evaluator = Classification(teacher=False)
    found = evaluated(tmp_path, trained, evaluator)
    _, held_out, known, _ = seen(trained, "val")
    temperatures = np.geomspace(0.05, 20, 600)
    losses = [log_loss(known, softmax(held_out / t, axis=1)) for t in temperatures]
    best = temperatures[int(np.argmin(losses))]
    assert evaluator.result.details["calibration"]["temperature"] == pytest.approx(best, rel=0.01)
    _, logits, labels, _ = seen(trained)
    assert found["test/nll_scaled"] == pytest.approx(log_loss(labels, softmax(logits / best, axis=1)), rel=1e-3)
    assert found["test/nll_scaled"] != pytest.approx(found["test/nll"], rel=1e-3)
    without = evaluated(tmp_path, trained, Classification(), data=digits(max_train_samples=400, val_split=0))
    assert "test/ece" in without
    assert "test/ece_scaled" not in without


def test_faithfulness(tmp_path: Path, trained: StudentModule) -> None:
    found = evaluated(tmp_path, trained, Faithfulness(k=[1, 7], batch_size=90), TeacherAgreement())
    ours, logits, labels, _ = seen(trained)
    theirs, teacher, *_ = seen(trained, network="teacher")
    shares, others = softmax(teacher, axis=1), logits - logsumexp(logits, axis=1, keepdims=True)
    log_shares = teacher - logsumexp(teacher, axis=1, keepdims=True)
    assert found["test/kl"] == pytest.approx((shares * (log_shares - others)).sum(1).mean(), rel=1e-4)
    errs = teacher.argmax(1) != labels
    same = logits.argmax(1) == teacher.argmax(1)
    assert found["test/agreement_teacher_errs"] == pytest.approx(same[errs].mean())
    assert found["test/agreement"] == pytest.approx(same.mean())
    for k in (1, 7):
        assert found[f"test/neighbors_{k}"] == pytest.approx(_overlap(ours, theirs, k), abs=2e-3)
    distances = []
    for start in range(0, 360, 90):
        grams = [x[start : start + 90] @ x[start : start + 90].T for x in (ours, theirs)]
        first, second = (gram / np.linalg.norm(gram, axis=1, keepdims=True) for gram in grams)
        distances.append(((first - second) ** 2).sum() / 90**2)
    assert found["test/sp_distance"] == pytest.approx(np.mean(distances), rel=1e-4)


def _overlap(ours: np.ndarray, theirs: np.ndarray, k: int) -> float:
    near = []
    for x in (ours, theirs):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        likeness = x @ x.T
        np.fill_diagonal(likeness, -2)
        near.append([{*row.argsort()[-k:]} for row in likeness])
    return float(np.mean([len(a & b) / k for a, b in zip(*near, strict=True)]))


@pytest.mark.parametrize("kind", [EmbedDistill, SimReg])
def test_retrieval_in_the_teachers_gallery(kind: type[StudentModule], tmp_path: Path) -> None:
    """EmbedDistill deploys its head, and SimReg has it only during training."""
    built = method(kind)
    found = evaluated(tmp_path, built, Retrieval(k=[1, 3], gallery="teacher", teacher=True))
    assert "test/map" not in found
    gallery, _, classes, _ = seen(built, "train", network="teacher")
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    own, _, labels, _ = seen(built)
    queries = built.eval().head(torch.from_numpy(own).float()).detach().numpy()
    for vectors, ending in ((queries, ""), (seen(built, network="teacher")[0], "_teacher")):
        ranks = (vectors @ gallery.T).argsort(axis=1)[:, ::-1]
        hits = classes[ranks] == labels[:, None]
        precisions = [average_precision_score(row, -np.arange(len(row))) for row in hits]
        assert found[f"test/map_asymmetric{ending}"] == pytest.approx(np.mean(precisions), abs=1e-3)
        assert found[f"test/recall_3_asymmetric{ending}"] == pytest.approx(hits[:, :3].any(1).mean(), abs=0.01)
    with pytest.raises(ConfigError, match=r"Retrieval.gallery: teacher is given, but KD does not map .* EmbedDistill"):
        evaluated(tmp_path, method(KD), Retrieval(gallery="teacher"))


def test_retrieval_and_few_shots(tmp_path: Path, trained: StudentModule) -> None:
    found = evaluated(tmp_path, trained, Retrieval(k=[1, 3]), FewShot(shots=[2, 5], draws=2))
    vectors, _, labels, _ = seen(trained)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness, precisions, hits = vectors @ vectors.T, [], []
    for n, row in enumerate(likeness):
        others = np.arange(len(labels)) != n
        precisions.append(average_precision_score(labels[others] == labels[n], row[others]))
        hits.append((labels[others] == labels[n])[row[others].argsort()[-3:]].any())
    assert found["test/map"] == pytest.approx(np.mean(precisions), abs=1e-4)
    assert found["test/recall_3"] == pytest.approx(np.mean(hits), abs=0.01)
    known, _, classes, _ = seen(trained, "train")
    asked, _, labels, _ = seen(trained)
    reached = []
    for draw in range(2):
        rows = sample_per_class(torch.from_numpy(classes), 5, draw)
        assert torch.from_numpy(classes)[rows].bincount().tolist() == [5] * 10
        assert len({*rows.tolist()}) == 50
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=500)).fit(known[rows], classes[rows])
        reached.append(fitted.score(asked, labels))
    assert found["test/few_shot_5"] == pytest.approx(np.mean(reached), abs=0.01)
    assert found["test/few_shot_2"] < found["test/few_shot_5"]


def test_unknown_images(tmp_path: Path, trained: StudentModule) -> None:
    noise = RandomImages(images=500, size=16)
    evaluator = OutOfDistribution(data=[noise], teacher=True)
    found = evaluated(tmp_path, trained, evaluator)
    known, logits, *_ = seen(trained)
    bank, _, classes, _ = seen(trained, "train")
    noise.setup("test")
    images = torch.nn.functional.interpolate(
        noise.datasets["test"].images.float(), (8, 8), mode="bilinear", antialias=True
    ).round()
    with torch.no_grad():
        strange = trained.student.eval().features(images.to(torch.uint8), embedding=True, logits=True)
    odd, odd_logits = strange.embedding.double().numpy(), strange.logits.double().numpy()

    def scores(vectors: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
        unit, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, bank))
        means = np.stack([bank[classes == k].mean(0) for k in range(10)])
        inverse = np.linalg.pinv(np.cov((bank - means[classes]).T, bias=True))
        gaps = vectors[:, None] - means
        return {
            "knn": (unit @ others.T).max(1),
            "msp": softmax(said, axis=1).max(1),
            "energy": logsumexp(said, axis=1),
            "mahalanobis": -np.einsum("nkd,de,nke->nk", gaps, inverse, gaps).min(1),
        }

    ours, theirs = scores(known, logits), scores(odd, odd_logits)
    for kind, of_known in ours.items():
        truth = np.r_[np.ones(len(of_known)), np.zeros(50)]
        area = roc_auc_score(truth, np.r_[of_known, theirs[kind]])
        assert found[f"test/ood_{kind}_random"] == pytest.approx(area, abs=2e-3), kind
        passed = (theirs[kind] > np.quantile(of_known, 0.05)).mean()
        assert found[f"test/ood_{kind}_random_fpr95"] == pytest.approx(passed, abs=0.021), kind
    assert found["test/ood_knn_random_teacher"] > 0.9
    counts = evaluator.result.details["ood"]["knn_random"]
    assert sum(counts["known"]) == 360
    assert sum(counts["unknown"]) == 50
    assert {"knn_random", "knn_random_teacher"} <= {*evaluator.result.details["ood"]}


def test_scores_that_are_all_equal_have_a_histogram() -> None:
    counts = histograms(torch.zeros(5), torch.zeros(3))
    assert (sum(counts["known"]), sum(counts["unknown"]), len(counts["edges"])) == (5, 3, 31)


def test_known_classes_among_the_unknown(tmp_path: Path, trained: StudentModule) -> None:
    data = digits()
    data.setup("fit")
    numbers = RandomImages(images=200, size=8, classes=12)
    numbers.class_names = [str(number) for number in range(12)]
    with pytest.raises(ConfigError, match=r"random has classes of the training images: 0, 1, 2"):
        OutOfDistribution(data=[numbers])._check_classes(data, numbers)
    OutOfDistribution(data=[numbers], exclude=[str(n) for n in range(10)])._check_classes(data, numbers)
    with pytest.raises(ConfigError, match="digits are the run's own images"):
        OutOfDistribution(data=[digits()])._check_classes(data, digits())
    evaluator = OutOfDistribution(data=[numbers], scores=["knn"], exclude=[str(n) for n in range(10)])
    evaluated(tmp_path, trained, evaluator)
    counts = evaluator.result.details["ood"]["knn_random"]
    assert sum(counts["unknown"]) == 2  # of 20 test images, classes 10 and 11


def test_where_the_classifier_is_not_trained_logits_say_nothing(tmp_path: Path) -> None:
    noise = RandomImages(images=200, size=8)
    found = evaluated(
        tmp_path,
        method(CoSS),
        Classification(),
        Faithfulness(),
        OutOfDistribution(data=[noise]),
        Corruptions(names=["contrast"], severities=[5], images=50),
    )
    assert {"test/ood_knn_random", "test/cka", "test/corrupted", "test/acc_teacher"} <= {*found}
    assert not {"test/ece", "test/kl", "test/agreement_teacher_errs", "test/ood_msp_random"} & {*found}
    assert 0.1 < found["test/corrupted"] <= 1


def test_corruptions_are_the_same_for_all_and_make_mistakes(tmp_path: Path, trained: StudentModule) -> None:
    evaluators = [Corruptions(names=["gaussian_noise", "contrast"], severities=[1, 5], images=100) for _ in range(2)]
    found, again = (evaluated(tmp_path, trained, evaluator) for evaluator in evaluators)
    assert found == again
    details = evaluators[0].result.details["corruptions"]
    ours, theirs = details["accuracy"], details["accuracy_teacher"]
    assert ours.keys() == theirs.keys() == {"gaussian_noise", "contrast"}
    assert found["test/corrupted"] == pytest.approx(np.mean([*ours.values()]))
    assert found["test/corrupted"] < found["test/acc"]
    errors = [sum(1 - x for x in ours[name]) / sum(1 - x for x in theirs[name]) for name in ours]
    assert found["test/corrupted_relative"] == pytest.approx(np.mean(errors))


def test_errors_relative_to_one_that_never_errs() -> None:
    assert relative_error({"fog": [0.5, 0.5], "snow": [0.8]}, {"fog": [1.0, 1.0], "snow": [0.9]}) == pytest.approx(2)
    assert np.isnan(relative_error({"fog": [0.5]}, {"fog": [1.0]}))


def test_folders_of_some_classes(tmp_path: Path, trained: StudentModule) -> None:
    """The test digits 3 and 7 again, as files; the other classes' scores do not count."""
    data = digits(max_train_samples=400)
    data.setup("test")
    images = data.datasets["test"]
    for split, names in (("named", {3: "3", 7: "7"}), ("strange", {3: "three"})):
        for label, name in names.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for row in (images.labels == label).nonzero()[:, 0].tolist():
                picture = images.take(torch.tensor([row])).images[0].permute(1, 2, 0).numpy()
                Image.fromarray(picture).save(folder / f"{row}.png")
    found = evaluated(tmp_path, trained, Shifts(folders={"some": str(tmp_path / "named")}, teacher=True))
    _, logits, labels, _ = seen(trained)
    kept = np.isin(labels, [3, 7])
    said = np.where(logits[kept, 3] > logits[kept, 7], 3, 7)
    assert found["test/shift_some"] == pytest.approx((said == labels[kept]).mean())
    assert found["test/shift_some_teacher"] > 0.9
    with pytest.raises(ConfigError, match=r"Shifts.folders.odd: .* has a class three that the data do not have"):
        evaluated(tmp_path, trained, Shifts(folders={"odd": str(tmp_path / "strange")}))
    with pytest.raises(ConfigError, match="does not exist"):
        evaluated(tmp_path, trained, Shifts(folders={"none": str(tmp_path / "nowhere")}))


def test_transfer(tmp_path: Path, trained: StudentModule) -> None:
    """To the digits themselves in another size, as another data set would come."""
    folder = tmp_path / "large"
    data = digits(max_train_samples=400)
    data.setup("test")
    images, labels = data.datasets["test"].take(torch.arange(200))[:2]
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / ("odd" if label % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((24, 24)).save(place / f"{number}.png")
    other = ImageFolder(path=str(folder), test_split=0.5)
    found = evaluated(tmp_path, trained, Transfer(to=[other], teacher=True))
    assert 0.6 < found["test/transfer_large"] <= found["test/transfer_large_teacher"] + 0.1
    assert other.side == 24


def test_cost(tmp_path: Path, trained: StudentModule) -> None:
    found = evaluated(tmp_path, trained, Cost(batch_sizes=[2], repeats=3, teacher=True))
    state = trained.student.model.state_dict()
    assert found["cost/parameters"] == sum(p.numel() for p in trained.student.parameters())
    content = sum(value.numel() * value.itemsize for value in state.values())
    assert content <= found["cost/megabytes"] * 1e6 < content + 20_000
    assert found["cost/macs"] < found["cost/macs_teacher"]
    assert found["cost/images_per_second_2"] == pytest.approx(2000 / found["cost/latency_ms_2"])


def test_cost_without_multiply_adds(tmp_path: Path, trained: StudentModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "macs", lambda self, side: None)
    found = evaluated(tmp_path, trained, Cost(batch_sizes=[]))
    assert "cost/parameters" in found
    assert "cost/macs" not in found


def test_several_k_are_each_kept_apart(tmp_path: Path, trained: StudentModule) -> None:
    found = evaluated(tmp_path, trained, KNN(k=[10, 1, 200]))
    for k, name in ((10, "knn"), (1, "knn_1"), (200, "knn_200")):
        assert found[f"test/{name}"] == evaluated(tmp_path, trained, KNN(k=k))["test/knn"]
    assert len({found["test/knn"], found["test/knn_1"], found["test/knn_200"]}) > 1


def test_too_few_corrupted_images_name_the_field(tmp_path: Path, trained: StudentModule) -> None:
    with pytest.warns(UserWarning, match=r"error: Corruptions.images: 5 means 5 of 360 images, .* omit it to use all"):
        evaluated(tmp_path, trained, Corruptions(images=5))
