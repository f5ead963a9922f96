"""CPU time (user) of short commands, compared with the CPU time of importing the libraries."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from rich.table import Table

from benchmarks.tables import say_round
from kd_lightning.commands.running import run_class
from kd_lightning.errors import check_positive
from kd_lightning.io.console import wide

ROOT = Path(__file__).parents[1]
LIBRARIES = ("-c", "import torch, lightning.pytorch.cli, timm, torchmetrics")
_CONFIG = str(ROOT / "configs/digits/kd.yaml")
COMMANDS: dict[str, tuple[tuple[str, ...], float]] = {
    "--help": (("-m", "kd_lightning", "--help"), 0.35),
    "list": (("-m", "kd_lightning", "list"), 0.35),
    "compare --help": (("-m", "kd_lightning", "compare", "--help"), 0.35),
    "fit --print_config": (("-m", "kd_lightning", "fit", "--config", _CONFIG, "--print_config"), 1.05),
}
"""Arguments of Python for each command, and the largest allowed CPU time of the command.

The CPU time is given as a share of the CPU time that importing the libraries takes.
"""


class StartBenchmark:
    """Measures the CPU time (user) of short commands, and of importing torch, Lightning, timm and torchmetrics.

    Each command is first run once, so that Python writes its bytecode. It is then run once per round.

    Args:
        rounds: number of timed rounds. The medians are printed.
    """

    def __init__(self, rounds: int = 5) -> None:
        check_positive(rounds=rounds)
        self.rounds = rounds

    def __call__(self) -> dict[str, float]:
        """Print a table, and return for each command its CPU time divided by that of importing the libraries."""
        lines = {"libraries": LIBRARIES, **{name: line for name, (line, _) in COMMANDS.items()}}
        seconds: dict[str, list[float]] = {name: [] for name in lines}
        for number in range(self.rounds + 1):
            for name, line in lines.items():
                spent = user_seconds(line)
                if number:
                    seconds[name].append(spent)
            say_round(number, self.rounds, ", ".join(lines))
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        shares = {name: medians[name] / medians["libraries"] for name in COMMANDS}
        table = Table(title=f"start-up, {self.rounds} rounds", title_justify="left")
        for column in ("", "user CPU s, median", "lowest to highest", "share", "at most"):
            table.add_column(column, justify="right" if column else "left")
        for name, times in seconds.items():
            share = (f"{shares[name]:.2f}", f"{COMMANDS[name][1]:.2f}") if name in COMMANDS else ("1.00", "")
            table.add_row(name, f"{medians[name]:.2f}", f"{min(times):.2f} to {max(times):.2f}", *share)
        wide().print(table)
        return shares


def user_seconds(line: tuple[str, ...]) -> float:
    """Return the CPU time (user) of a Python process in seconds.

    Raises:
        subprocess.CalledProcessError: if the process fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, *line], check=True, capture_output=True, cwd=ROOT, env=environment)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


if __name__ == "__main__":
    run_class(StartBenchmark, prog="python -m benchmarks.start")
