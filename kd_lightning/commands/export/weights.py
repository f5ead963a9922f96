"""safetensors: the weights with timm's parameter names, and the facts as metadata."""

from pathlib import Path
from typing import Any

from kd_lightning.commands.export.exported_model import ExportedModel, InferenceFn
from kd_lightning.commands.export.format import Format
from kd_lightning.io.atomic import write_tensors
from kd_lightning.models import Network, checkpoints


class Safetensors(Format):
    """`student.safetensors`: `Network(name, checkpoint=...)` loads it, including its mean, std and size."""

    name, file = "safetensors", "student.safetensors"

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        network = self.student.network
        named = {"model_kwargs": facts["model_kwargs"], "class_names": self.student.class_names or None}
        network_facts = {**network.facts(), **named, **facts["student"]}
        write_tensors(path, network.model.state_dict(), {"network": network_facts, "kd_lightning": facts})
        self.model_kwargs = facts["model_kwargs"]

    def read(self, path: Path, threads: int) -> InferenceFn:
        model = self.student
        network = Network(model.network.name, checkpoint=str(path.absolute()), model_kwargs=self.model_kwargs)
        state = checkpoints.read(path)[0]
        network.model.load_state_dict(state)  # strict: all names must match
        return ExportedModel(network.eval(), model.outputs, model.side, "uint8", []).run
