"""onnx: the student as an ONNX graph, which onnxruntime runs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.commands.export.exported_model import ExportedModel, InferenceFn
from kd_lightning.commands.export.format import Format
from kd_lightning.commands.export.provenance import as_json
from kd_lightning.commands.export.torch_export import trace

INPUT = "images"


class Onnx(Format):
    """`student.onnx`: input `images`, outputs `logits`, `embedding` or both. The facts are in its metadata_props."""

    name, file, needs = "onnx", "student.onnx", ("onnx", "onnxruntime", "onnxscript")

    def __init__(self, student: ExportedModel) -> None:
        super().__init__(student)
        names = {"input_names": [INPUT], "output_names": list(student.outputs)}
        program = torch.onnx.export(trace(student), dynamo=True, verbose=False, **names)
        self.model = program.model_proto
        _match_antialiasing(self.model)
        _clear(self.model)

    def to_input(self, images: Tensor) -> Tensor:
        return self.student.to_input(images)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        import onnx

        describe(self.model, facts)
        onnx.checker.check_model(self.model)
        onnx.save(self.model, path)

    def read(self, path: Path, threads: int) -> InferenceFn:
        return session(path, threads)


def session(path: Path, threads: int) -> InferenceFn:
    """Return a function that runs an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    inference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(part) for part in inference.run(None, {INPUT: images.contiguous().numpy()}))

    return run


def describe(model: Any, facts: dict[str, Any]) -> None:
    """Write all facts into a model's metadata_props as `kd_lightning`, and the main facts also as separate entries."""
    import onnx

    first = {"class_names": facts["class_names"], "mean": facts["mean"], "std": facts["std"], "input": facts["input"]}
    props = {"kd_lightning": as_json(facts), **{name: as_json(value) for name, value in first.items()}}
    onnx.helper.set_model_props(model, props)
    model.producer_name, model.producer_version = "kd_lightning", str(facts["code"]["export"]["version"])
    model.doc_string = f"{facts['architecture']}, {facts['data']['name']}"


def _match_antialiasing(model: Any) -> None:
    """Correct the attributes of Resize nodes with antialiasing: the exporter of torch 2.9 writes wrong values.

    PyTorch's interpolation with antialiasing uses a cubic coefficient of -0.5 (without antialiasing, -0.75), and gives
    no weight to pixels outside the image. The exporters of later versions of torch write these values.
    """
    import onnx

    pytorch = {"cubic_coeff_a": -0.5, "exclude_outside": 1, "coordinate_transformation_mode": "half_pixel"}
    for node in model.graph.node:
        if node.op_type == "Resize" and any(part.name == "antialias" and part.i for part in node.attribute):
            attributes = [part for part in node.attribute if part.name not in pytorch]
            del node.attribute[:]
            node.attribute.extend([*attributes, *(onnx.helper.make_attribute(*item) for item in pytorch.items())])


def _clear(model: Any) -> None:
    """Name the dynamic dimension, and remove the exporter's metadata about the origin of nodes."""
    free = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == free:
                dim.dim_param = "batch"
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
