"""FrozenNetworks: the networks of a method whose weights never change, such as the teacher."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from kd_lightning.errors import RunError
from kd_lightning.models import Network


class FrozenNetworks(LightningModule):
    """Base class of methods that have frozen networks.

    A frozen network is an attribute of the method, but not one of its modules: `modules()`, `parameters()` and
    `state_dict()` of the method do not contain it. Therefore callbacks that change all weights of a method (pruning,
    weight averaging), optimizers, checkpoints and DistributedDataParallel do not find it. Functions that move or
    convert the method, such as `to()`, also move and convert its frozen networks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen_networks: dict[str, Network] = {}

    def add_frozen(self, name: str, network: Network) -> None:
        """Freeze a network and make it the attribute `name` of the method, but not one of its modules."""
        vars(self)[name] = self.frozen_networks[name] = network.freeze()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if recurse:
            for network in self.frozen_networks.values():
                network._apply(fn)
        return super()._apply(fn, recurse)

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of all frozen networks by name, including those of the parts of `Combined`."""
        holders = {name: module for name, module in self.named_modules() if isinstance(module, FrozenNetworks)}
        return {
            f"{path}.{name}".lstrip("."): network.fingerprint()
            for path, holder in holders.items()
            for name, network in holder.frozen_networks.items()
        }

    def check_unchanged(self, before: dict[str, str]) -> None:
        """Raise an error if the weights of a frozen network have changed.

        Args:
            before: Earlier result of `fingerprints`.

        Raises:
            RunError: if weights have changed. The message names the networks and the callbacks of other packages.
        """
        now = self.fingerprints()
        changed = [name for name, fingerprint in before.items() if now.get(name) != fingerprint]
        if not changed:
            return
        others = (type(callback) for callback in self.trainer.callbacks)
        names = [kind.__name__ for kind in others if not kind.__module__.startswith("kd_lightning.")]
        suspects = f"; remove the callback that changes it ({', '.join(names)})" if names else ""
        raise RunError(
            f"{', '.join(changed)}: its weights changed during training, but it must stay frozen, so no result is "
            f"written{suspects}"
        )
