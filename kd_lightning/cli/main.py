"""The command line's entry: which command is meant, and how errors become exit statuses."""

import inspect
import logging
import os
import sys
import warnings
from typing import Any

from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning import commands, distributed
from kd_lightning.callbacks import PreemptionHandler, SaveConfig
from kd_lightning.callbacks.preemption import StoppedError
from kd_lightning.cli.app import CLI, DEFAULTS, CommandCLI, known_error
from kd_lightning.config.parser import Parser
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import RunError
from kd_lightning.runs.directory import RESUME_ENV_VAR

NOISE = (
    "does not have many workers",  # images in memory need none
    "dirpath has changed",  # a run that is resumed into a folder of its own
    "exists and is not empty",  # the run's own folder, which config.yaml is in already
    "callbacks used to create the checkpoint",  # what saved it is not needed to test it
    "in eval mode at the start of training",  # the teacher, as it must be
    "Total length of `list` across ranks is zero",  # no validation, as configured
    "LeafSpec",  # Lightning's own use of torch
    "Tip: For seamless",
    "args parameter is intended",  # main(args) from Python, as tests and notebooks do
)

OF_FIT = ("config", "model", "data", "seed_everything", "ckpt_path", "print_config")
"""Arguments of `fit` without a dot, which commands around it pass on unless they have them themselves."""


def main(args: ArgsType = None) -> Any:
    """Runs a command; `args` as on the command line.

    A user's mistake ends in one line and exit status 2, a run that cannot go on in one line and exit status 1, one that
    a signal has told to end in 128 and the signal's number.
    """
    args = sys.argv[1:] if args is None else args
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_noise)
    try:
        with PreemptionHandler():
            return _run(args)
    except (Exception, StoppedError) as error:
        if distributed.peer_is_gone(error):
            raise SystemExit(
                f"rank {rank_zero_only.rank}: another rank has ended; its own error is above, unless it was killed "
                "(for want of memory, perhaps)"
            ) from None
        known = known_error(error)
        if known is None:
            raise
        status = known.status if isinstance(known, RunError | StoppedError) else 2
        if status:
            line = " ".join(str(known).split())
            print(line if isinstance(known, StoppedError) else f"error: {line}", file=sys.stderr)
        raise SystemExit(status) from None
    finally:
        os.environ.pop(RESUME_ENV_VAR, None)


def _run(args: Any) -> Any:
    name = args[0] if isinstance(args, list) and args else None
    if name in commands.ALONE:
        kind, own = commands.ALONE[name], args[1:]
        parser = Parser(prog=f"python -m kd_lightning {name}")
        return _built(kind, parser, own)()
    if name in commands.AROUND_FIT:
        kind = commands.AROUND_FIT[name]
        own, others = _split(args[1:], {*inspect.signature(kind).parameters, "help"})
        parser = Parser(prog=f"python -m kd_lightning {name}", epilog="All further arguments are those of fit.")
        return _built(kind, parser, own)(others)
    kwargs: dict[str, Any] = {
        "save_config_callback": SaveConfig,
        "trainer_defaults": DEFAULTS,
        "seed_everything_default": 0,
        "parser_class": Parser,
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,
        "load_from_checkpoint_support": False,
    }
    if name in commands.ON_A_CONFIG:
        kwargs["parser_kwargs"] = {"prog": f"python -m kd_lightning {name}"}
        return CommandCLI(
            commands.ON_A_CONFIG[name], model_class=StudentModule, datamodule_class=ImageData, args=args[1:], **kwargs
        )
    Parser.commands = (*commands.ON_A_CONFIG, *commands.ALONE, *commands.AROUND_FIT)
    kwargs["parser_kwargs"] = {
        "prog": "python -m kd_lightning",
        "epilog": f"Further commands: {', '.join(Parser.commands)}",
    }
    return CLI(StudentModule, ImageData, args=args, **kwargs)


def _built(kind: type, parser: Parser, args: list[str]) -> Any:
    """A command from its own arguments; it may take some that stand in a row, or without a name."""
    parser.add_class_arguments(kind)
    args = kind.arguments(args) if hasattr(kind, "arguments") else args
    return kind(**parser.parse_args(args).as_dict())


def _split(args: list[str], own: set[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and those of `fit`; each --config adds one, where fit would merge them."""
    parts: tuple[list[str], list[str]] = ([], [])
    others = False
    for arg in args:
        if arg.startswith("-"):
            name, equals, value = arg.partition("=")
            key = name.lstrip("-").rstrip("+")
            others = key not in own and ("." in key or key in OF_FIT)
            arg = f"--config+{equals}{value}" if name == "--config" and not others else arg
        parts[others].append(arg)
    return parts


def console() -> None:
    """The `kd-lightning` script: `main` without a result, which would be taken for an exit status."""
    main()


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in NOISE)
