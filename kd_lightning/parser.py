"""The argument parser: jsonargparse's errors in one line."""

from lightning.pytorch.cli import LightningArgumentParser


class Parser(LightningArgumentParser):
    pass


def check_checkpoint(config):
    pass
