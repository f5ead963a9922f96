"""Distillation methods, with one file per paper. In a config, a class is named without its module: `SP`."""

from kd_lightning.methods.ab import AB
from kd_lightning.methods.aicsd import AICSD
from kd_lightning.methods.at import AT
from kd_lightning.methods.ckd import CKD
from kd_lightning.methods.corsd import CORSD
from kd_lightning.methods.cosine_similarity_kd import CosineSimilarityKD
from kd_lightning.methods.coss import CoSS
from kd_lightning.methods.cpcl import CPCL
from kd_lightning.methods.crd import CRD
from kd_lightning.methods.dist import DIST
from kd_lightning.methods.embed_distill import EmbedDistill
from kd_lightning.methods.fitnet import FitNet
from kd_lightning.methods.fsp import FSP
from kd_lightning.methods.ft import FT
from kd_lightning.methods.iu_spkd import IUSPKD
from kd_lightning.methods.kd import KD
from kd_lightning.methods.mhkd import MHKD
from kd_lightning.methods.ofd import OFD
from kd_lightning.methods.okdmde import OKDMDE
from kd_lightning.methods.pckd import PCKD
from kd_lightning.methods.pkt import PKT
from kd_lightning.methods.residual_kd import ResidualKD
from kd_lightning.methods.rkd import RKD
from kd_lightning.methods.seed import SEED
from kd_lightning.methods.simreg import SimReg
from kd_lightning.methods.sp import SP
from kd_lightning.methods.stkd import STKD
from kd_lightning.methods.supervised import Supervised
from kd_lightning.methods.swing_kd import SwingKD
from kd_lightning.methods.tintem import TinTeM

__all__ = [
    "AB",
    "AICSD",
    "AT",
    "CKD",
    "CORSD",
    "CPCL",
    "CRD",
    "DIST",
    "FSP",
    "FT",
    "IUSPKD",
    "KD",
    "MHKD",
    "OFD",
    "OKDMDE",
    "PCKD",
    "PKT",
    "RKD",
    "SEED",
    "SP",
    "STKD",
    "CoSS",
    "CosineSimilarityKD",
    "EmbedDistill",
    "FitNet",
    "ResidualKD",
    "SimReg",
    "Supervised",
    "SwingKD",
    "TinTeM",
]
