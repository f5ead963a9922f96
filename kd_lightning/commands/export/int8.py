"""int8: onnxruntime's static quantisation of an exported ONNX file."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from kd_lightning.commands.export.exported_model import InferenceFn
from kd_lightning.commands.export.onnx_graph import INPUT, describe
from kd_lightning.commands.export.parity import CHUNK
from kd_lightning.data.images import ImageDataset

FILE = "student_int8.onnx"
OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantize(path: Path, calibration: Tensor, target: Path) -> None:
    """Write the int8 version of an ONNX file, in ONNX's QDQ format.

    Weights are int8 with one scale per channel, and activations are uint8. Weights use only 7 bits (`reduce_range`),
    because sums of products with 8 bits overflow on x86 processors without VNNI.

    Args:
        path: path of the float file.
        calibration: input images for the calibration, N,3,S,S.
        target: path of the int8 file.
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
    root.setLevel(logging.ERROR)  # a warning asks for preprocessing, although quant_pre_process is called here
    try:
        with TemporaryDirectory() as temporary:
            preprocessed = Path(temporary) / "ready.onnx"
            quant_pre_process(path, preprocessed, skip_symbolic_shape=True)
            quantization.quantize_static(
                preprocessed,
                target,
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
    """Write facts into an ONNX file."""
    import onnx

    model = onnx.load(path)
    describe(model, facts)
    onnx.save(model, path)


def quantization_costs(
    float_run: InferenceFn, int8_run: InferenceFn, images: ImageDataset, to_input: Any, outputs: tuple[str, ...]
) -> dict[str, float]:
    """Compare the int8 file with the float file on all images of a set.

    Returns:
        `acc` and `acc_float` are the accuracies of the two files, if there are labels and logits. `agreement` is the
        share of images for which both files have the same highest logit. `cosine` is the mean cosine between the first
        outputs of the two files.
    """
    correct, correct_float, same_class, cosine, labelled = 0, 0, 0, 0.0, 0
    for rows in torch.arange(len(images)).split(8 * CHUNK):
        batch = images.take(rows)
        inputs = to_input(batch.images.cpu())
        int8_output, float_output = int8_run(inputs)[0], float_run(inputs)[0]
        cosine += float(torch.cosine_similarity(int8_output.double(), float_output.double(), dim=1).sum())
        same_class += int((int8_output.argmax(1) == float_output.argmax(1)).sum())
        has_label, labels = batch.labels >= 0, batch.labels
        labelled += int(has_label.sum())
        correct += int(((int8_output.argmax(1) == labels) & has_label).sum())
        correct_float += int(((float_output.argmax(1) == labels) & has_label).sum())
    costs = {"images": float(len(images)), "cosine": cosine / len(images)}
    if outputs[0] == "logits":
        costs["agreement"] = same_class / len(images)
        if labelled:
            costs |= {"acc": correct / labelled, "acc_float": correct_float / labelled}
    return costs
