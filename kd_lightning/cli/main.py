"""The entry of the command line: find the command, run it, and turn errors into exit statuses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kd_lightning.cli.registry import COMMANDS, overview
from kd_lightning.errors import ConfigError, RunError, StoppedError, nearest

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType


def main(args: "ArgsType" = None) -> Any:
    """Run a command and return its result; `args` as on the command line.

    Raises:
        SystemExit: after one line on stderr, with status 2 for a user's mistake, 1 for a run that failed, and 128 plus
            the number of the signal that stopped it.
    """
    args = sys.argv[1:] if args is None else args
    if args in ([], ["-h"], ["--help"]):
        print(overview(), end="")
        raise SystemExit(0)
    with _exit_on_error():
        name = args[0] if isinstance(args, list) and not args[0].startswith("-") else "fit"  # else Lightning finds it
        if name not in COMMANDS:
            raise ConfigError(f"there is no command {name!r}{nearest(name, COMMANDS)}")
        command, prog = COMMANDS[name], f"python -m kd_lightning {name}"
        if command.kind in ("alone", "around_fit"):
            return run_class(command.load(), args[1:], prog=prog, around_fit=command.kind == "around_fit")
        from kd_lightning.cli.app import run

        return run(name, command, args)


def run_class(kind: type, args: list[str] | None = None, *, prog: str, around_fit: bool = False) -> Any:
    """Build a class from a command line, call the object, and return what it returns.

    Args:
        kind: its signature is the command line's.
        args: default: those of this process.
        prog: how the command is called, for its help.
        around_fit: whether the object is called with all arguments that are not its own.
    """
    from kd_lightning.config.command_parser import CommandParser

    with _exit_on_error():
        parser = CommandParser(prog=prog, epilog="All other arguments are passed on to fit." if around_fit else None)
        parser.add_command(kind)
        if not around_fit:
            return kind(**parser.parse_args(args).as_dict())()
        config, others = parser.parse_own_args(sys.argv[1:] if args is None else args)
        return kind(**config.as_dict())(others)


@contextmanager
def _exit_on_error() -> Iterator[None]:
    try:
        yield
    except (Exception, StoppedError) as error:
        known = _known_error(error)
        if known is None:
            raise
        status = getattr(known, "status", 2)
        if status:
            line = " ".join(str(known).split())
            print(line if isinstance(known, StoppedError) else f"error: {line}", file=sys.stderr)
        raise SystemExit(status) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _known_error(error: BaseException) -> BaseException | None:
    """Return the error to print in one line, None for a defect of this package; import torch only if it is there."""
    if isinstance(error, ConfigError | RunError | StoppedError) or "lightning" not in sys.modules:
        from kd_lightning.config.messages import config_error

        return config_error(error) or (error if isinstance(error, RunError | StoppedError) else None)
    from kd_lightning.callbacks.known_errors import known_error

    return known_error(error)


def console() -> None:
    """Run `main` for the `kd-lightning` script, whose return value would be taken for an exit status."""
    main()
