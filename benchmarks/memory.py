"""The peak memory of a process."""

from pathlib import Path

import torch

_MIB = 2**20


class Peak:
    """The peak memory since this object was created.

    Args:
        device: device whose memory is measured. For a GPU, it is the allocated memory. For the CPU, it is the resident
            memory of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # reset the kernel's peak to the current memory
        self.before = self.mebibytes()

    def mebibytes(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / _MIB
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
