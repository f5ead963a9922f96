"""Cost: parameters, operations, latency and size of a network."""

import torch
from safetensors.torch import save

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.evaluation.timing import medians
from kd_lightning.models import Network
from kd_lightning.models.modes import eval_mode


class Cost(Evaluator):
    """Logs `cost/parameters`, `cost/macs`, `cost/megabytes`, and the speed for each batch size.

    MACs are counted for one image and include the normalisation. If torch cannot count them, `cost/macs` is missing.
    Megabytes are the size of the weights as safetensors. For each batch size n, `cost/latency_ms_<n>` is the median
    time from the uint8 images of one batch to the logits. It is measured in eval mode and without autocast, on the
    device of the run. `cost/images_per_second_<n>` is n divided by this time. Both values depend on the machine and its
    load.

    Args:
        batch_sizes: Batch sizes for which the speed is measured. [] disables the measurement. Default: 1 and 64.
        repeats: Number of timed repetitions of a batch. Three untimed repetitions come first.
        teacher: Whether the teacher is also measured.
    """

    needs_labels = False

    def __init__(self, *, batch_sizes: list[int] | None = None, repeats: int = 20, teacher: bool = False) -> None:
        super().__init__(teacher=teacher)
        self.batch_sizes, self.repeats = [1, 64] if batch_sizes is None else batch_sizes, repeats
        for size in self.batch_sizes:
            check_positive(**{"Cost.batch_sizes": size})
        check_positive(**{"Cost.repeats": repeats})

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        network, side = view.network, view.side
        state = {name: value.cpu().contiguous().clone() for name, value in network.model.state_dict().items()}
        macs = network.macs(side)
        values = {
            "cost/parameters": float(network.parameter_count()),
            **({} if macs is None else {"cost/macs": float(macs)}),
            "cost/megabytes": len(save(state)) / 1e6,
        }
        for size in self.batch_sizes:
            seconds = self._seconds(network, size, side, view.cache.device)
            values |= {f"cost/latency_ms_{size}": seconds * 1e3, f"cost/images_per_second_{size}": size / seconds}
        return EvaluationResult(values)

    def _seconds(self, network: Network, size: int, side: int, device: torch.device) -> float:
        images = torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device)

        def batch() -> None:
            network(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        with eval_mode(network):
            (seconds,) = medians([batch], self.repeats)
        return seconds
