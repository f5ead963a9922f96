"""The registry of commands: their kinds, descriptions and classes. A class is imported when its command is run."""

from importlib import import_module
from typing import Literal, NamedTuple


class Command(NamedTuple):
    """A command of `python -m kd_lightning`, of one of four kinds.

    `lightning` is a subcommand of Lightning's CLI. `on_config` takes its own arguments and those of `fit`. `alone`
    takes only its own arguments. `around_fit` takes its own arguments and passes all others to `fit`.
    """

    kind: Literal["lightning", "on_config", "alone", "around_fit"]
    description: str
    class_path: str = ""
    takes_run: bool = False
    """Whether the first argument may be a run: its folder, its config.yaml, or a checkpoint in the folder."""

    def load(self) -> type:
        """Import and return the class, whose path is relative to `kd_lightning.commands`."""
        module, _, name = self.class_path.rpartition(".")
        return getattr(import_module(f"kd_lightning.commands.{module}"), name)


COMMANDS = {
    "fit": Command("lightning", "Train a student with a method, then test it."),
    "validate": Command("lightning", "Evaluate a run on its validation images.", takes_run=True),
    "test": Command("lightning", "Evaluate a run on its test images.", takes_run=True),
    "predict": Command("lightning", "Write the classes of images that a run's student predicts.", takes_run=True),
    "embed": Command("lightning", "Write the embeddings of images, computed by a run's student.", takes_run=True),
    "repeat": Command("around_fit", "Run each of several configs with several seeds.", "repeat.Repeat"),
    "compare": Command("alone", "Compare finished runs in tables and on a page.", "compare.Compare"),
    "export": Command("alone", "Export a run's student to timm, ONNX and other formats.", "export.Export", True),
    "list": Command("alone", "List methods, data sets, networks and evaluators.", "list_classes.ListClasses"),
    "new-method": Command("alone", "Write the file, the test and the config of a new method.", "new_method.NewMethod"),
    "show-batch": Command("on_config", "Draw training images as the networks receive them.", "show_batch.Show"),
    "build-neighbors": Command("on_config", "Write a table of nearest neighbors.", "build_neighbors.MakeNeighbors"),
    "build-store": Command("on_config", "Fill a store of the teacher's features.", "build_store.BuildStore"),
}
_HELP = """\
usage: python -m kd_lightning COMMAND [ARGUMENTS]

Knowledge distillation with PyTorch Lightning. Commands:

{commands}

To find arguments:
  python -m kd_lightning list                         methods, data sets, networks and evaluators
  python -m kd_lightning COMMAND --help               arguments of a command
  python -m kd_lightning fit --model.help SP          arguments of a method
  python -m kd_lightning fit --data.help ImageFolder  arguments of a data set

To use a finished run, where RUN is its folder:
  python -m kd_lightning test RUN
  python -m kd_lightning predict RUN --data.path FOLDER
"""


def overview() -> str:
    """Return the text of `python -m kd_lightning --help`."""
    width = max(map(len, COMMANDS))
    return _HELP.format(commands="\n".join(f"  {name:<{width}}  {c.description}" for name, c in COMMANDS.items()))
