"""Features as rows of bytes: the same values, types, passes and memory formats come back, in any order of the rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lightning.distillation.feature_bytes import Layout
from kd_lightning.distillation.passes import Seen
from kd_lightning.distillation.stored_rows import StoredRows
from kd_lightning.models import Features

CPU = torch.device("cpu")


def features(count: int = 6) -> Features:
    maps = [torch.randn(count, 4, 3, 3).to(memory_format=torch.channels_last), torch.randn(count, 8, 2, 2)]
    return Features(maps, tokens=torch.randn(count, 5, 7).bfloat16(), logits=torch.randn(count, 10))


def tensors(seen: Seen) -> list[Tensor]:
    passes = seen if isinstance(seen, list) else [seen]
    return [
        value
        for each in passes
        for value in (*each.maps, each.tokens, each.embedding, each.logits)
        if value is not None
    ]


@pytest.mark.parametrize("seen", [features(), [features()], [features(), features(12)], []])
def test_everything_comes_back(seen: Seen) -> None:
    layout = Layout.of(seen, 6, "float32")
    content = layout.to_bytes(seen) if tensors(seen) else np.empty((6, 0), np.uint8)
    assert content.shape == (6, layout.size)
    found = Layout.from_json({"columns": [[*column] for column in layout.columns], "passes": layout.passes})
    assert found == layout
    back = layout.from_bytes(content, CPU)
    assert type(back) is type(seen)
    for value, expected in zip(tensors(back), tensors(seen), strict=True):
        assert torch.equal(value, expected)
        assert value.dtype == expected.dtype
        assert value.stride() == expected.stride()


def test_rows_belong_to_images_also_with_several_images_per_row() -> None:
    """A pass of 2 N images has the first images of all rows, then the second images (PCKD's rotations)."""
    seen = Features(logits=torch.arange(12.0).reshape(6, 2))
    layout = Layout.of(seen, 3, "float32")
    assert layout.columns[0].shape == [2, 2]
    content = layout.to_bytes(seen)[[2, 0, 1]]
    assert torch.equal(layout.from_bytes(content, CPU).logits, seen.logits[[2, 0, 1, 5, 3, 4]])
    with pytest.raises(ValueError, match="a pass of 6 images does not belong to the 4 images of a batch"):
        Layout.of(seen, 4, "float32")


def test_half_precision_halves_the_size_and_keeps_shorter_types() -> None:
    layout = Layout.of(features(), 6, "float16")
    assert [column.stored for column in layout.columns] == ["float16", "float16", "bfloat16", "float16"]
    assert layout.size == 2 * (36 + 32 + 35 + 10)
    back = layout.from_bytes(layout.to_bytes(features()), CPU)
    assert back.logits.dtype == torch.float32


def test_rows_are_there_only_if_they_were_written_completely(tmp_path: Path) -> None:
    StoredRows.create(tmp_path, 5, 8)
    rows, content = StoredRows(tmp_path, 5, 8), np.arange(24, dtype=np.uint8).reshape(3, 8)
    assert rows.filled == 0
    assert rows.read(np.array([0])) is None
    rows.write(np.array([4, 0, 2]), content)
    assert rows.filled == 3
    other = StoredRows(tmp_path, 5, 8)  # another process
    assert np.array_equal(other.read(np.array([2, 4])), content[[2, 0]])
    assert other.read(np.array([2, 1])) is None
    damaged = np.memmap(tmp_path / "rows.bin", np.uint8, "r+", shape=(5, 8))
    damaged[0, 3] += 1
    assert np.array_equal(other.read(np.array([2])), content[[2]])
    assert other.read(np.array([0, 2])) is None
    other.write(np.array([0]), content[[1]])
    assert np.array_equal(StoredRows(tmp_path, 5, 8).read(np.array([0])), content[[1]])
    zeros = np.zeros((1, 8), np.uint8)
    rows.write(np.array([1]), zeros)
    assert np.array_equal(StoredRows(tmp_path, 5, 8).read(np.array([1])), zeros)
