"""Distillation methods: one paper, one file, one class. An import here makes the class's name known in YAML."""

from kd_lightning.methods.coss import CoSS
from kd_lightning.methods.distiller import Distiller
from kd_lightning.methods.kd import KD
from kd_lightning.methods.sp import SP
from kd_lightning.methods.stkd import STKD
from kd_lightning.methods.student import StudentModule
from kd_lightning.methods.supervised import Supervised
from kd_lightning.methods.tintem import TinTeM

__all__ = ["KD", "SP", "STKD", "CoSS", "Distiller", "StudentModule", "Supervised", "TinTeM"]
