"""EarlyExits: accuracy and cost of the classifiers on the stages of a student."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.models import Features, Network, counting


class EarlyExits(Evaluator):
    """Logs `test/exit_<n>`, `cost/exit_<n>_macs` and `cost/exit_<n>_parameters` for each early exit.

    An early exit is a classifier on a stage of the student. Only methods that train such classifiers (heads) have
    exits. The number n of a stage is counted back from the last stage. The exit 1 is the student's own classifier. The
    accuracy is that of the test images. The cost contains only the layers up to the stage, and the head. MACs
    (multiply-adds) are counted for one image. If torch cannot count them, `cost/exit_<n>_macs` is missing.

    Args:
        every_n_epochs: Number of epochs between two evaluations of the validation images during `fit`; 0 disables them.

    Raises:
        ConfigError: if the method has no exits.
    """

    def __init__(self, *, every_n_epochs: int = 0) -> None:
        super().__init__(every_n_epochs=every_n_epochs)

    def prepare(self, data: ImageData) -> None:
        super().prepare(data)
        if data.trainer is not None and not data.trainer.lightning_module.exits:
            method = type(data.trainer.lightning_module)
            raise ConfigError(
                f"EarlyExits: {method.__name__} has no exits, which are classifiers on stages before the last one; "
                f"remove EarlyExits, or choose a method that has exits: {', '.join(methods_with_exits())}"
            )

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        side, numbers = view.side, sorted(view.exits, reverse=True)
        exits = AllExits(view.network, view.exits)
        outputs = view.cache.read(exits, view.data, view.data.datasets[view.split])
        logits = dict(zip((*numbers, 1), outputs.logits.chunk(len(numbers) + 1, dim=1), strict=True))
        values = {f"exit_{n}": accuracy(each, outputs.labels) for n, each in logits.items() if n > 1}
        if view.knows_classes:
            values["exit_1"] = accuracy(logits[1], outputs.labels)
        for number in logits:
            values |= {f"cost/exit_{number}_{name}": value for name, value in exits.cost(number, side).items()}
        return EvaluationResult(values)


class AllExits(nn.Module):
    """A student and its exits, whose logits N,(E + 1)K are those of the E exits and of the student, side by side.

    The exits are in the order of the stages. Like a `Network`, it can be read by a `FeatureCache`.

    Args:
        network: The student.
        exits: Classifiers of the maps of stages, by the number of the stage.
    """

    def __init__(self, network: Network, exits: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.network, self.numbers = network, sorted(exits, reverse=True)
        self.exits = nn.ModuleDict({str(number): exits[number] for number in self.numbers})
        self.name, self.size, self.embedding_width = network.name, network.size, 0
        self.num_classes = network.num_classes * (len(exits) + 1)

    def features(self, images: Tensor, **reads: bool) -> Features:
        """Return the logits of all exits and of the student, and an embedding N,0. The argument `reads` is ignored."""
        seen = self.network.features(images, maps=self.numbers[0], logits=True)
        logits = [self.exits[str(number)](seen.maps[-number]) for number in self.numbers]
        return Features(embedding=images.new_empty(len(images), 0), logits=torch.cat([*logits, seen.logits], dim=1))

    def exit(self, images: Tensor, number: int) -> Tensor:
        """Return the logits N,K of one exit. The layers after its stage are not computed."""
        if number == 1:
            return self.network(images)
        return self.exits[str(number)](self.network.stage_map(images, number))

    def cost(self, number: int, side: int) -> dict[str, float]:
        """Return the MACs (if torch can count them) and the parameters of one exit, for images of `side` pixels."""

        def run() -> Tensor:
            return self.exit(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.network.mean.device), number)

        macs = counting.macs(self, run)
        return {**({} if macs is None else {"macs": macs}), "parameters": counting.parameters(self, run)}


def methods_with_exits() -> list[str]:
    """Return the names of the methods of the package whose class declares exits."""
    kinds = (kind for kind in _subclasses(StudentModule) if kind.__module__.startswith("kd_lightning.methods."))
    return sorted(kind.__name__ for kind in kinds if kind.exits is not StudentModule.exits)


def _subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
