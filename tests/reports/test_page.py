"""The page: whole, without a network, unharmed by hostile names; the plots draw what the numbers are."""

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.fake_runs import METHODS, TEACHER, write_predictions, write_run, write_runs
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

from kd_lightning.data import Digits
from kd_lightning.reports import compare, detail_plots, frame, page, plots, read_runs
from kd_lightning.reports.axes import describe
from kd_lightning.reports.disagreement import UnavailableError, load_images, most_disagreed, read_predictions
from kd_lightning.reports.page import DOTS_CAPTION, _axis
from kd_lightning.reports.style import MARKERS, as_uri, styles

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that elements close in order; keeps elements and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written(runs_folder: Path, **kwargs: object) -> Page:
    runs = read_runs(runs_folder)
    comparisons, lines = compare(runs)
    return Page(page(comparisons, [*runs.problems, *lines], **kwargs))


def test_it_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    write_runs(tmp_path, seeds=2, predictions=True)
    found = written(tmp_path, folder=tmp_path / "report")
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "iframe", "object"}
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert len(images) > 35
    for image in images:
        head, _, body = image["src"].partition(";base64,")
        assert head in ("data:image/svg+xml", "data:image/png")
        assert len(base64.b64decode(body, validate=True)) > 100
        assert "alt" in image
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    identifiers = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= identifiers
    runs = [link for link in links if not link.startswith("#")]
    assert len(runs) == 8
    for link in runs:
        assert (tmp_path / "report" / link).resolve().joinpath("results.json").exists()
    for word in ("Learning curves", "Calibration", "Out-of-distribution", "Classes", "Settings that differ", "±"):
        assert word in found.text
    assert not re.search(r"\bnan\b|None", found.text)


def test_the_note_names_a_dashed_line_only_if_a_figure_has_one(tmp_path: Path) -> None:
    for name in ("baseline", "kd"):
        for seed, seconds in enumerate((60.0, 61.0)):
            write_run(tmp_path, name, seed, seconds=seconds)
    (comparison,), _ = compare(read_runs(tmp_path))
    notes = {axis: _axis(comparison, axis, styles(comparison.runs.groups))["note"] for axis in ("accuracy", "cost")}
    assert notes["accuracy"] == f"{DOTS_CAPTION}. The dashed line is the teacher."
    assert notes["cost"] == f"{DOTS_CAPTION}."


def test_costs_that_no_plot_would_distinguish_are_left_out() -> None:
    values = {"group": ["kd", "sp"], "test/acc": [0.5, 0.6], "cost/parameters": [5.0, 5.0], "teacher": ["t", "t"]}
    table = pd.DataFrame({**values, "cost/parameters_teacher": [9.0, 9.0]})
    metrics = [describe("cost/parameters")]
    assert plots.usable_costs(table, metrics) == metrics
    assert plots.usable_costs(table, metrics, "test/acc") == []  # a teacher of other classes has no accuracy
    assert plots.usable_costs(table.assign(**{"test/acc_teacher": [0.9, 0.9]}), metrics, "test/acc") == metrics


def test_a_run_of_one_epoch_is_a_marker(tmp_path: Path) -> None:
    (write_run(tmp_path) / "metrics.csv").write_text("epoch,step,train/loss\n0,9,2.0\n")
    (axes,) = plots.learning_curves(read_runs(tmp_path)).axes
    assert axes.get_xticks().tolist() == [1]
    assert axes.lines[0].get_marker() not in ("", "None")
    assert axes.lines[0].get_xydata().tolist() == [[1, 2]]


def test_no_line_of_a_title_begins_with_an_arrow() -> None:
    metric = describe("test/neighbors_10")
    first, second = plots._title(metric).splitlines()
    assert first.endswith("10")
    assert second.replace("\N{NO-BREAK SPACE}", " ") == "nearest, % ↑"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = {
        "run__name": f"{EVIL}-s0",
        "run__teacher": f'"{EVIL}',
        "data__class_names": [EVIL] * 10,
        "code__commit": EVIL,
    }
    for seed in range(2):
        folder = write_run(
            tmp_path, "kd", seed, **names, **{f"metrics__test/{EVIL}": 0.5 + seed, "metrics__$x_1$": 1.0}
        )
        write_predictions(folder, seed, wrong=5 * seed)
    write_runs(tmp_path, ("baseline",), 2)
    moved = tmp_path / "digits/$\\frac$ _x <b>"
    (tmp_path / "digits/baseline-s0").rename(moved)
    (tmp_path / "digits/broken").mkdir()
    (tmp_path / "digits/broken/results.json").write_text(f'{{"schema": "{EVIL}"}}')
    found = written(tmp_path, folder=tmp_path / "report")
    assert "script" not in {tag for tag, _ in found.elements}
    assert EVIL in found.text
    assert f"has schema '{EVIL[:10]}" in found.text


