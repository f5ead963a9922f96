"""Run a class from a command line, with the arguments of its constructor, without importing torch or Lightning."""

import argparse
import contextlib
import gc
import inspect
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args, get_origin

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from kd_lightning.config.messages import config_error
from kd_lightning.config.one_line_errors import OneLineErrors
from kd_lightning.errors import ConfigError, RunError, StoppedError
from kd_lightning.redaction import printable


def run_class(kind: type, args: list[str] | None = None, *, prog: str, around_fit: bool = False) -> Any:
    """Build a class from a command line, call the object, and return what it returns.

    Args:
        kind: class whose signature defines the command line.
        args: arguments; default: those of this process.
        prog: name of the command in its help.
        around_fit: whether the object is called with the list of all other arguments.
    """
    with exit_on_error():
        parser = CommandParser(prog=prog, epilog="All other arguments are passed on to fit." if around_fit else None)
        parser.add_command(kind)
        if not around_fit:
            return kind(**parser.parse_args(args).as_dict())()
        config, others = parser.parse_own_args(sys.argv[1:] if args is None else args)
        return kind(**config.as_dict())(others)


@contextmanager
def without_gc() -> Iterator[None]:
    """Import libraries without the garbage collector, which would take a tenth of the time and free nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn an error into one line on stderr and an exit status.

    Characters that the encoding of the output does not have are written as escapes.

    Raises:
        SystemExit: with status 2 for a user's mistake, 1 for a run that failed, and 128 plus the number of the signal
            that stopped it (SIGPIPE if the reader of the output has ended).
    """
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
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _known_error(error: BaseException) -> BaseException | None:
    """Return the error to print in one line, None for a defect of this package; Lightning is not imported for this."""
    if isinstance(error, ConfigError | RunError | StoppedError) or "lightning" not in sys.modules:
        known = config_error(error) or (error if isinstance(error, RunError | StoppedError) else None)
    else:
        from kd_lightning.callbacks.known_errors import known_error

        known = known_error(error)
    return known or (_place_error(error) if isinstance(error, OSError) else None)


def _place_error(error: OSError) -> BaseException:
    """Return the line for a place that cannot be written or read, or for an output whose reader has ended."""
    if isinstance(error, BrokenPipeError):
        return StoppedError(128 + signal.SIGPIPE, "the reader of the output has ended")
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return RunError(f"a file or the output cannot be written ({reason}); check the disk and its free space")
    return RunError(f"{os.fsdecode(error.filename)}: {reason}; check that the place exists and that you may write there")


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

    A parameter of type list takes several values; unless it is keyword-only, they are given without its name. A bool
    whose default is False is a flag.
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

        (jsonargparse has no public `parse_known_args`, because it would accept misspelt names. Here, the command
        that gets the other arguments raises an error for it.)
        """
        if args and not args[0].startswith("-"):
            self.error(f"unrecognized arguments: {args[0]}")
        try:
            config, others = self._parse_known_args_internal(args, self.get_defaults())
            self.validate(config)
        except (TypeError, KeyError, argparse.ArgumentError) as error:
            self.error(str(error), error)
        return config, others
