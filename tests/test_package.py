"""Public names of the package, which are imported when they are used."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import kd_lightning


def test_public_names() -> None:
    from kd_lightning import Batch, Distiller, Network, StudentModule, load_run

    assert {kind.__name__ for kind in (Batch, Distiller, Network, StudentModule)} | {load_run.__name__} <= {
        *dir(kd_lightning)
    }
    assert kd_lightning.__version__ == version("kd_lightning")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = kd_lightning.Nothing
    with pytest.raises(ImportError):
        from kd_lightning import Nothing  # noqa: F401


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, kd_lightning; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
