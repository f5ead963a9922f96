"""The parser of configs."""

from lightning.pytorch.cli import LightningArgumentParser

import kd_lightning.methods  # noqa: F401  enables the short names of all methods
from kd_lightning.config.one_line_errors import OneLineErrors


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, changed by `OneLineErrors`: no abbreviated options, and one line per error."""
