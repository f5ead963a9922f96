"""The loader of whole batches, which goes on in the middle of an epoch where a run was interrupted."""

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from kd_lightning.batch import Batch
from kd_lightning.data.samplers import EpochSampler
from kd_lightning.errors import ConfigError, RunError, one_line


class ImageLoader(DataLoader):
    """torch's loader that counts the batches it has given; Lightning keeps the count in checkpoints.

    Its dataset gathers a whole Batch at once, so there is nothing left to collate.
    """

    given = 0

    def __iter__(self) -> Iterator[Batch]:
        self.given = self.sampler.skipped() // self.batch_size if isinstance(self.sampler, EpochSampler) else 0
        try:
            for batch in super().__iter__():
                self.given += 1
                yield batch
        except ConfigError as error:  # torch puts a worker's whole traceback into the message
            raise ConfigError(str(error).strip().splitlines()[-1].split("ConfigError: ")[-1]) from error
        except (ConnectionError, EOFError) as error:  # a process that was killed while it handed a batch over
            if not self.num_workers:
                raise
            raise _ended(one_line(error)) from error

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": getattr(self.sampler, "epoch", 0), "batches": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.sampler, EpochSampler):
            self.given = state["batches"]
            self.sampler.skip = state["epoch"], state["batches"] * self.batch_size


def dead_worker(error: BaseException | None) -> RunError | None:
    """Return the one line for a decoding process that has ended, None for any other error.

    torch's handler of SIGCHLD raises a RuntimeError wherever the main process is at that moment, so other exceptions
    may wrap it; the innermost one names the signal.
    """
    reason = None
    while error is not None:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            reason = one_line(error).rstrip(".")
        error = error.__cause__ or error.__context__
    return _ended(reason) if reason else None


def _ended(reason: str) -> RunError:
    return RunError(
        f"data.num_workers: a process that decodes images has ended ({reason}; for want of memory, perhaps); fewer of "
        "them take less"
    )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_it_is(batch: Batch) -> Batch:
    """The collate function: a Batch is whole already."""
    return batch
