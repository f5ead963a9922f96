"""What the pictures of a checkpoint show, against values worked out by other means."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.factories import digits, method, student, trainer, with_weights
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from scipy.special import softmax
from sklearn.manifold import trustworthiness
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from kd_lightning import analysis
from kd_lightning.analysis.embedding import align_2d
from kd_lightning.analysis.images import class_boundaries
from kd_lightning.data import Digits, RandomImages
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import FeatureCache, NetworkView
from kd_lightning.methods import KD
from kd_lightning.models import Network

NAMES = [str(digit) for digit in range(10)]


def make_view(built: object, data: Digits, network: str, **known: bool) -> NetworkView:
    return NetworkView(
        getattr(built, network), FeatureCache(torch.device("cpu")), data, "test", **{"knows_classes": True, **known}
    )


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> NetworkView:
    """A student that is right on most of the digits, and its teacher."""
    torch.manual_seed(0)
    built, data = method(KD), digits(max_train_samples=400)
    trainer(tmp_path_factory.mktemp("run"), max_epochs=10).fit(built.train(), data)
    found = make_view(built.eval(), data, "student", is_student=True)
    found.teacher = make_view(built, data, "teacher")
    return found


@pytest.fixture(autouse=True)
def leaves_matplotlib_alone() -> None:
    """No figure is left with pyplot, and no setting is changed."""
    before = dict(mpl.rcParams)
    yield
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before


def drawn(figure: Figure) -> Figure:
    figure.savefig("/dev/null", format="png", dpi=40)
    return figure


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def steps(axes: Axes) -> np.ndarray:
    return next(patch for patch in axes.patches if isinstance(patch, StepPatch)).get_data().values


def test_images_per_class_are_sorted_by_class() -> None:
    data = digits(max_train_samples=100)
    batch = analysis.images_per_class(data, 3, classes=4)
    assert batch.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    of_test = dict(zip(data.datasets["test"].indices.tolist(), data.datasets["test"].labels.tolist(), strict=True))
    assert [of_test[index] for index in batch.indices.tolist()] == batch.labels.tolist()
    assert len(analysis.images_per_class(data, 1000, split="val").labels) == len(data.datasets["val"])
    assert class_boundaries(torch.tensor([1, 1, 4, 4, 4])) == ([1.5], [0.5, 3.0], [1, 4])
    data.labeled = False
    with pytest.raises(ConfigError, match="digits has no labels"):
        analysis.images_per_class(data, 3)


def test_maps_keep_neighbours_and_are_the_same_twice() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 20)) * 4
    rows = (centres[:, None] + generator.normal(size=(6, 15, 20))).reshape(90, 20)
    points = analysis.project_2d(torch.tensor(rows))
    assert trustworthiness(rows, points, metric="cosine", n_neighbors=5) > 0.9
    longer = rows * 2.0 ** generator.integers(-9, 9, size=(90, 1))  # lengths do not count
    assert np.array_equal(points, analysis.project_2d(torch.tensor(longer)))
    with pytest.raises(ConfigError, match=r"at least 4 images"):
        analysis.project_2d(torch.rand(3, 5))
    with pytest.raises(ConfigError, match=r"give at least 4 images and only finite values"):
        analysis.project_2d(torch.full((9, 5), torch.nan))


def test_umap_is_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_lightning.analysis.embedding.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="umap-learn"):
        analysis.project_2d(torch.rand(9, 5), by="umap")


def test_a_turned_map_lies_as_the_other() -> None:
    points = np.random.default_rng(1).normal(size=(50, 2)) * (3, 1)
    angle = 2.0
    away = points @ np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]]) + 7  # mirrored too
    assert align_2d(away, points) == pytest.approx(points - points.mean(axis=0))


def test_embedding_maps_show_every_image() -> None:
    labels = torch.arange(40) % 4
    labels[-2:] = -1
    ours, theirs = torch.randn(40, 6), torch.randn(40, 9)
    figure = drawn(analysis.embedding_maps(ours, theirs, labels, NAMES[:4]))
    for axes in figure.axes:
        assert sum(len(line.get_xdata()) for line in axes.lines) == 40
        looks = {(line.get_color(), line.get_marker()) for line in axes.lines[1:]}
        assert len(looks) == 4
    thinned = analysis.embedding_maps(ours, theirs, labels, NAMES[:4], max_images=20)
    assert sum(len(line.get_xdata()) for line in thinned.axes[0].lines) == 20
    with pytest.raises(ConfigError, match="same N images"):
        analysis.embedding_maps(ours, theirs[:9], labels, NAMES)


def gram(features: torch.Tensor) -> np.ndarray:
    rows = features.flatten(1).double().numpy()
    inner = rows @ rows.T
    return inner / np.sqrt((inner**2).sum(axis=1, keepdims=True))


def test_similarity_matrices_are_sp_s() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 1])
    ours, theirs = torch.rand(6, 3, 2, 2), torch.rand(6, 5, 4, 4)
    order = [1, 3, 2, 5, 0, 4]
    figure = drawn(analysis.similarity_matrices(ours, theirs, labels, NAMES))
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images][:3]
    mine, their = gram(ours[order]), gram(theirs[order])
    for picture, expected in zip(shown, (their, mine, mine - their), strict=True):
        assert picture == pytest.approx(expected, abs=1e-6)
    assert f"{((mine - their) ** 2).mean():.2e}" in texts(figure)
    teacher, pupil, difference = (axes.images[0] for axes in figure.axes[:3])
    assert teacher.get_clim() == pupil.get_clim()
    assert difference.get_clim()[0] == -difference.get_clim()[1]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]


def naive_cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the unbiased estimate's definition (Song et al. 2012, eq. 4), entry by entry."""

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        n = len(a)
        k, other = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(other, 0)
        ones = np.ones(n)
        first = np.trace(k @ other)
        second = ones @ k @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2))
        return (first + second - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def test_stages_are_compared_with_all_stages(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours, theirs = student(), with_weights(tmp_path, "cifar_resnet14")
    images = analysis.images_per_class(digits(), 2).images
    ours.train()
    table = analysis.stage_cka(ours, theirs, images)
    assert ours.training
    assert [*table.index] == [*table.columns] == ["bn1", "layer1", "layer2", "layer3", "embedding"]
    hooked: dict[tuple[int, str], np.ndarray] = {}
    for number, network in enumerate((ours.eval(), theirs.eval())):
        for name in ("layer1", "layer3"):
            network.model.get_submodule(name).register_forward_hook(
                lambda module, given, out, key=(number, name): hooked.update(
                    {key: out.detach().flatten(1).double().numpy()}
                )
            )
        network(images)
    for mine in ("layer1", "layer3"):
        for their in ("layer1", "layer3"):
            expected = naive_cka(hooked[0, mine], hooked[1, their])
            assert table.loc[mine, their] == pytest.approx(expected, abs=1e-4)
    assert table.loc["layer1", "layer3"] != pytest.approx(table.loc["layer3", "layer1"], abs=1e-3)
    assert analysis.stage_cka(theirs, theirs, images).to_numpy().diagonal() == pytest.approx(1)


def test_large_maps_are_averaged_to_the_grid() -> None:
    network = student()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    whole, small = (analysis.stage_maps(network, images, grid=grid, batch_size=2) for grid in (None, 4))
    assert whole["layer1"].shape == (3, 4, 32, 32)
    expected = whole["layer1"].view(3, 4, 4, 8, 4, 8).mean(dim=(3, 5))
    assert small["layer1"] == pytest.approx(expected, abs=1e-5)
    assert torch.equal(whole["embedding"], small["embedding"])
    with pytest.raises(ConfigError, match="grid"):
        analysis.stage_maps(network, images, grid=0)


def test_the_heat_map_says_each_number() -> None:
    table = pd.DataFrame({"a": [0.1, 0.93], "b": [0.5, 0.25]}, index=["x", "y"])
    figure = drawn(analysis.cka_heat_map(table))
    assert np.asarray(figure.axes[0].images[0].get_array()) == pytest.approx(table.to_numpy())
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert all(number in texts(figure) for number in ("0.10", "0.93", "0.50", "0.25"))


def test_calibration_is_scaled_by_the_validation_images(view: NetworkView) -> None:
    found = analysis.calibration(view)
    held_out, evaluated = view.predictions("val"), view.predictions()
    ours, of_val = evaluated.logits.double(), held_out.logits.double()

    def nll(t: float) -> float:
        return F.cross_entropy(of_val / t, held_out.labels).item()

    assert nll(found.temperature) <= min(nll(found.temperature * f) for f in (0.98, 1.02)) + 1e-9
    for bins, logits, error in (
        (found.before, ours, found.ece),
        (found.after, ours / found.temperature, found.ece_scaled),
    ):
        shares = softmax(logits.numpy(), axis=1)
        confidence, right = shares.max(1), shares.argmax(1) == evaluated.labels.numpy()
        places = np.minimum((confidence * 15).astype(int), 14)
        assert bins.count.tolist() == np.bincount(places, minlength=15).tolist()
        bins_of = [places == number for number in {*places}]
        gaps = [abs(right[some].mean() - confidence[some].mean()) * some.mean() for some in bins_of]
        assert error == pytest.approx(sum(gaps), abs=1e-5)
    figure = drawn(analysis.reliability_diagrams(found))
    heights = steps(figure.axes[0])
    assert heights == pytest.approx(100 * np.nan_to_num(found.before.accuracy.numpy()))
    shares = steps(figure.axes[3])
    assert shares == pytest.approx(100 * found.after.count.numpy() / len(evaluated.labels))
    assert f"{found.temperature:.2f}" in texts(figure)


def test_calibration_needs_a_trained_classifier_and_validation_images(view: NetworkView) -> None:
    with pytest.raises(ConfigError, match="no classifier that was trained"):
        analysis.calibration(NetworkView(view.network, view.cache, view.data, "test", knows_classes=False))
    with pytest.raises(ConfigError, match=r"data.val_split"):
        analysis.calibration(NetworkView(view.network, view.cache, digits(val_split=0), "test", knows_classes=True))


def test_unknown_images_are_scored_as_by_the_evaluator(view: NetworkView) -> None:
    noise = RandomImages(images=500, size=8)
    found = analysis.ood_scores(view, noise)
    assert [*found] == ["teacher", "student"]
    for name, one in (("student", view), ("teacher", view.teacher)):
        known, unknown, bank = (one.predictions(*of) for of in (("test",), ("test", noise), ("train",)))
        scores = [cosine_similarity(part.embedding, bank.embedding).max(1) for part in (known, unknown)]
        truth = np.arange(len(known.labels) + 50) < len(known.labels)
        area = roc_auc_score(truth, np.concatenate(scores))
        assert found[name].values["ood_knn_random"] == pytest.approx(area, abs=1e-6)
        energies = [np.logaddexp.reduce(part.logits.double().numpy(), axis=1) for part in (known, unknown)]
        area = roc_auc_score(truth, np.concatenate(energies))
        assert found[name].values["ood_energy_random"] == pytest.approx(area, abs=1e-6)
    figure = drawn(analysis.ood_histograms(found))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 4
    filled, outlined = (patch.get_data() for patch in panels[0].patches)
    table = found["teacher"].details["ood"]["knn_random"]
    assert filled.values == pytest.approx(np.array(table["known"]) / 360)
    assert outlined.values == pytest.approx(np.array(table["unknown"]) / 50)
    with pytest.raises(ConfigError, match="run's own images"):
        analysis.ood_scores(view, digits())
    only = analysis.ood_scores(
        NetworkView(view.network, view.cache, view.data, "test", knows_classes=False), noise, scores=["energy"]
    )
    with pytest.raises(ConfigError, match="knn needs no trained classifier"):
        analysis.ood_histograms(only)


def test_disagreements_come_first(view: NetworkView) -> None:
    ours, theirs = (softmax(one.predictions().logits.double().numpy(), axis=1) for one in (view, view.teacher))
    differ = ours.argmax(1) != theirs.argmax(1)
    apart = (theirs * (np.log(theirs.clip(1e-12)) - np.log(ours.clip(1e-6)))).sum(1)
    expected = sorted(range(360), key=lambda row: (not differ[row], -apart[row]))
    count = int(differ.sum())
    assert 0 < count < 350
    found, expected = analysis.disagreements(view, max_images=count + 8), expected[: count + 8]
    assert found.differ().tolist() == [True] * count + [False] * 8
    assert found.student.numpy() == pytest.approx(ours[expected], abs=1e-5)
    assert found.labels.tolist() == view.predictions().labels[expected].tolist()
    for image, row in zip(found.images, expected, strict=True):
        assert torch.equal(image, view.data.datasets["test"].take(torch.tensor([row])).images[0])
    figure = drawn(analysis.disagreement_grid(analysis.ProbabilityPair(*(part[:5] for part in found)), NAMES))
    assert f"{min(count, 5)} of these 5 images" in texts(figure)
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 5
    assert np.array_equal(pictures[1].images[0].get_array(), found.images[1].permute(1, 2, 0).numpy())
    bars = next(axes for axes in figure.axes if axes.containers)
    widths = [[bar.get_width() for bar in group] for group in bars.containers if isinstance(group, BarContainer)]
    chosen = [int(tick.get_text()) for tick in bars.get_yticklabels()]
    assert widths == [found.teacher[0][chosen].tolist(), found.student[0][chosen].tolist()]
    assert {int(found.student[0].argmax()), int(found.teacher[0].argmax())} <= {*chosen}


def test_what_only_one_of_two_believes_is_drawn() -> None:
    student, teacher = torch.zeros(10), torch.zeros(10)
    student[[7, 1]], teacher[[2, 3]] = torch.tensor([0.9, 0.1]), torch.tensor([0.8, 0.2])
    found = analysis.ProbabilityPair(torch.zeros(1, 3, 4, 4), torch.tensor([-1]), student[None], teacher[None])
    figure = drawn(analysis.disagreement_grid(found, NAMES[:7], max_classes=3))
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ["2", "3", "class 7"]
    assert "no label" in texts(figure)


def test_opinions_of_an_untrained_classifier_are_votes(view: NetworkView) -> None:
    untrained = NetworkView(view.network, view.cache, view.data, "test", knows_classes=False, teacher=view.teacher)
    found = analysis.disagreements(untrained, max_images=5)
    assert found.student.sum(dim=1) == pytest.approx(torch.ones(5), abs=1e-5)
    assert ((found.student * 10).count_nonzero(dim=1) < 10).all()  # few classes among ten neighbours
    with pytest.raises(ConfigError, match="no teacher to compare with"):
        analysis.disagreements(view.teacher)


def test_a_network_of_another_kind_has_stages_too() -> None:
    network = Network("test_vit", num_classes=10, model_kwargs={"img_size": 32})
    maps = analysis.stage_maps(network, torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    assert [*maps][-1] == "embedding"
    assert all(part.shape[0] == 2 for part in maps.values())
