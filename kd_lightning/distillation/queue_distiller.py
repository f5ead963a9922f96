"""QueueDistiller: base class of methods that compare images with former embeddings of the teacher."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor

from kd_lightning import distributed
from kd_lightning.distillation.embedding_distiller import EmbeddingDistiller
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import normalize


class QueueDistiller(EmbeddingDistiller, ABC):
    """Base class of methods with a queue (memory bank) of the teacher's embeddings of the most recent training images.

    The queue is a buffer `queue` of unit vectors Q,D. It starts with random unit vectors and is saved in checkpoints.
    All devices have the same queue, unless `gather` is false. Subclasses have an argument `queue_size`, and call
    `add_queue` in `__init__` and `enqueue` in `losses`.
    """

    queue: Tensor
    place: Tensor

    def add_queue(self, queue_size: int) -> None:
        """Create the queue.

        Args:
            queue_size: Number of embeddings in the queue.

        Raises:
            ConfigError: if the number is not positive.
        """
        check_positive(queue_size=queue_size)
        self.register_buffer("queue", normalize(torch.randn(queue_size, self.teacher.embedding_width)))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._ddp_params_and_buffers_to_ignore += ["queue", "place"]

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        images = self.effective_batch_size(data)
        if images > len(self.queue):
            raise ConfigError(
                f"queue_size: {len(self.queue)} is less than the {images} images of a batch; give {images} or more"
            )

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.gather:
            distributed.from_first(self.queue)

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor) -> None:
        """Replace the oldest embeddings of the queue by those of all devices' images, as unit vectors.

        The queue is changed in place, because it is a buffer that is saved in checkpoints. Losses that are computed
        before this call must use a copy (`self.queue.clone()`), because the backward pass comes later. An embedding
        that is not finite is stored as zeros. Its cosine to every embedding is then 0. Otherwise NaN would remain in
        the queue, even if `guard.nonfinite` skips the step.

        Args:
            embeddings: Embeddings of the teacher, N,D.
        """
        (gathered,) = self.all_gather(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
        new, count = normalize(gathered), len(self.queue)
        rows = (self.place + torch.arange(len(new), device=self.place.device)) % count
        self.queue[rows] = new.nan_to_num(0, 0, 0).to(self.queue.dtype)
        self.place.copy_((self.place + len(new)) % count)
