"""A loader of complete batches that can resume within an epoch."""

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from kd_lightning.batch import Batch
from kd_lightning.data.samplers import EpochSampler
from kd_lightning.errors import ConfigError, RunError, one_line


class ImageLoader(DataLoader):
    """A torch loader that counts the batches that it yields. Lightning stores the count in checkpoints.

    The dataset returns complete batches, so the loader collates nothing.
    """

    num_yielded = 0

    def __iter__(self) -> Iterator[Batch]:
        self.num_yielded = self.sampler.skipped() // self.batch_size if isinstance(self.sampler, EpochSampler) else 0
        try:
            for batch in super().__iter__():
                self.num_yielded += 1
                yield batch
        except ConfigError as error:  # torch puts the traceback of a worker into the message
            raise ConfigError(str(error).strip().splitlines()[-1].split("ConfigError: ")[-1]) from error
        except (ConnectionError, EOFError) as error:  # a worker was killed while it transferred a batch
            if not self.num_workers:
                raise
            raise _worker_error(one_line(error)) from error

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": getattr(self.sampler, "epoch", 0), "batches": self.num_yielded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.sampler, EpochSampler):
            self.num_yielded = state["batches"]
            self.sampler.skip = state["epoch"], state["batches"] * self.batch_size


def dead_worker(error: BaseException | None) -> RunError | None:
    """Return an error with a one-line message if a worker process has died, and None for any other error.

    torch's handler of SIGCHLD raises a RuntimeError in any line of the main process. Other exceptions may therefore
    wrap this error. The innermost exception names the signal.
    """
    reason = None
    while error is not None:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            reason = one_line(error).rstrip(".")
        error = error.__cause__ or error.__context__
    return _worker_error(reason) if reason else None


def _worker_error(reason: str) -> RunError:
    return RunError(
        f"data.num_workers: a process that decodes images has died ({reason}), possibly for lack of memory; fewer "
        "workers need less memory"
    )


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def identity_collate(batch: Batch) -> Batch:
    """Return the batch unchanged, because the dataset has already collated it."""
    return batch
