"""torch_export: the student as `student.pt2`, a graph of torch.export."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from kd_lightning.commands.export.exported_model import ExportedModel, InferenceFn, as_tuple
from kd_lightning.commands.export.format import Format
from kd_lightning.commands.export.provenance import as_json

FACTS = "kd_lightning.json"


class TorchExport(Format):
    """`student.pt2`: `torch.export.load(path, extra_files={"kd_lightning.json": ""}).module()(images)`."""

    name, file = "torch_export", "student.pt2"

    def __init__(self, student: ExportedModel) -> None:
        super().__init__(student)
        self.program = trace(student)

    def to_input(self, images: Tensor) -> Tensor:
        return self.student.to_input(images)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        buffer = io.BytesIO()  # torch's file writer aborts the process if the disk is full
        torch.export.save(self.program, buffer, extra_files={FACTS: as_json(facts)})
        path.write_bytes(buffer.getbuffer())

    def read(self, path: Path, threads: int) -> InferenceFn:
        module = torch.export.load(path).module()

        @torch.no_grad()
        def run(images: Tensor) -> tuple[Tensor, ...]:
            return as_tuple(module(images))

        return run


@torch.no_grad()
def trace(student: ExportedModel) -> ExportedProgram:
    """Return the student's graph for any number of images. Stack traces are removed, because they contain paths."""
    batch = Dim("batch", min=1)
    program = torch.export.export(student, (student.example(),), dynamic_shapes={"images": {0: batch}})
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program