@pytest.mark.parametrize("name", ["$x^2", "_$x$", "a" * 300, "$\\frac$", "日本語", "%s {x}"])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    write_run(tmp_path, "kd", 0, run__name=name)
    runs = read_runs(tmp_path)
    for figure in (
        plots.learning_curves(runs),
        plots.dots(frame(runs), "test/acc"),
        plots.against_cost(frame(runs), "test/acc", "cost/macs"),
        detail_plots.class_gaps(runs),
    ):
        ET.fromstring(base64.b64decode(as_uri(figure).partition(",")[2]))


def test_without_details_histories_and_configs_the_page_says_so(tmp_path: Path) -> None:
    for seed in range(2):
        folder = write_run(tmp_path, "kd", seed, details={}, metrics={"test/acc": 0.5})
        write_predictions(folder, seed, wrong=3)
        (folder / "metrics.csv").unlink()
        (folder / "config.yaml").unlink()
    found = written(tmp_path)
    assert "Learning curves" not in found.text
    assert "No images are shown: the test images cannot be read here (no run has a config.yaml)." in found.text
    assert found.text.count("metrics.csv is missing") == 2
    assert "all differences" not in found.text  # one group has no difference to itself


def test_curves_are_means_and_bands_over_seeds(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd", "sp"))
    runs = read_runs(tmp_path)
    figure = plots.learning_curves(runs)
    (axes,) = figure.axes
    curves = np.stack([plots.by_epoch(run, "val/acc") for run in runs.of("kd")])
    assert curves.shape == (3, 6)
    line = axes.lines[0]
    np.testing.assert_allclose(line.get_ydata(), 100 * curves.mean(axis=0))
    np.testing.assert_array_equal(line.get_xdata(), range(1, 7))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(100 * curves.min())
    markers = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    epochs = [run.results.protocol["epoch"] + 1 for run in runs]
    assert [line.get_xdata()[0] for line in markers] == epochs


def test_dots_are_seeds_and_the_bar_their_mean(tmp_path: Path) -> None:
    write_runs(tmp_path)
    table = frame(read_runs(tmp_path))
    (axes,) = plots.dots(table, "test/acc").axes
    for place, group in enumerate(METHODS):
        values = 100 * table.loc[table["group"] == group, "test/acc"]
        bar, dots = axes.lines[2 * place : 2 * place + 2]
        assert bar.get_xdata()[0] == pytest.approx(values.mean())
        np.testing.assert_allclose(dots.get_xdata(), values)
    assert axes.lines[-1].get_xdata()[0] == pytest.approx(100 * TEACHER)


def test_gaps_are_class_by_class_to_the_teacher_or_the_baseline(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd"), 2)
    runs = read_runs(tmp_path)
    accuracies = np.mean([run.results.details["per_class"]["accuracy"] for run in runs.of("kd")], axis=0)
    teacher = np.linspace(0.93, 1, 10)
    figure = detail_plots.class_gaps(runs, "baseline")
    drawn = figure.axes[0].images[0].get_array()
    assert sorted(drawn[:, 1]) == pytest.approx(sorted(100 * (accuracies - teacher)))
    for run in runs:
        run.results.details["per_class"]["accuracy_teacher"] = None
    own = np.mean([run.results.details["per_class"]["accuracy"] for run in runs.of("baseline")], axis=0)
    drawn = detail_plots.class_gaps(runs, "baseline").axes[0].images[0].get_array()
    assert drawn.shape == (10, 1)
    assert sorted(drawn[:, 0]) == pytest.approx(sorted(100 * (accuracies - own)))
    assert detail_plots.class_gaps(runs, None) is None


def test_reliability_takes_seeds_together_by_their_counts(tmp_path: Path) -> None:
    tables = [{"confidence": [0.2, 0.8], "accuracy": [0.1, a], "count": [0, n]} for a, n in ((0.5, 10), (0.9, 30))]
    for seed, table in enumerate(tables):
        write_run(tmp_path, "kd", seed, details={"calibration": table})
    line = detail_plots.reliability(read_runs(tmp_path)).axes[0].lines[1]
    assert line.get_xdata() == pytest.approx([80])
    assert line.get_ydata() == pytest.approx([100 * (10 * 0.5 + 30 * 0.9) / 40])


def test_looks_differ_without_colour() -> None:
    looks = styles(f"g{n}" for n in range(77))
    assert len({(look.color, look.marker) for look in looks.values()}) == 77
    first = [*looks.values()][: len(MARKERS)]
    assert len({look.marker for look in first}) == len(MARKERS)  # in grey


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "kd", 0)
    before = dict(matplotlib.rcParams)
    figure = plots.learning_curves(read_runs(tmp_path))
    as_uri(figure)
    assert isinstance(figure, Figure)
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in vars(plots)


def test_the_most_disagreed_on_images_are_the_datas_own(tmp_path: Path) -> None:
    for name, wrong in (("kd", 4), ("sp", 2)):
        for seed in range(2):
            write_predictions(write_run(tmp_path, name, seed), seed, wrong)
    runs = read_runs(tmp_path)
    tables, problems = read_predictions(runs)
    assert problems == []
    found = most_disagreed(runs, tables)
    # images 0 and 1 are wrong for all four; 2: kd's two and one of sp's; 3: kd's two; 4: one of kd's
    data = Digits()
    data.setup("test")
    labels, indices = data.datasets["test"].labels.tolist(), data.datasets["test"].indices.tolist()
    # of 4 and 2, which differ alike, all are surer of 4
    assert [one.index for one in found] == [indices[3], indices[4], indices[2]]
    three_to_one = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert [one.disagreement for one in found] == pytest.approx([1, three_to_one, three_to_one])
    wrong = (labels[3] + 1) % 10
    assert found[0].votes == {"kd": {wrong: 2}, "sp": {labels[3]: 2}}
    assert found[0].teacher == labels[3]
    pixels = load_images(runs, [one.index for one in found], [one.label for one in found])
    assert torch.equal(pixels, data.datasets["test"].take(torch.tensor([3, 4, 2])).images)
    with pytest.raises(UnavailableError, match="differ from the runs"):
        load_images(runs, [indices[0]], [(labels[0] + 1) % 10])


def test_predictions_that_cannot_be_used(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "kd", seed) for seed in range(4)]
    for seed, folder in enumerate(folders):
        write_predictions(folder, seed, 3)
    (folders[0] / "predictions.safetensors").write_bytes(b"nonsense")
    content = load_file(folders[1] / "predictions.safetensors")
    save_file({**content, "labels": content["labels"][:5]}, folders[1] / "predictions.safetensors")
    del content["confidence"]
    save_file(content, folders[2] / "predictions.safetensors")
    runs = read_runs(tmp_path)
    tables, problems = read_predictions(runs)
    assert [*tables] == [folders[3]]
    assert len(problems) == 3
    assert "different lengths" in problems[1]
    assert "it has no confidence" in problems[2]
    with pytest.raises(UnavailableError, match="1 of 4 runs"):
        most_disagreed(runs, tables)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"class_path": "ImageFolder", "init_args": {"path": "/nowhere"}},
        {"class_path": "os.system", "init_args": {}},
        {"class_path": "kd_lightning.data.Digits", "init_args": {"no_such": 1}},
        {"class_path": 3},
    ],
)
def test_images_that_cannot_be_read_are_one_line(data: object, tmp_path: Path) -> None:
    for seed in range(2):
        write_predictions(write_run(tmp_path, "kd", seed), seed, 3)
    runs = read_runs(tmp_path)
    for run in runs:
        run.config["data"] = data
    with pytest.raises(UnavailableError, match="the test images cannot be read here") as caught:
        load_images(runs, [0], [0])
    assert "\n" not in str(caught.value)
