"""Try one small network of each of timm's families, and write docs/families.csv: `python -m docs.families`."""

import csv
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from lightning import Trainer

from kd_lightning.data import RandomImages
from kd_lightning.errors import ConfigError, RunError, one_line
from kd_lightning.io.atomic import atomic_write
from kd_lightning.methods import KD
from kd_lightning.models import Network, checkpoints

TABLE = Path(__file__).with_name("families.csv")
COLUMNS = ("network", "pixels", "student", "logits", "embedding", "maps")
CLASSES = 3
SIDES = {"crossvit_tiny_240": 120, "efficientformer_l1": 224, "eva02_tiny_patch14_224": 56, "inception_v3": 96}
"""Sides in pixels of networks that do not accept images of 64 pixels."""
NAMES = """
caformer_s18 cait_xxs24_224 coat_lite_mini coatnet_nano_rw_224 convit_tiny convnext_atto crossvit_tiny_240 cspresnet50
davit_tiny deit_tiny_distilled_patch16_224 densenet121 dla46_c dpn68 edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_lrf gcvit_xxtiny ghostnet_050 gmlp_ti16_224 hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t
inception_next_atto inception_v3 lcnet_050 levit_128s mambaout_femto maxvit_pico_rw_256 mixer_s32_224
mobilenetv3_small_050 mobilenetv4_conv_small_050 mobilevit_xxs mvitv2_tiny nest_tiny pit_ti_distilled_224
poolformer_s12 pvt_v2_b0 qwen3_vit_88m_enc regnetx_002 repghostnet_050 repvit_m1 resmlp_12_224 resnest14d resnet18
resnetv2_18 rexnet_100 sam2_hiera_tiny shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 test_byobnet test_efficientnet test_nfnet test_vit test_vit_relpos tiny_vit_5m_224
tnt_s_patch16_224 twins_svt_small visformer_tiny volo_d1_224 vovnet39a xcit_nano_12_p8_224
""".split()


def row(name: str) -> dict[str, str]:
    """Return a row of the table: what a network of timm with random weights can do.

    `student` is "one step" if the network was fitted for one step, with itself as the teacher. The other columns are
    read from a frozen teacher that was loaded from the student's file: the number of logits, the width of the
    embedding, and the channels of the maps. For an error, the value is `refused:` and the message of the error.
    """
    side = SIDES.get(name, 64)
    result = dict.fromkeys(COLUMNS, "-") | {"network": name, "pixels": str(side)}
    kwargs = {"img_size": side} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        student = Network(name, num_classes=CLASSES, model_kwargs=kwargs)
        with TemporaryDirectory() as folder:
            path = Path(folder, "student.safetensors")
            checkpoints.write(path, student.model.state_dict(), student.facts())
            teacher = Network(name, checkpoint=str(path), model_kwargs=kwargs).freeze()
        with torch.no_grad():
            seen = teacher.features(images, logits=True, embedding=True)
        result |= {"logits": str(seen.logits.shape[1]), "embedding": str(seen.embedding.shape[1])}
        if seen.embedding.shape[1] != teacher.embedding_width:
            raise AssertionError(f"{name}: the width of the embedding is not {teacher.embedding_width}")
        result["maps"] = _maps(teacher, images)
        result["student"] = _fit(student, teacher, side)
    except (ConfigError, RunError) as error:
        result["student"] = _refusal(name, error)
    except Exception as error:  # a fault of this package; the test of the table does not accept it
        result["student"] = f"error: {type(error).__name__}: {one_line(error, 100)}"
    return result


def _maps(teacher: Network, images: torch.Tensor) -> str:
    """Return the channels of up to four maps, or the message of the error."""
    try:
        with torch.no_grad():
            maps = teacher.features(images, maps=min(4, len(teacher.model.feature_info))).maps
    except ConfigError as error:
        return _refusal(teacher.name, error)
    return " ".join(str(each.shape[1]) for each in maps)


def _fit(student: Network, teacher: Network, side: int) -> str:
    """Fit one step of KD and return "one step", if it changes the student and does not change the teacher."""
    method, before = KD(student=student, teacher=teacher), (student.fingerprint(), teacher.fingerprint())
    data = RandomImages(images=4, size=side, classes=CLASSES, batch_size=4, val_split=0, num_workers=0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(max_steps=1, accelerator="cpu", logger=False, limit_val_batches=0, **quiet).fit(method, datamodule=data)
    if student.fingerprint() == before[0] or teacher.fingerprint() != before[1]:
        raise AssertionError(f"{student.name}: the step did not change the student, or it changed the teacher")
    return "one step"


def _refusal(name: str, error: Exception) -> str:
    return re.sub(rf"^{re.escape(name)}: ", "refused: ", str(error))


def rows() -> list[dict[str, str]]:
    """Return the rows of the table."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    return [*csv.DictReader(line for line in lines if not line.startswith("#"))]


def main(names: list[str]) -> None:
    """Try the named networks, or all networks, and write their rows into the table."""
    table = {each["network"]: each for each in rows()}
    for name in names or NAMES:
        table[name] = row(name)
        print(*table[name].values(), sep=", ", flush=True)
        with atomic_write(TABLE) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            file.write(f"# Written by `python -m docs.families`, with timm {timm.__version__}.\n")
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table[each] for each in NAMES if each in table)


if __name__ == "__main__":
    main(sys.argv[1:])
