"""Stages: a run whose first epochs train other layers than its later epochs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from kd_lightning.distillation.deployment import Deployment
from kd_lightning.distillation.durations import Duration, Durations
from kd_lightning.errors import ConfigError


class Stage(NamedTuple):
    """Stage of training: which layers are not trained in its epochs."""

    name: str
    """Short name for the progress bar and the lines of the epochs."""
    trains: str
    """Description of the layers that the stage trains, for the line at its start."""
    idle: Sequence[nn.Module] = ()
    """Modules that are not trained. They are in eval mode, and neither momentum nor weight decay changes them."""
    trained: Sequence[nn.Module] = ()
    """Modules within the idle modules that are trained nevertheless."""
    base_terms: bool = True
    """Whether the cross-entropy and the soft targets of the base class are terms of this stage."""


class Stages(Deployment, Durations):
    """Base class of methods whose runs may have two stages. The stages are parts of one `fit`.

    The argument that `first_stage_field` names is the duration of the first stage. A method reads `stage` to compute
    the terms of the current stage. The first stage has at least one epoch, and so has the second if the run has two.

    In an epoch of the first stage, `val/acc` is that of a network that is not yet trained completely. `select: best`
    compares all epochs, so that it selects such an epoch only if no later epoch has a higher accuracy.
    """

    stage: int = 0
    """Number of the current stage, from 0."""
    first_stage_field: str = "first_stage"
    unreached: Mapping[tuple[int, ...], list[Tensor]] = MappingProxyType({})
    """Trainable parameters that no term of a stage reaches, by the numbers of the stages of all methods of the run."""
    _announced: int | None = None

    @property
    def training_stages(self) -> Sequence[Stage]:
        """The two stages of the run, or an empty list if all epochs train the same layers."""
        return ()

    @property
    def has_own_stages(self) -> bool:
        """Whether the method itself has stages, whose first is as long as its argument `first_stage`."""
        return "first_stage" in getattr(self, "durations", {})

    @property
    def staged(self) -> "Iterable[Stages]":
        """The methods of this run that may have stages: this method and, in `Combined`, its parts."""
        return (self,)

    @property
    def current_stage(self) -> Stage | None:
        """The current stage, or None if all epochs train the same layers."""
        return self.training_stages[self.stage] if self.training_stages else None

    @property
    def stage_names(self) -> str:
        """Names of the current stages for the progress bar and the lines of the epochs; '' if there are none."""
        return ", ".join(each.current_stage.name for each in self.staged if each.training_stages)

    def first_epochs(self, epochs: int | None) -> int:
        """Return the number of epochs of the first stage in a run with a number of epochs.

        Args:
            epochs: Number of epochs of the run. None or -1 if it is not limited.
        """
        value = getattr(self, self.first_stage_field)
        if value >= 1:
            return int(value)
        return max(1, min(round(value * (epochs or 1)), (epochs or 1) - 1))

    def set_first_stage(self, first_stage: Duration) -> None:
        """Set the duration of the first stage of a method with stages of its own.

        Raises:
            ConfigError: if the duration is 0, or neither a number of epochs nor a share of the run's epochs.
        """
        self.set_durations(first_stage=first_stage)
        if not first_stage:
            raise ConfigError(
                "model.first_stage: 0 omits the first stage, without which the later epochs have nothing to build on; "
                "give a number of epochs, or a share of the run's epochs"
            )

    def check_both_stages(self, field: str, *, ce_weight: float, kd_weight: float) -> None:
        """Raise an error if a stage trains nothing, for methods whose own term is that of the first stage alone.

        Args:
            field: Name of the weight of the method's own term.
            ce_weight: Weight of the cross-entropy.
            kd_weight: Weight of the soft targets.

        Raises:
            ConfigError: in this case. The message names the field.
        """
        if not getattr(self, field):
            raise ConfigError(f"{field}: 0 is given, but the first stage has no other term; set it above 0")
        if not (ce_weight or kd_weight):
            raise ConfigError(
                "kd_weight: 0 is given, and ce_weight is 0, but the second stage has no other term; set one above 0"
            )

    def check_epochs(self, trainer: Any) -> None:
        """Raise an error if the first stage would be the whole run, or if the strategy does not allow stages.

        Raises:
            ConfigError: in both cases. The message names the field.
        """
        if not self.training_stages or trainer is None:
            return
        field, epochs = f"model.{self.first_stage_field}", trainer.max_epochs
        first = getattr(self, self.first_stage_field)
        if epochs not in (None, -1) and first >= 1 and first >= epochs:
            raise ConfigError(
                f"{field}: {first:g} of {epochs} epochs (trainer.max_epochs) would never train "
                f"{self.training_stages[1].trains}; give fewer epochs{self._instead}"
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError(
                f"{field}: the strategy distributes the weights of the student, which must stay complete; set "
                "trainer.strategy to ddp"
            )

    _instead: str = ""
    """What else to do, for the message about a first stage that is the whole run."""

    def enter_stage(self, number: int) -> None:
        """Let all methods of this run enter their stage with this number, or their last stage, and set the modes."""
        for each in self.staged:
            each.stage = max(0, min(number, len(each.training_stages) - 1))
        self.train(self.training)

    def start_epoch(self) -> None:
        """Set the number of this epoch, enter its stages, and say when one begins."""
        epochs = self.trainer.max_epochs
        for each in self.staged:
            each.epoch.fill_(self.current_epoch + 1)
            each.stage = int(bool(each.training_stages) and self.current_epoch >= each.first_epochs(epochs))
            if each.training_stages and each._announced != each.stage:
                each._announced = each.stage
                self._forget_terms()
                first = each.first_epochs(epochs)
                which = ("epoch 1 trains" if first == 1 else f"epochs 1 to {first} train") if not each.stage else ""
                which = which or f"the epochs from {first + 1} on train"
                rank_zero_info(f"{each.first_stage_field}: {which} {each.current_stage.trains}")
        self.train()

    def _forget_terms(self) -> None:
        """Forget the terms of the stage before. Results and checkpoints have those of the current stage only."""
        for name in [name for name in self.trainer.callback_metrics if name.startswith("train/")]:
            del self.trainer.callback_metrics[name]

    def train(self, mode: bool = True) -> "Stages":
        """Set the mode as in torch. Modules that the current stage does not train stay in eval mode."""
        super().train(mode)
        if mode:
            for stage in self._current():
                for module in stage.idle:
                    module.eval()
                for module in stage.trained:
                    module.train()
        return self

    def _current(self) -> list[Stage]:
        """Return the current stages of all methods. In a part of `Combined`, other terms train the student."""
        found = []
        for each in self.staged:
            if each.training_stages and each is self:
                found.append(each.current_stage)
            elif each.training_stages:
                student = {*self.student.modules()}
                idle = [module for module in each.current_stage.idle if module not in student]
                found.append(each.current_stage._replace(idle=idle, trained=()))
        return found

    @property
    def _stage_numbers(self) -> tuple[int, ...]:
        return tuple(each.stage for each in self.staged)

    @property
    def has_base_terms(self) -> bool:
        """Whether the cross-entropy and the soft targets of the base class are terms of the current stage."""
        return self.current_stage is None or self.current_stage.base_terms

    @property
    def idle_parameters(self) -> list[Tensor]:
        """Trainable parameters that the current stage does not train."""
        found: dict[Tensor, None] = {}
        found |= dict.fromkeys(self.unreached.get(self._stage_numbers, ()))
        for stage in self._current():
            kept = {id(value) for module in stage.trained for value in module.parameters()}
            values = (value for module in stage.idle for value in module.parameters())
            found |= dict.fromkeys(value for value in values if id(value) not in kept)
        return [value for value in found if value.requires_grad]

    @contextmanager
    def only_trained(self) -> Iterator[None]:
        """Within this context, the parameters that the current stage does not train get no gradient.

        `requires_grad` is false only within this context. The optimizer and DistributedDataParallel therefore have the
        same parameters in all epochs.
        """
        idle = self.idle_parameters
        try:
            for value in idle:
                value.requires_grad_(False)
            yield
        finally:
            for value in idle:
                value.requires_grad_(True)

    def with_zero_gradients(self, total: Tensor) -> Tensor:
        """Return the loss, to which 0 is added so that each parameter that is not trained gets a gradient of 0.

        DistributedDataParallel waits for a gradient of each parameter.
        """
        if not any(each.training_stages for each in self.staged):
            return total
        # a dry step finds what a stage does not reach, but it does not try all combinations of the stages of parts
        known = self._stage_numbers in self.unreached
        values = self.idle_parameters if known else [value for value in self.parameters() if value.requires_grad]
        return sum((value.reshape(-1)[:0].sum() for value in values), total)

    def drop_gradients(self) -> None:
        """Remove the gradients of 0, so that neither momentum nor weight decay changes an untrained parameter."""
        for value in self.idle_parameters:
            value.grad = None
