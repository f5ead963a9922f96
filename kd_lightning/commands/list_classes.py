"""list: print methods, data sets, networks and evaluators, read from their source files without importing torch."""

from typing import Literal

from rich.table import Table

from kd_lightning.commands import catalog
from kd_lightning.io.console import titled, wide

Kind = Literal["methods", "data", "networks", "evaluators"]
_TABLES = {
    "methods": ("methods: --model NAME", catalog.methods),
    "data": ("data sets: --data NAME", catalog.data_sets),
    "networks": ("networks for 32 px: --model.student.name NAME (or any timm model)", catalog.networks),
    "evaluators": ("evaluators: --trainer.callbacks+=NAME", catalog.evaluators),
}


class ListClasses:
    """Lists the classes and networks that a config can name: `list` prints all tables, `list methods` only one table.

    Args:
        kinds: tables to print: methods, data, networks, evaluators; default: all.
    """

    def __init__(self, kinds: list[Kind]) -> None:
        self.kinds = kinds or [*_TABLES]

    def __call__(self) -> dict[str, list[dict[str, str]]]:
        """Print the tables, and return their rows by kind."""
        console, rows = wide(), {}
        for kind in self.kinds:
            title, rows_of = _TABLES[kind]
            rows[kind] = rows_of()
            table = Table()
            for column in rows[kind][0]:
                table.add_column(column, no_wrap=column == "name" and kind != "networks")
            for row in rows[kind]:
                table.add_row(*row.values())
            console.print(titled(title, table))
        return rows
