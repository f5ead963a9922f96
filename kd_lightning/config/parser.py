"""The parser of configs."""

from lightning.pytorch.cli import LightningArgumentParser

import kd_lightning.methods  # noqa: F401  the short names of all methods
from kd_lightning.config.one_line_errors import OneLineErrors


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, but without abbreviated names, and with one line per error."""
