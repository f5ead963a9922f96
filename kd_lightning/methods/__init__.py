"""Distillation methods, with one file per paper. In a config, a class is named without its module: `SP`."""

from kd_lightning.methods.ab import AB
from kd_lightning.methods.aicsd import AICSD
from kd_lightning.methods.at import AT
from kd_lightning.methods.cat_kd import CATKD
from kd_lightning.methods.cc import CC
from kd_lightning.methods.ckd import CKD
from kd_lightning.methods.corsd import CORSD
from kd_lightning.methods.cosine_similarity_kd import CosineSimilarityKD
from kd_lightning.methods.coss import CoSS
from kd_lightning.methods.cpcl import CPCL
from kd_lightning.methods.crd import CRD
from kd_lightning.methods.ctkd import CTKD
from kd_lightning.methods.deit import DeiT
from kd_lightning.methods.dist import DIST
from kd_lightning.methods.dkd import DKD
from kd_lightning.methods.embed_distill import EmbedDistill
from kd_lightning.methods.fitnet import FitNet
from kd_lightning.methods.fsp import FSP
from kd_lightning.methods.ft import FT
from kd_lightning.methods.function_matching import FunctionMatching
from kd_lightning.methods.ickd import ICKD
from kd_lightning.methods.iu_spkd import IUSPKD
from kd_lightning.methods.kd import KD
from kd_lightning.methods.kd_plus_plus import KDPlusPlus
from kd_lightning.methods.kdsvd import KDSVD
from kd_lightning.methods.mgd import MGD
from kd_lightning.methods.mhkd import MHKD
from kd_lightning.methods.mlkd import MLKD
from kd_lightning.methods.nkd import NKD
from kd_lightning.methods.nst import NST
from kd_lightning.methods.ofa_kd import OFAKD
from kd_lightning.methods.ofd import OFD
from kd_lightning.methods.okdmde import OKDMDE
from kd_lightning.methods.pckd import PCKD
from kd_lightning.methods.pkt import PKT
from kd_lightning.methods.residual_kd import ResidualKD
from kd_lightning.methods.reviewkd import ReviewKD
from kd_lightning.methods.rkd import RKD
from kd_lightning.methods.rld import RLD
from kd_lightning.methods.sdd import SDD
from kd_lightning.methods.seed import SEED
from kd_lightning.methods.simkd import SimKD
from kd_lightning.methods.simreg import SimReg
from kd_lightning.methods.sp import SP
from kd_lightning.methods.srrl import SRRL
from kd_lightning.methods.stkd import STKD
from kd_lightning.methods.supervised import Supervised
from kd_lightning.methods.swing_kd import SwingKD
from kd_lightning.methods.teacher_free_kd import TeacherFreeKD
from kd_lightning.methods.tintem import TinTeM
from kd_lightning.methods.vid import VID
from kd_lightning.methods.wkd import WKD
from kd_lightning.methods.wttm import WTTM

__all__ = [
    "AB",
    "AICSD",
    "AT",
    "CATKD",
    "CC",
    "CKD",
    "CORSD",
    "CPCL",
    "CRD",
    "CTKD",
    "DIST",
    "DKD",
    "FSP",
    "FT",
    "ICKD",
    "IUSPKD",
    "KD",
    "KDSVD",
    "MGD",
    "MHKD",
    "MLKD",
    "NKD",
    "NST",
    "OFAKD",
    "OFD",
    "OKDMDE",
    "PCKD",
    "PKT",
    "RKD",
    "RLD",
    "SDD",
    "SEED",
    "SP",
    "SRRL",
    "STKD",
    "VID",
    "WKD",
    "WTTM",
    "CoSS",
    "CosineSimilarityKD",
    "DeiT",
    "EmbedDistill",
    "FitNet",
    "FunctionMatching",
    "KDPlusPlus",
    "ResidualKD",
    "ReviewKD",
    "SimKD",
    "SimReg",
    "Supervised",
    "SwingKD",
    "TeacherFreeKD",
    "TinTeM",
]
