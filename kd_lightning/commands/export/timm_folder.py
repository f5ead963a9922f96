"""timm: a folder that timm.create_model('local-dir:PATH', pretrained=True) loads, with a model card."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from kd_lightning.commands.export.card import card
from kd_lightning.commands.export.exported_model import InferenceFn
from kd_lightning.commands.export.format import Format
from kd_lightning.io.atomic import atomic_write, write_tensors

_COPIED_KEYS = ("first_conv", "classifier", "fixed_input_size", "pool_size")


class Timm(Format):
    """`timm/`: model.safetensors, config.json, README.md.

    timm's models take normalised images. timm's transforms read mean, std and size from config.json.
    """

    name, file = "timm", "timm"
    files = ("model.safetensors", "config.json", "README.md")

    @property
    def side(self) -> int:
        """Side of the network's input in pixels, because timm's transforms resize the images before the network."""
        return self.student.network.size or self.student.side

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        path.mkdir(exist_ok=True)
        write_tensors(path / "model.safetensors", self.student.network.model.state_dict(), {"kd_lightning": facts})
        with atomic_write(path / "config.json") as partial:
            partial.write_text(json.dumps(self._config(facts), indent=2), encoding="utf-8")
        with atomic_write(path / "README.md") as partial:
            partial.write_text(card(facts, self.side), encoding="utf-8")

    def read(self, path: Path, threads: int) -> InferenceFn:
        """Return a function that runs timm's transforms and timm's model on one image after the other."""
        model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        transform = create_transform(**resolve_model_data_config(model), is_training=False)
        outputs = self.student.outputs

        @torch.no_grad()
        def run(images: Tensor) -> tuple[Tensor, ...]:
            return _outputs(model, torch.stack([transform(to_pil_image(image)) for image in images]), outputs)

        return run

    def read_batched(self, path: Path) -> InferenceFn:
        """Return a function that runs timm's model on whole batches. It measures latency without timm's transforms."""
        model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        data = resolve_model_data_config(model)
        mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))

        @torch.no_grad()
        def run(images: Tensor) -> tuple[Tensor, ...]:
            return _outputs(model, (images.float() / 255 - mean) / std, self.student.outputs)

        return run

    def _config(self, facts: dict[str, Any]) -> dict[str, Any]:
        network, model = self.student.network, self.student.network.model
        timm_config = model.pretrained_cfg
        config = {
            **{key: timm_config[key] for key in _COPIED_KEYS if timm_config.get(key) is not None},
            "input_size": [3, self.side, self.side],
            "interpolation": network.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": facts["mean"],
            "std": facts["std"],
            "num_classes": network.num_classes,
        }
        names = {"label_names": self.student.class_names} if self.student.class_names else {}
        return {
            "architecture": facts["architecture"],
            "num_classes": network.num_classes,
            "num_features": model.num_features,
            **names,
            "model_args": facts["model_kwargs"],
            "pretrained_cfg": config,
            "kd_lightning": facts,
        }


def _outputs(model: torch.nn.Module, x: Tensor, outputs: tuple[str, ...]) -> tuple[Tensor, ...]:
    if outputs == ("logits",) or model.num_classes == 0:
        return (model(x),)
    final = model.forward_features(x)
    by_name = {"logits": model.forward_head(final), "embedding": model.forward_head(final, pre_logits=True)}
    return tuple(by_name[name] for name in outputs)
