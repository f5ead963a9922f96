"""Cost: what a network takes: parameters, operations, time and space."""

import torch
from safetensors.torch import save

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.evaluation.timing import medians
from kd_lightning.models import Network


class Cost(Evaluator):
    """Logs `cost/parameters`, `cost/macs`, `cost/megabytes`, and the speed at batch sizes.

    MACs are of one image of the data, normalisation included. Megabytes are the weights' on disk, as safetensors. For
    each batch size n, `cost/latency_ms_<n>` is the median time of a batch from uint8 images to logits, in eval mode
    and float32 on the run's device, and `cost/images_per_second_<n>` n over it. Both are of this machine, as busy as
    it was.

    Args:
        batch_sizes: default 1 and 64; [] measures none.
        repeats: how often a batch is timed, after 3 that are not.
        teacher: measure the teacher too.
    """

    needs_labels = False

    def __init__(self, *, batch_sizes: list[int] | None = None, repeats: int = 20, teacher: bool = False) -> None:
        super().__init__(teacher=teacher)
        self.batch_sizes, self.repeats = [1, 64] if batch_sizes is None else batch_sizes, repeats
        for each in (*self.batch_sizes, repeats):
            check_positive(**{"Cost": each})

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        network, side = eyes.network, eyes.side
        state = {name: value.cpu().contiguous().clone() for name, value in network.model.state_dict().items()}
        found = {
            "cost/parameters": float(network.parameter_count()),
            "cost/macs": float(network.macs(side)),
            "cost/megabytes": len(save(state)) / 1e6,
        }
        for size in self.batch_sizes:
            seconds = self._seconds(network, size, side, eyes.reader.device)
            found |= {f"cost/latency_ms_{size}": seconds * 1e3, f"cost/images_per_second_{size}": size / seconds}
        return EvaluationResult(found)

    def _seconds(self, network: Network, size: int, side: int, device: torch.device) -> float:
        images = torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device)
        was_training = network.training
        network.eval()

        def batch() -> None:
            network(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        (seconds,) = medians([batch], self.repeats)
        network.train(was_training)
        return seconds
