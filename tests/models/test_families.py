"""One small network of each of timm's families: each row of the table in docs/networks.md, tried again."""

import pytest
import timm

from docs import families


def test_the_table_names_each_network_once() -> None:
    names = [row["network"] for row in families.rows()]
    assert names == families.NAMES == sorted(set(names))
    assert all(timm.is_model(name) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", families.NAMES)
def test_a_network_does_what_its_row_says(name: str) -> None:
    row = families.row(name)
    assert row in families.rows()
    assert row["student"] == "one step" or row["student"].startswith("refused: ")
