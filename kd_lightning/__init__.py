"""kd_lightning: knowledge distillation with PyTorch Lightning. Public names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_lightning.batch import Batch as Batch
    from kd_lightning.distillation import Distiller as Distiller
    from kd_lightning.distillation import StudentModule as StudentModule
    from kd_lightning.models import Network as Network
    from kd_lightning.runs.loading import load_run as load_run

__version__: str
_PUBLIC = {
    "Batch": "kd_lightning.batch",
    "Distiller": "kd_lightning.distillation",
    "Network": "kd_lightning.models",
    "StudentModule": "kd_lightning.distillation",
    "load_run": "kd_lightning.runs.loading",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kd_lightning")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kd_lightning' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, "__version__"})
