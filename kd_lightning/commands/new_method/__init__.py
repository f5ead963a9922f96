"""new-method: write the file, the test and the config of a new method."""

from kd_lightning.commands.new_method.command import NewMethod

__all__ = ["NewMethod"]
