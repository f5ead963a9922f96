"""The tables that `benchmarks.fit` prints."""

import statistics
from typing import Any

from rich.table import Table

from benchmarks.step_profiler import ORDER
from kd_lightning.io.console import wide

_NAMES = {
    "fit": "fit",
    "bare": "the bare loop",
    "networks": "both networks, without the loss",
}


def print_one(result: dict[str, Any]) -> None:
    """Print the table of the loops for one config and variant, and the table of the parts of a step."""
    console = wide()
    if "error" in result:
        console.print(f"failed: {result['error']}", highlight=False)
        return
    seconds = result["seconds"]
    title = f"{result['title']}; {result['settings']}; {len(seconds['fit'])} rounds"
    bare, fit = (statistics.median(seconds[name]) for name in ("bare", "fit"))
    table = Table(title=title, title_justify="left")
    columns = ["", "images/s", "ms per step, median", "lowest to highest", "times the bare loop's"]
    columns += ["speed of fit", "peak MiB"]
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for name, times in seconds.items():
        median, memory = statistics.median(times), result["memory"].get(name.partition(" in ")[0])
        spread = f"{min(times) * 1e3:,.1f} to {max(times) * 1e3:,.1f}"
        most = f"{memory['peak']:,.0f} ({memory['before']:,.0f} before)" if memory else ""
        row = [_NAMES.get(name, name), f"{result['images'] / median:,.0f}", f"{median * 1e3:,.1f}", spread]
        faster = "" if name == "fit" else f"{median / fit:.2f} x as fast"
        table.add_row(*row, f"{median / bare:.3f}", faster, most)
    console.print(table)
    parts = {part: statistics.median(result["parts"][part]) for part in ORDER if part in result["parts"]}
    total = sum(parts.values())
    console.print(f"parts of a step of fit: {total * 1e3:,.1f} ms in total with the profiler", highlight=False)
    table = Table()
    for column in ("", "ms, median", "share"):
        table.add_column(column, justify="left" if not column else "right")
    for part, value in parts.items():
        table.add_row(part, f"{value * 1e3:,.2f}", f"{value / total:.1%}")
    console.print(table)


def print_all(results: list[dict[str, Any]]) -> None:
    """Print a table with one row for each config and variant."""
    table = Table(title="all configs and variants", title_justify="left")
    columns = ["", "variant", "images/s", "ms per step", "lowest to highest", "s per epoch", "times the bare loop's"]
    known = [name for result in results for name in result.get("seconds", {}) if name.startswith("torchdistill")]
    others = [*dict.fromkeys(name.partition(",")[0] for name in known)]
    for column in [*columns, "peak MiB", "peak MiB, bare loop", *(f"times the images/s of {name}" for name in others)]:
        table.add_column(column, justify="left" if column in ("", "variant") else "right", overflow="fold")
    for result in results:
        if "error" in result:
            table.add_row(result["config"], result["variant"], f"failed: {result['error']}")
            continue
        fit, bare = (statistics.median(result["seconds"][name]) for name in ("fit", "bare"))
        times = result["seconds"]["fit"]
        peaks = [
            f"{result['memory'][name]['peak']:,.0f}" if name in result["memory"] else "" for name in ("fit", "bare")
        ]
        row = [f"{result['title']}; {result['settings']}", result["variant"], f"{result['images'] / fit:,.0f}"]
        row += [f"{fit * 1e3:,.1f}", f"{min(times) * 1e3:,.1f} to {max(times) * 1e3:,.1f}"]
        row += [f"{fit * result['batches']:,.2f}", f"{fit / bare:.3f}", *peaks]
        medians = {name.partition(",")[0]: statistics.median(times) for name, times in result["seconds"].items()}
        table.add_row(*row, *(f"{medians[name] / fit:.2f}" if name in medians else "" for name in others))
    wide().print(table)
