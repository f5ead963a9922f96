"""Tensors in a safetensors file, whole or not there at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors with facts beside them (each as JSON), under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        save_file(held, partial, metadata={"format": "pt", **{k: json.dumps(v) for k, v in facts.items()}})
        partial.chmod(0o644)  # safetensors makes files that their owner alone can read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
