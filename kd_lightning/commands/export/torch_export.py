"""torch_export: the student as a graph of torch's own, `student.pt2`."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from kd_lightning.commands.export.deployed import Deployed, Run, as_tuple
from kd_lightning.commands.export.format import Format
from kd_lightning.commands.export.provenance import as_json

FACTS = "kd_lightning.json"


class TorchExport(Format):
    """`student.pt2`: `torch.export.load(path, extra_files={"kd_lightning.json": ""}).module()(images)`."""

    name, file = "torch_export", "student.pt2"

    def __init__(self, student: Deployed) -> None:
        super().__init__(student)
        self.program = traced(student)

    def given(self, images: Tensor) -> Tensor:
        return self.student.given(images)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        held = io.BytesIO()  # torch's own writer aborts the process where the disk is full
        torch.export.save(self.program, held, extra_files={FACTS: as_json(facts)})
        path.write_bytes(held.getbuffer())

    def read(self, path: Path, threads: int) -> Run:
        module = torch.export.load(path).module()

        @torch.no_grad()
        def run(images: Tensor) -> tuple[Tensor, ...]:
            return as_tuple(module(images))

        return run


@torch.no_grad()
def traced(student: Deployed) -> ExportedProgram:
    """The student's graph for any number of images; the lines of code it came from, with their paths, left out."""
    batch = Dim("batch", min=1)
    program = torch.export.export(student, (student.example(),), dynamic_shapes={"images": {0: batch}})
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program
