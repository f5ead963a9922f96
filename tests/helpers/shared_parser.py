"""One parser for each command and process: building it takes half of the time of a command that raises an error."""

from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI

_BUILT: dict[tuple[Any, ...], dict[str, Any]] = {}


def share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `main` reuse the parser of an earlier call with the same commands.

    Parsing changes no parser, but for `--print_config`.
    """
    build = LightningCLI.setup_parser

    def setup_parser(self: LightningCLI, *args: Any, **kwargs: Any) -> None:
        key = (
            type(self),
            getattr(self, "command", None),
            getattr(self, "shown", None),
            *self.subcommands(),
            repr((args, kwargs)),
        )
        if key not in _BUILT:
            before = {*vars(self)}
            build(self, *args, **kwargs)
            _BUILT[key] = {name: value for name, value in vars(self).items() if name not in before}
        vars(self).update(_BUILT[key])
        for parser in (self.parser, *self._subcommand_parsers.values()):
            vars(parser).pop("print_config", None)  # an earlier --print_config that ended in an error

    monkeypatch.setattr(LightningCLI, "setup_parser", setup_parser)
