"""The entry point of the command line."""

import sys
from typing import TYPE_CHECKING, Any

from kd_lightning.cli.registry import COMMANDS, overview
from kd_lightning.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType


def main(args: "ArgsType" = None) -> Any:
    """Run a command and return its result.

    Args:
        args: arguments of the command line. Default: `sys.argv[1:]`.

    Raises:
        SystemExit: for every error, with the status that `kd_lightning.commands.running.exit_on_error` chooses.
    """
    args = sys.argv[1:] if args is None else args
    if args in ([], ["-h"], ["--help"]):
        print(overview(), end="")
        raise SystemExit(0)
    from kd_lightning.commands.running import exit_on_error, run_class, without_gc
    from kd_lightning.config.environment import check_environment
    from kd_lightning.io import noise

    with exit_on_error():
        check_environment()
        # if an option comes first, "fit" selects Lightning's parser, which finds the command
        name = args[0] if isinstance(args, list) and not args[0].startswith("-") else "fit"
        if name not in COMMANDS:
            raise ConfigError(f"there is no command {name!r}{nearest(name, COMMANDS)}")
        command, prog = COMMANDS[name], f"python -m kd_lightning {name}"
        if command.kind in ("alone", "around_fit"):
            if command.takes_run and len(args) > 1 and not args[1].startswith("-"):
                args = [name, "--ckpt_path", *args[1:]]
            kind = command.load()
            noise.silence()  # after the import of Lightning, which formats warnings in its own way
            try:
                return run_class(kind, args[1:], prog=prog, around_fit=command.kind == "around_fit")
            finally:
                noise.end_command()
        with without_gc():
            from kd_lightning.cli.app import run
        return run(name, command, args)


def console() -> None:
    """Run `main` as the script `kd-lightning`, which uses the return value as its exit status.

    As with `python -m kd_lightning`, modules in the current folder can be imported.
    """
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    main()
