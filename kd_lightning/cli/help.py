"""Help of the subcommands of Lightning's CLI, in place of the texts that describe Lightning's own command line."""

from lightning.pytorch.cli import LightningArgumentParser

from kd_lightning.cli.registry import COMMANDS

_RESUMES = (
    "Path of the last.ckpt of an interrupted run, or `last`. With `last`, the run with the id run.id is resumed; if no "
    "run has this id, a new run begins. With the path of another run's checkpoint, a new run begins with this state."
)
_EVALUATES = (
    "Path of a run's folder, of its config.yaml, or of a .ckpt file in the folder. For the folder and its config.yaml, "
    "the selected checkpoint of the run is used. With `null`, the weights of model.student are used."
)
_RUN = (
    "Usage: python -m kd_lightning {name} RUN [options]. RUN is a run's folder, its config.yaml, or a .ckpt file in "
    "the folder."
)
_IMAGES = (
    " With --data.path, all images of other folders, single images or lists of images (.txt, .csv) are read, and the "
    "command embed writes only embeddings."
)


def describe(parser: LightningArgumentParser, subcommand: str) -> None:
    """Describe a subcommand and its argument `ckpt_path`."""
    usage = "" if subcommand == "fit" else f" {_RUN.format(name=subcommand)}{_IMAGES * (subcommand == 'predict')}"
    parser.description = f"{COMMANDS[subcommand].description}{usage}"
    for action in parser._actions:
        if action.dest == "ckpt_path":
            action.help = _RESUMES if subcommand == "fit" else _EVALUATES
