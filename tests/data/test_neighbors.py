"""Nearest neighbours against scikit-learn's, their table on disk, and the batches that are made of it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import chisquare
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from kd_lightning.data import Digits
from kd_lightning.data.images import StoredImages
from kd_lightning.data.neighbors import Neighbors, nearest_neighbors, save_table
from kd_lightning.data.samplers import NeighborSampler
from kd_lightning.errors import ConfigError

TEACHER = SimpleNamespace(name="wise", fingerprint=lambda: "a1")
DIGITS = Digits()
DIGITS.setup("fit")
IMAGES = DIGITS.datasets["train"]
NEAREST = nearest_neighbors(IMAGES.take(torch.arange(1293)).images.flatten(1).float(), 9)


def embeddings(count: int = 300) -> Tensor:
    return torch.randn((count, 24), generator=torch.Generator().manual_seed(0)) + 0.3


def reference(rows: Tensor, k: int) -> Tensor:
    model = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(rows.double().numpy())
    return torch.from_numpy(model.kneighbors(return_distance=False))  # leaves each row itself out


@pytest.mark.parametrize(("count", "k"), [(300, 1), (300, 7), (60, 59), (2, 1)])
def test_neighbours_are_scikit_learns_whatever_the_blocks(count: int, k: int) -> None:
    rows = embeddings(count)
    for chunk, columns in ((1024, 65536), (300, 300), (64, 50), (7, 3), (300, 1), (1, 59)):
        found = nearest_neighbors(rows, k, chunk=chunk, columns=columns)
        assert torch.equal(found, reference(rows, k)), (chunk, columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    rows = (embeddings() * 50).to(dtype)
    assert torch.equal(nearest_neighbors(rows, 5, chunk=77, columns=111), reference(rows, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_neighbors(rows, 5), reference(rows, 5))


@pytest.mark.parametrize(("chunk", "columns"), [(1024, 65536), (20, 15), (3, 1)])
def test_exact_duplicates_are_neighbours_and_a_row_itself_never_is(chunk: int, columns: int) -> None:
    rows = embeddings(60)
    rows[[20, 59]] = rows[[0, 0]]
    rows[40:45] = 0  # has no direction: is near nothing, but does no harm
    found = nearest_neighbors(rows, 3, chunk=chunk, columns=columns).tolist()
    assert [{*found[row][:2]} for row in (0, 20, 59)] == [{20, 59}, {0, 59}, {0, 20}]
    assert (nearest_neighbors(rows, 59, chunk=chunk, columns=columns) != torch.arange(60)[:, None]).all()
    assert (nearest_neighbors(torch.ones(9, 4), 8, chunk=chunk, columns=columns).sort(dim=1).values.diff() > 0).all()


def test_what_has_no_neighbours() -> None:
    rows = embeddings()
    for k in (0, -1, 300, 301):
        with pytest.raises(ConfigError, match=f"k: {k} is given, but with 300 images k must be 1 to 299"):
            nearest_neighbors(rows, k)
    for rows[299, 3] in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="not finite"):
            nearest_neighbors(rows, 5, chunk=100, columns=100)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "of" / "digits.safetensors"
    save_table(path, NEAREST, IMAGES, TEACHER)
    return path


def test_a_table_comes_back_as_it_was_saved(table: Path) -> None:
    for candidates in (9, 4):
        neighbors = Neighbors(str(table), count=3, candidates=candidates)
        neighbors.load(IMAGES)
        assert torch.equal(neighbors.rows, NEAREST[:, :candidates])
    neighbors.check_teacher(TEACHER)
    with pytest.raises(ConfigError, match=r"was created with another teacher \(wise\), .* differ from wiser;"):
        neighbors.check_teacher(SimpleNamespace(name="wiser", fingerprint=lambda: "b2"))


def test_tables_of_other_images_are_refused(table: Path) -> None:
    neighbors, rows, pixels = Neighbors(str(table), count=3, candidates=5), torch.arange(1293), IMAGES.images.clone()
    pixels[IMAGES.places[0], 2, 7, 7] ^= 1
    changed = StoredImages(pixels, IMAGES.labels, IMAGES.indices, places=IMAGES.places)
    for others in (changed, IMAGES.subset(rows[:-1]), IMAGES.subset(rows.flip(0)), IMAGES.subset(rows.roll(1))):
        with pytest.raises(ConfigError, match="was created from other images; create it again"):
            neighbors.load(others)
    neighbors.load(IMAGES.subset(rows))
    with pytest.raises(ConfigError, match=r"data\.neighbors\.candidates: .* has 9 neighbours per image, fewer than 10"):
        Neighbors(str(table), count=3, candidates=10).load(IMAGES)


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a table")
    save_file({"neighbors": torch.zeros((3, 9)), "indices": torch.arange(3)}, tmp_path / "without_facts")
    os.mkfifo(tmp_path / "pipe")
    deep = {"data": "[" * 100_000, "format": "pt"}
    save_file({"neighbors": NEAREST, "indices": IMAGES.indices}, tmp_path / "deep", deep)
    reasons = dict.fromkeys(("text", "without_facts", ".", "deep"), "is not a table of neighbours")
    for name, words in (reasons | {"missing": "does not exist", "pipe": "is a pipe, a socket or a device"}).items():
        with pytest.raises(ConfigError, match=rf"data\.neighbors\.path: .* {words}"):
            Neighbors(str(tmp_path / name), count=3, candidates=5).load(IMAGES)
    for count in (0, 6):
        with pytest.raises(ConfigError, match=f"data.neighbors.count: {count} is not from 1 to candidates \\(5\\)"):
            Neighbors("x", count=count, candidates=5)


TABLES = {
    "one dimension": (NEAREST[:, 0].clone(), "neighbors has the shape (1293,) and the type int64, not 2-D integers"),
    "three dimensions": (NEAREST[..., None], "neighbors has the shape (1293, 9, 1) and the type int64"),
    "no dimension": (torch.tensor(3), "neighbors has the shape () and the type int64"),
    "floats": (NEAREST.float(), "neighbors has the shape (1293, 9) and the type float32, not 2-D integers"),
    "NaN": (NEAREST.double() * float("nan"), "and the type float64"),
    "bools": (NEAREST > 3, "and the type bool"),
    "fewer rows": (NEAREST[:-1], "it has 1,292 rows, but 1,293 indices of images"),
    "more rows": (torch.cat([NEAREST, NEAREST[:1]]), "it has 1,294 rows, but 1,293 indices of images"),
    "no rows": (NEAREST[:0], "it has 0 rows, but 1,293 indices of images"),
    "a row too high": (NEAREST.clamp(min=1293), "it contains the row 1293, but its rows are 0 to 1292"),
    "a negative row": (-NEAREST, "but its rows are 0 to 1292"),
    "themselves": (torch.arange(1293)[:, None].repeat(1, 9), "an image is its own neighbour"),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_rows_are_one_line(case: str, table: Path, tmp_path: Path) -> None:
    rows, words = TABLES[case]
    with safe_open(table, "pt") as file:
        facts = file.metadata()
    for dtype in {rows.dtype, torch.int32 if rows.dtype == torch.int64 else rows.dtype}:
        save_file({"neighbors": rows.to(dtype), "indices": IMAGES.indices}, tmp_path / "t.safetensors", facts)
        with pytest.raises(ConfigError, match=r"data\.neighbors\.path: .* is not a table of neighbours \(.*") as raised:
            Neighbors(str(tmp_path / "t.safetensors"), count=3, candidates=5).load(IMAGES)
        assert words.replace("int64", str(dtype).removeprefix("torch.")) in str(raised.value)
    for indices in (IMAGES.indices.float(), IMAGES.indices[:, None]):
        save_file({"neighbors": NEAREST, "indices": indices.contiguous()}, tmp_path / "t.safetensors", facts)
        with pytest.raises(ConfigError, match=r"\(indices has the shape .* not 1-D integers\); create it again"):
            Neighbors(str(tmp_path / "t.safetensors"), count=3, candidates=5).load(IMAGES)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_is_an_anchor_once_an_epoch(world: int) -> None:
    near, epochs, counts = nearest_neighbors(embeddings(50), 8), [], torch.zeros(8)
    for epoch in range(40):
        chosen = {}
        for rank in range(world):
            sampler = NeighborSampler(near, count=3, seed=0, rank=rank, world=world)
            sampler.set_epoch(epoch)
            places = [*sampler]
            assert len(places) == len(sampler) == 50 // world * 4
            assert places == [*sampler]
            for (_, anchor, copy), *others in zip(*[iter(places)] * 4, strict=True):
                assert [copy, *{(number, of) for number, _, of in others}] == [0, (epoch, 1 + anchor)]
                assert anchor not in chosen
                chosen[anchor] = [near[anchor].tolist().index(row) for _, row, _ in others]
                assert len({*chosen[anchor]}) == 3
                counts[chosen[anchor]] += 1
        assert len(chosen) == 50 // world * world
        epochs.append(chosen)
    assert chisquare(counts.numpy()).pvalue > 1e-4
    assert sum(epochs[0][anchor] == epochs[1].get(anchor) for anchor in epochs[0]) < 5


def test_batches_of_anchors_and_their_neighbours(table: Path) -> None:
    data, anchors, keys = Digits(neighbors=Neighbors(str(table), count=3, candidates=5), batch_size=32), [], []
    data.setup("fit")
    for batch in data.train_dataloader():
        rows = torch.searchsorted(IMAGES.indices, batch.indices)
        assert torch.equal(batch.images, IMAGES.take(rows).images)
        for anchor, *others in rows.view(8, 4).tolist():
            assert len({*others} & {*data.neighbors.rows[anchor].tolist()}) == 3
            anchors.append(anchor)
        keys.append(batch.keys)
    assert len(anchors) == len({*anchors}) == 1293 // 8 * 8
    assert len(torch.cat(keys).unique()) == len(anchors) * 4  # so that an image that comes again is augmented anew
    with pytest.raises(ConfigError, match=r"data.batch_size: 30 images cannot be divided into anchors with 3"):
        Digits(neighbors=data.neighbors, batch_size=30)


def test_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    rows = torch.randn((300, 16), generator=torch.Generator().manual_seed(0))
    rows[7:12] = rows[7]  # more duplicates than k
    ours, theirs = nearest_neighbors(rows, 3), nearest_neighbors(rows, 3, engine="faiss", chunk=64)
    cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T
    torch.testing.assert_close(cosines.gather(1, ours), cosines.gather(1, theirs))  # ties may come in another order
    assert not (theirs == torch.arange(300)[:, None]).any()
    assert {*theirs[7:12].flatten().tolist()} <= {*range(7, 12)}
