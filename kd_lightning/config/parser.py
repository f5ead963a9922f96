"""The parser of configs."""

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

import kd_lightning.methods  # noqa: F401  enables the short names of all methods
from kd_lightning.config.class_changes import forget_notices, print_notices
from kd_lightning.config.one_line_errors import OneLineErrors


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, changed by `OneLineErrors`: no abbreviated options, and one line per error.

    If a class is replaced by another class, the settings of the former class are dropped (`class_changes`).
    """

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments, and print a line for each class whose settings were dropped."""
        if not self.exit_on_error:  # the parser of a nested class
            return super().parse_args(*args, **kwargs)
        forget_notices()
        try:
            config = super().parse_args(*args, **kwargs)
        except SystemExit as ended:
            if not ended.code:  # --print_config
                print_notices()
            raise
        print_notices()
        return config
