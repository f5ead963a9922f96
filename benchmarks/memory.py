"""The most memory that a process has held."""

from pathlib import Path

import torch

_MIB = 2**20


class Peak:
    """The peak since it was made: of the process's resident memory, or of a GPU's allocated memory.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel's own mark falls to what is held now
        self.before = self.mebibytes()

    def mebibytes(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / _MIB
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
