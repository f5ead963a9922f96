"""What the pictures of methods show, a few steps of training, and words that are kept back."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.factories import digits, method
from helpers.fake_runs import write_run
from matplotlib.patches import Rectangle
from scipy import stats
from sklearn.metrics.pairwise import cosine_similarity, paired_cosine_distances

from kd_lightning import analysis
from kd_lightning.batch import as_float
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.methods import SP, STKD, CoSS, TinTeM
from kd_lightning.methods.coss import feature_similarity_loss, space_similarity_loss
from kd_lightning.methods.stkd import virtual_samples
from kd_lightning.reports import compare, read_runs

NAMES = [str(digit) for digit in range(10)]


def test_steps_are_watched_and_terms_fall() -> None:
    torch.manual_seed(0)
    coss = method(CoSS, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
    before = coss.student.model.conv1.weight.clone()
    level = logging.getLogger("lightning.pytorch").level
    table = analysis.train_steps(coss, digits(max_train_samples=200), 30)
    assert table.shape == (30, 2)
    assert (table.index[0], table.index[-1], [*table]) == (1, 30, ["feature", "space"])
    assert table["feature"].iloc[-5:].mean() < table["feature"].iloc[:5].mean() - 10
    assert not torch.equal(before, coss.student.model.conv1.weight)
    assert not coss.training
    assert logging.getLogger("lightning.pytorch").level == level
    figure = analysis.plot_loss_terms({"CoSS": table, "other": table[["space"]]})
    assert [axes.get_title() for axes in figure.axes] == ["CoSS: feature", "CoSS: space", "other: space", ""]
    rough, smooth = figure.axes[0].lines
    assert rough.get_ydata() == pytest.approx(table["feature"])
    assert smooth.get_ydata()[20] == pytest.approx(table["feature"].iloc[15:25].mean())


def test_look_is_without_gradients_in_eval_mode() -> None:
    built, images = method(SP), analysis.images_per_class(digits(), 1).images
    built.train()
    sight = analysis.compute_features(built, images, maps=2)
    assert built.training
    assert not built.teacher.training
    assert not sight.student.logits.requires_grad
    assert sight.aligned is None
    assert [part.shape[1] for part in sight.student.maps] == [8, 16]
    with torch.no_grad():
        assert torch.equal(sight.student.logits, built.eval().student(images))
    tintem = method(TinTeM)
    ours, mapped = analysis.compute_features(tintem, images).aligned
    assert ours.shape == mapped.shape == (10, 16)
    assert not mapped.requires_grad


def test_mixtures_show_sources_and_shares() -> None:
    batch = analysis.images_per_class(digits(), 1)
    virtual = virtual_samples(batch.keys, images=3, alpha=1.0, per="sample")
    stkd = method(STKD)
    ours = analysis.soft_targets(analysis.compute_features(stkd, batch.images).student.logits, 4)
    theirs = analysis.soft_targets(torch.randn(10, 10), 4)
    figure = analysis.plot_mixtures(batch, virtual, ours, theirs, NAMES, max_samples=2)
    even = np.argsort(virtual.weights.numpy().max(axis=1), kind="stable")[:2]
    pictures = np.array([axes for axes in figure.axes if axes.images]).reshape(4, 2)
    images = as_float(batch.images).numpy()
    for column, number in enumerate(even):
        rows, weights = virtual.rows[number].tolist(), virtual.weights[number].tolist()
        mixed = sum(weight * images[row] for row, weight in zip(rows, weights, strict=True))
        shown = [np.asarray(axes.images[0].get_array()).transpose(2, 0, 1) for axes in pictures[:, column]]
        for picture, expected in zip(shown, (*images[rows], mixed), strict=True):
            assert picture == pytest.approx(expected, abs=1e-6)
        titles = [axes.get_title() for axes in pictures[:, column]]
        assert titles == [f"{w:.0%} of a {batch.labels[r]}" for w, r in zip(weights, rows, strict=True)] + ["mixed"]


def test_soft_targets_are_softened() -> None:
    logits = torch.tensor([[0.0, 4.0]], dtype=torch.float16)
    assert analysis.soft_targets(logits, 4)[0, 1].item() == pytest.approx(1 / (1 + np.exp(-1)))


def test_spaces_show_the_cosines_of_rows_and_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(6, 4, generator=generator) for _ in range(2))
    rows, columns = analysis.row_and_column_cosines(ours, theirs)
    expected = 1 - paired_cosine_distances(ours, theirs), 1 - paired_cosine_distances(ours.T, theirs.T)
    assert rows.numpy() == pytest.approx(expected[0], abs=1e-6)
    assert columns.numpy() == pytest.approx(expected[1], abs=1e-6)
    assert feature_similarity_loss(ours, theirs).item() == pytest.approx(-rows.mean().item())
    assert space_similarity_loss(ours, theirs).item() == pytest.approx(-columns.mean().item())
    labels = torch.tensor([1, 0, 1, 0, 0, 1])
    figure = analysis.plot_embedding_table(ours, theirs, labels)
    order, across = [1, 3, 4, 0, 2, 5], np.argsort(-theirs.mean(dim=0).numpy())
    teacher, student, right, below = figure.axes
    for axes, table in ((teacher, theirs), (student, ours)):
        unit = table.numpy() / np.linalg.norm(table.numpy(), axis=1, keepdims=True)
        assert np.asarray(axes.images[0].get_array()) == pytest.approx(unit[order][:, across], abs=1e-6)
    bars = [[patch for patch in axes.patches if isinstance(patch, Rectangle)] for axes in (right, below)]
    assert [bar.get_width() for bar in bars[0]] == pytest.approx(expected[0][order], abs=1e-6)
    assert [bar.get_height() for bar in bars[1]] == pytest.approx(expected[1][across], abs=1e-6)
    with pytest.raises(ConfigError, match="after the head"):
        analysis.plot_embedding_table(ours[:, :3], theirs, labels)


def test_angles_are_those_of_all_pairs() -> None:
    vectors = torch.randn(7, 5)
    expected = cosine_similarity(vectors.numpy())[np.triu_indices(7, 1)]
    assert np.sort(analysis.pair_cosines(vectors).numpy()) == pytest.approx(np.sort(expected), abs=1e-6)
    turn = torch.linalg.qr(torch.randn(5, 5)).Q
    kept = analysis.MappedTeacher(vectors @ turn, vectors @ turn, vectors)
    figure = analysis.plot_angles({"kept": kept, "lost": kept._replace(mapped=torch.randn(7, 5))})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "kept: pairs, 0.00 apart"
    assert titles[1] == "kept: student to mapped, mean 1.00"
    assert "0.00" not in titles[2]
    assert sum(patch.get_height() for patch in figure.axes[1].patches) == 7


@pytest.fixture
def comparison(tmp_path: Path) -> object:
    for name in ("baseline", "kd", "sp"):
        for seed in range(3):
            write_run(tmp_path, name, seed)
    write_run(tmp_path, "stkd", 0)
    return compare(read_runs(tmp_path))[0][0]


def test_differences_of_a_single_group_are_an_empty_figure(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_run(tmp_path, "kd", 0)
    (axes,) = analysis.plot_differences(compare(read_runs(tmp_path))[0][0]).axes
    assert axes.get_ylim() == (0.5, -0.5)
    assert not recwarn.list


def test_differences_have_their_intervals(comparison: object) -> None:
    figure = analysis.plot_differences(comparison)
    table: pd.DataFrame = comparison.frame.pivot_table(index="seed", columns="group", values="test/acc")
    (axes,) = figure.axes
    groups = [tick.get_text() for tick in axes.get_yticklabels()]
    assert comparison.baseline not in groups
    lines = {(len(line.get_xdata()), float(line.get_ydata()[0])): line.get_xdata() for line in axes.lines[1:]}
    for place, group in enumerate(groups):
        apart = 100 * (table[group] - table[comparison.baseline]).dropna()
        assert lines[1, place][0] == pytest.approx(apart.mean())
        if len(apart) < 2:
            assert (2, place) not in lines
            continue
        low, high = stats.t.interval(0.95, len(apart) - 1, apart.mean(), apart.sem())
        assert [*lines[2, place]] == pytest.approx([low, high])
    assert {len(table[group].dropna()) for group in groups} == {1, 3}


def test_suppress_output_suppresses_output(capfd: pytest.CaptureFixture) -> None:
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as caught, analysis.suppress_output():
        print("a word")
        logging.getLogger("lightning.pytorch").warning("another")
        warnings.warn("a third", stacklevel=1)
    assert (*capfd.readouterr(), caught) == ("", "", [])
    assert logging.root.manager.disable == disabled
    print("heard")
    assert capfd.readouterr().out == "heard\n"


def test_suppress_output_raises_the_last_line_when_main_exits() -> None:
    from kd_lightning.cli import main

    config = Path(__file__).parents[2] / "configs/digits/kd.yaml"
    with pytest.raises(RunError, match=r"temperature: -1.0 is not above 0"), analysis.suppress_output():
        main(["fit", f"--config={config}", "--model.temperature=-1"])
    with pytest.raises(ZeroDivisionError), analysis.suppress_output():
        _ = 1 / 0
    assert logging.root.manager.disable == 0
