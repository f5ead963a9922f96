"""The argument parser: Lightning's, without abbreviations, and with one line for each mistake."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NoReturn

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

import kd_lightning.methods  # noqa: F401  the short names of all methods
from kd_lightning.config.messages import config_error, explain
from kd_lightning.config.safe_yaml import load_yaml
from kd_lightning.errors import ConfigError, redacted

# jsonargparse's own list of what no config may name (os, subprocess, builtins.eval, ...) is obeyed, not only warned of;
# a class_path where any value is allowed stays a table, and nothing is built of it
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
set_loader("yaml", partial(load_yaml, load=get_loader("yaml")), exceptions=(yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Lightning's parser, which takes no abbreviations and reports a mistake as ConfigError's one line."""

    commands: ClassVar[tuple[str, ...]] = ()
    """Names of further commands, offered where one is misspelt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """As jsonargparse's; texts that are none are refused.

        Raises:
            ConfigError: for a NUL on the command line, and a file that is not text.
        """
        for given in sys.argv[1:] if args is None else args:
            if isinstance(given, str) and "\0" in given:
                raise ConfigError(f"{given.partition('=')[0].lstrip('-')}: {given!r} holds a NUL, which no name has")
        try:
            return super().parse_args(args, *more, **kwargs)
        except UnicodeError as error:
            raise ConfigError(f"config: it is not text in UTF-8 ({error})"[:300]) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # one of the parsers that jsonargparse makes for a class: the outer one reports
            super().error(message, ex)
        known = config_error(ex)
        line = str(known) if known else redacted(explain(message, set(_destinations(self)), self.commands))
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
        self.exit(2)


def _destinations(parser: LightningArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(getattr(action, "choices", None), dict):  # the subcommands
            for sub in action.choices.values():
                yield from _destinations(sub)
        else:
            yield action.dest
