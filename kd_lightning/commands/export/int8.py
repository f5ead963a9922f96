"""int8: onnxruntime's static quantisation of an exported ONNX file."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from kd_lightning.commands.export.deployed import Run
from kd_lightning.commands.export.onnx_graph import INPUT, describe
from kd_lightning.commands.export.parity import CHUNK
from kd_lightning.data.images import ImageDataset

FILE = "student_int8.onnx"
OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantize(path: Path, calibration: Tensor, made: Path) -> None:
    """Writes the int8 form of an ONNX file: weights int8 by channel, activations uint8, QDQ.

    Weights take 7 bits (`reduce_range`): sums of 8-bit products overflow on x86 processors without VNNI.

    Args:
        path: the float file.
        calibration: images as the file takes them, N,3,S,S.
        made: the file to write.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.parts: Iterator[Tensor] = iter(calibration.split(CHUNK))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {INPUT: part.contiguous().numpy()}

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it warns, by the root logger, of what is done here already
    try:
        with TemporaryDirectory() as temporary:
            ready = Path(temporary) / "ready.onnx"
            quant_pre_process(path, ready, skip_symbolic_shape=True)
            quantization.quantize_static(
                ready,
                made,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


def rewrite(path: Path, facts: dict[str, Any]) -> None:
    """Puts facts into an ONNX file."""
    import onnx

    model = onnx.load(path)
    describe(model, facts)
    onnx.save(model, path)


def evaluated(before: Run, after: Run, images: ImageDataset, ready: Any, outputs: tuple[str, ...]) -> dict[str, float]:
    """What quantisation costs, over all images of a set.

    Returns:
        `acc` and `acc_float` where the images have labels and there are logits; `agreement`, the share of images with
        the same highest logit; `cosine`, the mean cosine of the first output of both.
    """
    right, right_float, same, cosine, labelled = 0, 0, 0, 0.0, 0
    for rows in torch.arange(len(images)).split(8 * CHUNK):
        batch = images.take(rows)
        given = ready(batch.images.cpu())
        theirs, ours = after(given)[0], before(given)[0]
        cosine += float(torch.cosine_similarity(theirs.double(), ours.double(), dim=1).sum())
        same += int((theirs.argmax(1) == ours.argmax(1)).sum())
        known, labels = batch.labels >= 0, batch.labels
        labelled += int(known.sum())
        right += int(((theirs.argmax(1) == labels) & known).sum())
        right_float += int(((ours.argmax(1) == labels) & known).sum())
    found = {"images": float(len(images)), "cosine": cosine / len(images)}
    if outputs[0] == "logits":
        found["agreement"] = same / len(images)
        if labelled:
            found |= {"acc": right / labelled, "acc_float": right_float / labelled}
    return found
