"""Run a class as a command whose arguments are those of its constructor, without importing torch or Lightning."""

import argparse
import contextlib
import gc
import inspect
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args, get_origin

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from kd_lightning.commands.system_errors import system_error
from kd_lightning.config.environment import environment_error
from kd_lightning.config.messages import config_error
from kd_lightning.config.one_line_errors import OneLineErrors
from kd_lightning.errors import ConfigError, RunError, StoppedError
from kd_lightning.io.own_files import exit_place
from kd_lightning.redaction import printable


def run_class(kind: type, args: list[str] | None = None, *, prog: str, around_fit: bool = False) -> Any:
    """Build an object of a class from a command line, call the object, and return its result.

    Args:
        kind: class whose signature defines the command line.
        args: arguments of the command line. Default: those of this process.
        prog: name of the command in its help.
        around_fit: whether the class runs `fit`. The object is then called with a list of all arguments that are not
            its own.
    """
    with exit_on_error():
        parser = CommandParser(prog=prog, epilog="All other arguments are passed to fit." if around_fit else None)
        parser.add_command(kind)
        if not around_fit:
            return kind(**parser.parse_args(args).as_dict())()
        config, others = parser.parse_own_args(sys.argv[1:] if args is None else args)
        return kind(**config.as_dict())(others)


@contextmanager
def without_gc() -> Iterator[None]:
    """Disable the garbage collector during imports, where it would take a tenth of the time and free nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Convert an error to one line on stderr and an exit status.

    Characters that the encoding of the output does not have are written as escapes.

    Raises:
        SystemExit: with status 2 for a wrong value from the user, with status 1 for a run that failed, and with status
            128 + n for a run that was stopped by the signal with number n (SIGPIPE if nobody reads the output).
    """
    if sys.stdout is None:  # closed by the shell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except (Exception, StoppedError) as error:
        known = _known_error(error)
        if known is None:
            raise
        status = getattr(known, "status", 2)
        if status and not isinstance(error, BrokenPipeError):
            line = printable(" ".join(str(known).split()))
            print(line if isinstance(known, StoppedError) else f"error: {line}", file=sys.stderr)
        if isinstance(error, OSError):
            _discard_output()
        raise SystemExit(status) from None
    except SystemExit as error:
        if place := exit_place(error):
            print(f"error: {place}: sys.exit ended the command; remove this line", file=sys.stderr)
            raise SystemExit(error.code if isinstance(error.code, int) and error.code else 2) from None
        raise
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _known_error(error: BaseException) -> BaseException | None:
    """Return the error to print in one line; None if the error is a bug of the package. Lightning is not imported."""
    if (known := environment_error(error)) is not None:
        return known
    if isinstance(error, ConfigError | RunError | StoppedError) or "lightning" not in sys.modules:
        known = config_error(error) or (error if isinstance(error, RunError | StoppedError) else None)
    else:
        from kd_lightning.callbacks.known_errors import known_error

        known = known_error(error)
    return known or (system_error(error) if isinstance(error, OSError) else None)


def _discard_output() -> None:
    """Discard what is still to be written to stdout, so that Python does not report it again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class CommandParser(OneLineErrors, ArgumentParser):
    """Parser of a command's arguments, which are the parameters of its class.

    A parameter of type list takes several values. If such a parameter is not keyword-only, its values are positional:
    they are given without the name of the parameter. A bool with the default False is a flag.
    """

    def add_command(self, kind: type) -> None:
        """Add the parameters of a class as arguments, with the descriptions in its docstring."""
        described = docstring_parser.parse(kind.__doc__ or "")
        self.description = described.description
        texts = {param.arg_name: param.description for param in described.params}
        special = set()
        for name, parameter in inspect.signature(kind).parameters.items():
            if get_origin(parameter.annotation) is list:
                by_name = parameter.kind is inspect.Parameter.KEYWORD_ONLY
                required: dict[str, Any] = {"nargs": "+"} if by_name else {"nargs": "*"}
                if by_name and parameter.default is inspect.Parameter.empty:
                    required["required"] = True
                elif by_name:
                    required["default"] = parameter.default
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

        jsonargparse has no public `parse_known_args`, because misspelt names would then be accepted. Here, misspelt
        names are passed to another command, which raises an error.
        """
        if args and not args[0].startswith("-"):
            self.error(f"unrecognized arguments: {args[0]}")
        try:
            config, others = self._parse_known_args_internal(args, self.get_defaults())
            self.validate(config)
        except (TypeError, KeyError, argparse.ArgumentError) as error:
            self.error(str(error), error)
        return config, others
