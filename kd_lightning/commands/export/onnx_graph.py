"""onnx: the student as an ONNX graph, read back by onnxruntime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.commands.export.deployed import Deployed, Run
from kd_lightning.commands.export.format import Format
from kd_lightning.commands.export.provenance import as_json
from kd_lightning.commands.export.torch_export import traced

INPUT = "images"


class Onnx(Format):
    """`student.onnx`: input `images`, outputs `logits` and `embedding` as asked; facts in its metadata_props."""

    name, file, needs = "onnx", "student.onnx", ("onnx", "onnxruntime", "onnxscript")

    def __init__(self, student: Deployed) -> None:
        super().__init__(student)
        names = {"input_names": [INPUT], "output_names": list(student.outputs)}
        program = torch.onnx.export(traced(student), dynamo=True, verbose=False, **names)
        self.model = program.model_proto
        _match_antialiasing(self.model)
        _clear(self.model)

    def given(self, images: Tensor) -> Tensor:
        return self.student.given(images)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        import onnx

        describe(self.model, facts)
        onnx.checker.check_model(self.model)
        onnx.save(self.model, path)

    def read(self, path: Path, threads: int) -> Run:
        return session(path, threads)


def session(path: Path, threads: int) -> Run:
    """An ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    ready = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(each) for each in ready.run(None, {INPUT: images.contiguous().numpy()}))

    return run


def describe(model: Any, facts: dict[str, Any]) -> None:
    """Puts the facts into a model's metadata_props: all as `kd_lightning`, and what a reader wants first by itself."""
    import onnx

    first = {"class_names": facts["class_names"], "mean": facts["mean"], "std": facts["std"], "input": facts["input"]}
    props = {"kd_lightning": as_json(facts), **{name: as_json(value) for name, value in first.items()}}
    onnx.helper.set_model_props(model, props)
    model.producer_name, model.producer_version = "kd_lightning", str(facts["code"]["export"]["version"])
    model.doc_string = f"{facts['architecture']}, {facts['data']['name']}"


def _match_antialiasing(model: Any) -> None:
    """Give every antialiased Resize the kernel of PyTorch's: torch 2.9's exporter writes that of the plain one.

    PyTorch's antialiased interpolation has a cubic coefficient of -0.5 (the plain one -0.75) and leaves pixels outside
    the image out of its weights. Newer exporters write the same attributes.
    """
    import onnx

    pytorch = {"cubic_coeff_a": -0.5, "exclude_outside": 1, "coordinate_transformation_mode": "half_pixel"}
    for node in model.graph.node:
        if node.op_type == "Resize" and any(each.name == "antialias" and each.i for each in node.attribute):
            kept = [each for each in node.attribute if each.name not in pytorch]
            del node.attribute[:]
            node.attribute.extend([*kept, *(onnx.helper.make_attribute(*item) for item in pytorch.items())])


def _clear(model: Any) -> None:
    """Names the free dimension, and takes out the exporter's notes on where nodes come from."""
    free = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == free:
                dim.dim_param = "batch"
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
