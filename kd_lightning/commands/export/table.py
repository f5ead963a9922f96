"""The table that an export prints: files, differences to PyTorch, and latency."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table

from kd_lightning.commands.export.exported_model import ExportedModel
from kd_lightning.commands.export.loaded_student import LoadedStudent
from kd_lightning.commands.export.parity import Parity
from kd_lightning.io.console import titled
from kd_lightning.words import counted, images_of


@dataclass(frozen=True)
class Row:
    """A row of the table, which describes one format."""

    name: str
    path: Path | None
    parity: Parity | None


def table(rows: list[Row], times: dict[str, list[float]], batch_sizes: list[int], threads: int) -> Group:
    """Return a table of PyTorch and the formats. Latencies are in milliseconds, and as multiples of PyTorch's."""
    latency = f"; ms per batch, {counted(threads, 'thread')}" if batch_sizes else ""
    result = Table()
    result.add_column("format")
    for title in ("file", "MB", "largest difference", "of largest output", "same class"):
        result.add_column(title, justify="left" if title == "file" else "right")
    for size in batch_sizes:
        result.add_column(f"batch {size}", justify="right")
    for row in rows:
        parity = row.parity
        cells = [row.name, row.path.name if row.path else "", f"{_bytes(row.path) / 1e6:.3f}" if row.path else ""]
        if parity is None:
            cells += ["", "", ""]
        else:
            same = "" if parity.same_class is None else f"{parity.same_class:.2%}"
            cells += [f"{parity.largest:.1e}", f"{parity.relative:.1e}", same]
        pytorch = times["PyTorch"]
        for model_value, pytorch_value in zip(times[row.name], pytorch, strict=True):
            cells.append(
                f"{model_value:.2f}" + ("" if row.parity is None else f" ({model_value / pytorch_value:.2f} x)")
            )
        result.add_row(*cells)
    return titled(f"export: comparison with PyTorch{latency}", result)


def notes(student: ExportedModel, source: LoadedStudent, rows: list[Row], costs: dict[str, float] | None) -> list[str]:
    """Return the lines that are printed below the table."""
    side, parity = student.side, next(row.parity for row in rows if row.parity)
    input_type = "uint8" if student.dtype == "uint8" else "float32 in [0, 1]"
    resize_note = f", resize the images to {student.network.size} pixels" if student.resizes else ""
    lines = [
        f"compared on {images_of(source.split, parity.images)} of {source.data.name}, in batches of "
        f"{', '.join(map(str, parity.batch_sizes))}; graphs take N,3,{side},{side} {input_type}{resize_note} "
        f"and return {' and '.join(student.outputs)}"
    ]
    if costs:
        lines.append(_int8(costs, source.split))
    return lines


def _int8(costs: dict[str, float], split: str) -> str:
    prefix = f"int8, on all {images_of(split, int(costs['images']))}:"
    if "acc" in costs:
        return (
            f"{prefix} accuracy {costs['acc']:.2%}, in float32 {costs['acc_float']:.2%}; "
            f"the same class for {costs['agreement']:.2%} of the images"
        )
    if "agreement" in costs:
        return f"{prefix} the same class as in float32 for {costs['agreement']:.2%} of the images (without labels)"
    return f"{prefix} mean cosine of the embedding and the float32 embedding {costs['cosine']:.4f}"


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
