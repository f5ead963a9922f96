"""Check docs/ledger.yaml and write docs/results.md from it: `python -m docs.ledger`."""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LEDGER, PAGE = ROOT / "docs" / "ledger.yaml", ROOT / "docs" / "results.md"
NOT_RUN = "not run here"
REQUIRED = {"config", "published", "measured"}
FIELDS = REQUIRED | {"changes", "command", "seeds", "protocol", "time", "note"}
INTRODUCTION = """\
<!-- Written by `python -m docs.ledger` from docs/ledger.yaml; do not edit it here. -->
# Results

This page lists measured results and published results, and explains why they differ. **No recipe of a paper has been
run in this project.** The measured results come from smaller settings, which have their own configs. Each row is the
result of

`python -m kd_lightning fit --config configs/CONFIG CHANGES --seed_everything SEED`

with CONFIG and CHANGES from its first column, once for each of its seeds. The number after ± is the standard deviation
over the seeds. A row without ± was run with one seed. The "best epoch by validation" was selected on held-out images
and tested once. The "last epoch" needs no selection.
"""
CONCLUSION = """\
## Why measured results can differ from published ones

- **Epoch**: the configs of papers test the last epoch, once. The released code of many papers reports the best test
  epoch, which is higher.
- **Seeds**: published means are over 1 to 5 runs. The rows above name their seeds.
- **Teacher**: a `teacher.yaml` trains a new teacher. A released checkpoint has other weights, even if it has the same
  name. The configs of teachers name the released file.
- **Rounding**: versions of torch and timm and the kind of GPU change the last digits. Over 200 epochs, the difference
  grows.
- **STKD** is inferred from the abstract of its paper, and **TinTeM** was written from its released code. No published
  result of either paper is known in this project.

To add a result, run the command of its row, write the seeds, the protocol and the values into `docs/ledger.yaml`, and
run `python -m docs.ledger`. Keep the `results.json` of the run as evidence.
"""


class LedgerError(ValueError):
    """A row is not valid; the message names the row and the field."""


def read(text: str, configs: Path = ROOT / "configs") -> list[dict[str, Any]]:
    """Return the sections of the ledger.

    Raises:
        LedgerError: for a section or row that is not valid.
    """
    sections = yaml.safe_load(text)
    for section in sections:
        if {*section} != {"title", "about", "rows"}:
            raise LedgerError(f"section {section.get('title')}: its fields must be title, about and rows")
        for number, row in enumerate(section["rows"], 1):
            if problem := _problem(row, configs):
                config = row.get("config") if isinstance(row, dict) else row
                raise LedgerError(f"{section['title']}, row {number} ({config}): {problem}")
    return sections


def _problem(row: dict[str, Any], configs: Path) -> str:
    """Return what is wrong with a row, or ''."""
    if not isinstance(row, dict):
        return "a row must be a mapping of fields to values"
    if unknown := {*row} - FIELDS:
        return f"unknown field {sorted(unknown)[0]}; choices: {', '.join(sorted(FIELDS))}"
    if missing := REQUIRED - {*row}:
        return f"the field {sorted(missing)[0]} is missing"
    if not (configs / str(row["config"])).is_file():
        return "there is no such config"
    texts = [name for name in ("changes", "protocol", "time", "note", "command") if name in row]
    if wrong := [name for name in texts if not isinstance(row[name], str) or "|" in row[name]]:
        return f"{wrong[0]} must be a text without |"
    published, measured = row["published"], row["measured"]
    if published is not None and (not isinstance(published, dict) or {*published} != {"value", "source"}):
        return "published must be null or have a value and a source"
    if measured == NOT_RUN:
        return ""
    if not isinstance(measured, dict) or not measured:
        return f"measured must be values by metric, or: {NOT_RUN}"
    if lacking := [field for field in ("seeds", "protocol") if field not in row]:
        return f"the field {lacking[0]} is missing, which measured values need"
    return ""


def page(sections: list[dict[str, Any]], configs: Path = ROOT / "configs") -> str:
    """Return the text of docs/results.md."""
    parts = [INTRODUCTION]
    for section in sections:
        parts.append(f"## {section['title']}\n\n{section['about'].strip()}\n")
        run = [row for row in section["rows"] if row["measured"] != NOT_RUN]
        if run:
            metrics = list(dict.fromkeys(metric for row in run for metric in row["measured"]))
            columns = ["config", *metrics, "seeds", "protocol and time", "published"]
            parts.append(_table(columns, [[_config(row), *_values(row, metrics)] for row in run]))
            commands = {row["command"]: None for row in run if "command" in row}
            parts += [f"The values are results of a second command:\n\n{_list(commands)}\n"] if commands else []
        if others := [row for row in section["rows"] if row["measured"] == NOT_RUN]:
            columns = ["config", "what it is", "published", "source", "measured", "time", "note"]
            parts.append(_table(columns, [_not_run(row, configs) for row in others]))
    return "\n".join([*parts, CONCLUSION])


def _config(row: dict[str, Any]) -> str:
    return f"`{row['config']}{' ' + row['changes'] if 'changes' in row else ''}`"


def _values(row: dict[str, Any], metrics: list[str]) -> list[str]:
    details = "; ".join(row[field] for field in ("protocol", "time", "note") if field in row)
    published = f"{row['published']['value']} ({row['published']['source']})" if row["published"] else "-"
    return [*(row["measured"].get(metric, "") for metric in metrics), str(row["seeds"]), details, published]


def _not_run(row: dict[str, Any], configs: Path) -> list[str]:
    title = (configs / row["config"]).read_text().splitlines()[0].removeprefix("# ").rstrip(".")
    published = row["published"] or {"value": "none known", "source": ""}
    return [
        _config(row),
        title,
        published["value"],
        published["source"],
        NOT_RUN,
        row.get("time", ""),
        row.get("note", ""),
    ]


def _table(columns: list[str], rows: list[list[str]]) -> str:
    kept = [place for place in range(len(columns)) if any(row[place] not in ("", "-") for row in rows)]
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(line[place]) for place in kept) + " |\n" for line in lines)


def _list(items: dict[str, None]) -> str:
    return "\n".join(f"- `{item}`" for item in items)


if __name__ == "__main__":
    try:
        PAGE.write_text(page(read(LEDGER.read_text())))
    except (LedgerError, yaml.YAMLError) as error:
        sys.exit(f"error: docs/ledger.yaml: {' '.join(str(error).split())}")
    print(f"wrote {PAGE}")
