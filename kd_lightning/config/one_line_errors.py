"""What all parsers of this package share. Nothing here imports torch or Lightning."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from kd_lightning.config.messages import config_error, explain
from kd_lightning.errors import ConfigError, redacted
from kd_lightning.io.safe_yaml import load_yaml

# jsonargparse's own list of what no config may name (os, subprocess, builtins.eval, ...) raises errors, not warnings;
# where any value is allowed, a class_path stays a table and builds nothing
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
set_loader("yaml", partial(load_yaml, load=get_loader("yaml")), exceptions=(yaml.YAMLError,))


class OneLineErrors:
    """A parser that takes no abbreviated names and reports each mistake in one line; a mixin of jsonargparse's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parse as jsonargparse does.

        Raises:
            ConfigError: for a NUL on the command line, and for a file that is not UTF-8.
        """
        for given in sys.argv[1:] if args is None else args:
            if isinstance(given, str) and "\0" in given:
                raise ConfigError(f"{given.partition('=')[0].lstrip('-')}: {given!r} holds a NUL, which no name has")
        try:
            return super().parse_args(args, *more, **kwargs)
        except UnicodeError as error:
            raise ConfigError(f"config: it is not text in UTF-8 ({error})"[:300]) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2; the parsers that jsonargparse makes for classes raise instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        known = config_error(ex)
        line = str(known) if known else redacted(explain(message, {*_options(self)}))
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
        self.exit(2)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action.choices, dict):  # the subcommands
            for sub in action.choices.values():
                yield from _options(sub)
        elif not action.dest.startswith(("help", "print_")):
            yield action.dest
