"""Deployment: the network that remains of a method after training."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from kd_lightning.distillation.frozen_networks import FrozenNetworks
from kd_lightning.models import Network, checkpoints


class Deployment(FrozenNetworks):
    """Base class of methods. A method trains a student, but what it deploys may be more than the student.

    The deployed network is evaluated, written as student.safetensors, and exported. Its cost is the cost of the method.
    By default, it is the student. A method whose additional layers or networks are also needed after training calls
    `deploy` in `__init__`.
    """

    student: Network

    @property
    def deployed(self) -> Network:
        """Network that is evaluated, saved and exported."""
        return vars(self).get("_deployed", self.student)

    def deploy(self, network: Network) -> None:
        """Set the network that is evaluated, saved and exported.

        The network is not a module of the method, because it consists of modules that the method already has: the
        student, and further networks or layers. Its name and its `model_kwargs` must suffice to build it again, and its
        parameters must have the same names as in the method (`student.model.conv1.weight`). A checkpoint of the run
        can then be loaded into it. `kd_lightning.models.composites` has such networks.

        Args:
            network: Network whose parameters are all parameters of the method. It has the student's mean, std and size.
        """
        vars(self)["_deployed"] = network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)
        if self.deployed is not self.student:  # its other tensors are those of modules of the method
            self.deployed.mean, self.deployed.std = self.student.mean, self.student.std
        return moved

    def deployed_state(self, state: checkpoints.State) -> checkpoints.State:
        """Return the weights of the deployed network, with the names of its model.

        Args:
            state: State dict of the method, from a checkpoint of the run.
        """
        if self.deployed is self.student:
            return checkpoints.clean(state, self.student.model)
        return {name: state[name] for name in self.deployed.model.state_dict()}
