"""Callbacks that save, resume, stop, check and report on a run."""

from kd_lightning.callbacks.ema import EMA
from kd_lightning.callbacks.memory import OutOfMemory
from kd_lightning.callbacks.non_finite import NonFiniteGuard
from kd_lightning.callbacks.predictions import SavePredictions
from kd_lightning.callbacks.preemption import PreemptionHandler
from kd_lightning.callbacks.progress import Progress
from kd_lightning.callbacks.protocol import Protocol
from kd_lightning.callbacks.run_status import RunStatus
from kd_lightning.callbacks.run_summary import RunSummary
from kd_lightning.callbacks.save_config import SaveConfig
from kd_lightning.callbacks.speed import Speed
from kd_lightning.callbacks.teacher_accuracy import TeacherAccuracy
from kd_lightning.callbacks.teacher_agreement import TeacherAgreement

__all__ = [
    "EMA",
    "NonFiniteGuard",
    "OutOfMemory",
    "PreemptionHandler",
    "Progress",
    "Protocol",
    "RunStatus",
    "RunSummary",
    "SaveConfig",
    "SavePredictions",
    "Speed",
    "TeacherAccuracy",
    "TeacherAgreement",
]
