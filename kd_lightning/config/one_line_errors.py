"""Settings and error messages of all parsers of this package. This module imports neither torch nor Lightning."""

import argparse
import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import set_dumper, set_loader, set_parsing_settings

from kd_lightning.config import texts
from kd_lightning.config.messages import config_error, explain
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import check_regular
from kd_lightning.redaction import allow_names, hidden, printable, redacted

# If a denylist is given, even an empty one, an import path that jsonargparse denies by default (os, ...) is an error.
# Without a denylist, it is only a warning.
# In a field of type Any, a mapping with a class_path remains a mapping, and no object is built from it.
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
set_loader("yaml", texts.load, exceptions=(yaml.YAMLError,))
set_dumper("yaml", texts.dump)
_read_text = jsonargparse.Path.read_text


def _read_regular(path: jsonargparse.Path) -> str:
    """Return the content of a config or sub-config; jsonargparse would wait for a pipe without end."""
    check_regular(Path(path.absolute), "config")
    return _read_text(path)


jsonargparse.Path.read_text = _read_regular

# PyYAML writes an enum as its value (the default of Lightning's Timer is the enum `Interval.step`)
yaml.representer.SafeRepresenter.add_multi_representer(enum.Enum, lambda dumper, one: dumper.represent_data(one.value))


class OneLineErrors:
    """Mixin for jsonargparse's parsers: it disables abbreviated options and reports each error in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parse arguments as jsonargparse does.

        Raises:
            ConfigError: if an argument contains a NUL character, or if a config is not text in UTF-8.
        """
        for arg in sys.argv[1:] if args is None else args:
            if isinstance(arg, str) and "\0" in arg:
                raise ConfigError(f"{arg.partition('=')[0].lstrip('-')}: {arg!r} contains a NUL character; remove it")
        if not self.exit_on_error and args is not None and len(args) == 1:  # the parser of a nested class
            args = [texts.as_given(args[0])]
        try:
            return super().parse_args(args, *more, **kwargs)
        except UnicodeError as error:
            raise ConfigError(f"config: the file is not text in UTF-8 ({error})"[:300]) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error as one line and exit with status 2.

        For the arguments of classes, jsonargparse uses inner parsers. An inner parser raises an exception instead.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        cause = config_error(ex)
        line = str(cause) if cause else redacted(explain(message, {*_options(self)}))
        sys.stderr.write(f"error: {printable(' '.join(line.split()))}\n")
        self.exit(2)

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        """Return a config as YAML, with keys hidden: it is printed by --print_config, and saved with the results."""
        run = cfg.get("run")
        allow_names([run.get("name"), run.get("id")] if isinstance(run, jsonargparse.Namespace) else [])
        return hidden(super().dump(cfg, *args, **kwargs))


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action.choices, dict):  # the subcommands
            for sub in action.choices.values():
                yield from _options(sub)
        elif not action.dest.startswith(("help", "print_")):
            yield action.dest
