"""The parser of configs: Lightning's, with one line for each mistake."""

from lightning.pytorch.cli import LightningArgumentParser

import kd_lightning.methods  # noqa: F401  the short names of all methods
from kd_lightning.config.one_line_errors import OneLineErrors


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, which takes no abbreviations and reports a mistake in one line."""
