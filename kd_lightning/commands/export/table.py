"""What an export prints: files, parity and latency, side by side."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from kd_lightning.commands.export.deployed import Deployed
from kd_lightning.commands.export.parity import Parity
from kd_lightning.commands.export.source import Source


@dataclass(frozen=True)
class Row:
    """One format."""

    name: str
    path: Path | None
    parity: Parity | None


def table(rows: list[Row], times: dict[str, list[float]], batch_sizes: list[int], threads: int) -> Table:
    """The formats, PyTorch first, with their latencies in milliseconds, and how many times PyTorch's they are."""
    word = "thread" if threads == 1 else "threads"
    shown = Table(
        title="export: outputs held to PyTorch's" + (f"; ms a batch, {threads} {word}" if batch_sizes else "")
    )
    shown.add_column("format")
    for title in ("file", "MB", "largest difference", "of largest output", "same class"):
        shown.add_column(title, justify="left" if title == "file" else "right")
    for size in batch_sizes:
        shown.add_column(f"batch {size}", justify="right")
    for row in rows:
        parity = row.parity
        cells = [row.name, row.path.name if row.path else "", f"{_bytes(row.path) / 1e6:.3f}" if row.path else ""]
        if parity is None:
            cells += ["", "", ""]
        else:
            same = "" if parity.same_class is None else f"{parity.same_class:.2%}"
            cells += [f"{parity.largest:.1e}", f"{parity.relative:.1e}", same]
        eager = times["PyTorch"]
        for own, theirs in zip(times[row.name], eager, strict=True):
            cells.append(f"{own:.2f}" + ("" if row.parity is None else f" ({own / theirs:.2f} x)"))
        shown.add_row(*cells)
    return shown


def notes(student: Deployed, source: Source, rows: list[Row], costs: dict[str, float] | None) -> list[str]:
    """What the table does not say, a line each."""
    side, parity = student.side, next(row.parity for row in rows if row.parity)
    takes = "uint8" if student.dtype == "uint8" else "float32 in [0, 1]"
    within = f", resized within to {student.network.size}" if student.resizes else ""
    lines = [
        f"held to {parity.images} {source.split} images of {source.data.name}, in batches of "
        f"{', '.join(map(str, parity.batch_sizes))}; graphs take N,3,{side},{side} {takes}{within}, and give "
        f"{' and '.join(student.outputs)}"
    ]
    if costs:
        lines.append(_int8(costs, source.split))
    return lines


def _int8(costs: dict[str, float], split: str) -> str:
    where = f"int8, on all {costs['images']:,.0f} {split} images:"
    if "acc" in costs:
        return (
            f"{where} accuracy {costs['acc']:.2%}, in float32 {costs['acc_float']:.2%}; "
            f"the same class in {costs['agreement']:.2%}"
        )
    if "agreement" in costs:
        return f"{where} the same class as in float32 in {costs['agreement']:.2%} (there are no labels)"
    return f"{where} cosine of the embedding to float32's {costs['cosine']:.4f} on average"


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
