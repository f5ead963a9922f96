"""What the tests of methods share: the imports of a process's first fit, so that they count for no method."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _first_fit(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what a first fit imports."""
    from helpers.factories import digits, student, trainer

    from kd_lightning.methods import Supervised

    trainer(tmp_path_factory.mktemp("first"), fast_dev_run=True).fit(Supervised(student=student()), digits())
