"""docs/ledger.yaml: its rows are valid, every config has one, and docs/results.md and README state its values."""

import re
from pathlib import Path

import pytest
import yaml
from helpers.resolved import CONFIGS, fitted

from docs import ledger

ROOT = Path(__file__).parents[2]
ROW = {
    "config": "digits/kd.yaml",
    "published": None,
    "measured": {"accuracy": "98 %"},
    "seeds": "0",
    "protocol": "test",
}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [row for section in ledger.read(ledger.LEDGER.read_text()) for row in section["rows"]]


def test_the_page_is_what_the_command_writes() -> None:
    now = ledger.page(ledger.read(ledger.LEDGER.read_text()))
    assert ledger.PAGE.read_text() == now, "python -m docs.ledger"


def test_every_config_has_a_row_and_every_row_a_config(rows: list[dict]) -> None:
    assert {row["config"] for row in rows} == {str(file.relative_to(CONFIGS)) for file in fitted()}
    assert sum(row["measured"] == ledger.NOT_RUN for row in rows) > 30
    assert sum(row["published"] is not None for row in rows) > 30


def test_figures_of_readme_are_those_of_the_ledger(rows: list[dict]) -> None:
    values = {row["config"]: row["measured"] for row in rows if "changes" not in row}
    found = re.findall(
        r"^\|[^|]+\| ([\d.]+(?: ± [\d.]+)? %) \|.*`configs/([\w/-]+\.yaml)` \|$", (ROOT / "README.md").read_text(), re.M
    )
    for figure, path in found:
        assert figure == values[path]["accuracy"], path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "digits/none.yaml"}, "Digits, row 1 (digits/none.yaml): there is no such config"),
        ({"value": 1}, "unknown field value; choices: changes, command, config"),
        ({"published": "76 %"}, "published must be null or have a value and a source"),
        ({"published": {"value": "76 %"}}, "published must be null or have a value and a source"),
        ({"measured": "not run"}, "measured must be values by metric, or: not run here"),
        ({"seeds": ...}, "the field seeds is missing, which measured values need"),
        ({"measured": ...}, "the field measured is missing"),
    ],
)
def test_a_wrong_row_is_named(change: dict, words: str) -> None:
    row = {key: value for key, value in {**ROW, **change}.items() if value is not ...}
    text = yaml.safe_dump([{"title": "Digits", "about": "", "rows": [row]}])
    with pytest.raises(ledger.LedgerError, match=re.escape(words)):
        ledger.read(text)
