"""A parser for the arguments of a command's class, which imports neither torch nor Lightning."""

import argparse
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn, get_args, get_origin

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from kd_lightning.config.messages import config_error, explain
from kd_lightning.config.safe_yaml import load_yaml
from kd_lightning.errors import ConfigError, redacted

# jsonargparse's own list of what no config may name (os, subprocess, builtins.eval, ...) raises errors, not warnings;
# where any value is allowed, a class_path stays a table and builds nothing
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
set_loader("yaml", partial(load_yaml, load=get_loader("yaml")), exceptions=(yaml.YAMLError,))


class OneLineErrors:
    """What all parsers here share: no abbreviated names, and one line for each mistake."""

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
        else:
            yield action.dest


class CommandParser(OneLineErrors, ArgumentParser):
    """The arguments of a command's class.

    A parameter of type list takes its values in a row, without a name where it may be given by position; a bool whose
    default is False is a flag.
    """

    def add_command(self, kind: type) -> None:
        """Add the arguments of a class, described by its docstring."""
        described = docstring_parser.parse(kind.__doc__ or "")
        self.description = described.description
        texts = {param.arg_name: param.description for param in described.params}
        special = set()
        for name, parameter in inspect.signature(kind).parameters.items():
            if get_origin(parameter.annotation) is list:
                by_name = parameter.kind is inspect.Parameter.KEYWORD_ONLY
                required: dict[str, Any] = {"nargs": "+", "required": True} if by_name else {"nargs": "*"}
                (element,) = get_args(parameter.annotation)
                self.add_argument(f"--{name}" if by_name else name, type=element, help=texts.get(name), **required)
            elif parameter.annotation is bool and parameter.default is False:
                self.add_argument(f"--{name}", action="store_true", help=texts.get(name))
            else:
                continue
            special.add(name)
        self.add_class_arguments(kind, as_group=False, skip=special)

    def parse_own_args(self, args: list[str]) -> tuple[Namespace, list[str]]:
        """Return the values of the class's own arguments, and all other arguments.

        (jsonargparse has no public `parse_known_args`, because a misspelt name would go unnoticed. Here, the command
        that gets the other arguments raises an error for it.)
        """
        try:
            config, others = self._parse_known_args_internal(args, self.get_defaults())
            self.validate(config)
        except (TypeError, KeyError, argparse.ArgumentError) as error:
            self.error(str(error), error)
        return config, others
