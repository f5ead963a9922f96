"""The command line: Lightning's own, with this project's links and defaults."""

import inspect
import logging
import os
import sys
import warnings
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kd_lightning import commands, distributed
from kd_lightning.callbacks import (
    Guard,
    KeepConfig,
    OutOfMemory,
    Overview,
    Predictions,
    Progress,
    Protocol,
    Speed,
    Stop,
    Watch,
)
from kd_lightning.callbacks.memory import explained
from kd_lightning.callbacks.stop import StoppedError
from kd_lightning.checkpointing import WholeCheckpoints
from kd_lightning.data import ImageData
from kd_lightning.data.loader import dead_worker
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.evaluation import Classification, Cost, Faithfulness, Probe
from kd_lightning.methods import StudentModule
from kd_lightning.parser import Parser, check, config_error, fixed_seed, validates
from kd_lightning.resume import check_same, goes_on
from kd_lightning.run import TOLD, Run

DEFAULTS = {
    "max_epochs": 100,
    "use_distributed_sampler": False,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
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


class CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(Protocol, "protocol")
        parser.add_lightning_class_args(Speed, "speed")
        parser.add_lightning_class_args(Guard, "guard")
        parser.link_arguments("data.num_classes", "model.init_args.student.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=fixed_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_lightning_class_args(Predictions, "predictions")
            parser.set_defaults({"return_predictions": False})
        if subcommand == "test":
            parser.set_defaults({"verbose": False})  # one table, with the teacher beside the student
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        self.goes_on = goes_on(config) if command == "fit" else None
        check(command, config)
        if self.goes_on:
            check_same(self.goes_on, yaml.safe_load(self._parser(command).dump(config, skip_none=False)))
            self.save_config_kwargs = {**self.save_config_kwargs, "overwrite": True}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        callbacks = [*_each_once(_listed(trainer.callbacks)), Overview(), OutOfMemory()]
        if trainer.enable_progress_bar is not False:
            callbacks.append(Progress())
        if self.subcommand == "fit":
            folder, loggers = self._get(self.config_init, "run").open(self.model, self.datamodule, self.goes_on)
            writes = rank_zero_only.rank == 0 and not trainer.fast_dev_run
            self.watch = Watch(folder, goes_on=bool(self.goes_on), writes=writes, explain=_known)
            self.stop = Stop(folder)
            protocol = self._get(self.config_init, "protocol")
            self.datamodule.tested = protocol.test
            self.datamodule.checks = [probe.check_data for probe in callbacks if isinstance(probe, Probe)]
            callbacks += self._default_probes(callbacks)
            judged = self.datamodule.has_validation and self.datamodule.labeled and self.model.trains_classifier
            validated = judged and validates(trainer)
            callbacks += [self.watch, *protocol.checkpoints(folder, validated=validated), self.stop]
            kwargs |= {
                "default_root_dir": folder,
                "logger": loggers if trainer.logger in (None, True) else trainer.logger,
            }
        else:
            if self.subcommand == "test":
                self.datamodule.checks = [probe.prepare for probe in callbacks if isinstance(probe, Probe)]
                callbacks += self._default_probes(callbacks)
            kwargs |= {"logger": trainer.logger or False, "enable_checkpointing": False}
        kwargs["callbacks"] = callbacks
        plugins = _listed(trainer.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, WholeCheckpoints()]
        if trainer.sync_batchnorm:
            plugins = [*plugins, distributed.SyncBatchNorm()]
            kwargs["sync_batchnorm"] = False
        kwargs["plugins"] = plugins
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise error if config_error(error) else ConfigError(f"trainer: {error}") from error

    def _default_probes(self, given: list) -> list[Probe]:
        """What every run is judged by, where the config does not name it itself."""
        wanted: list[Probe] = [Cost(batch_sizes=[], teacher=True)]
        if self.datamodule.labeled and self.model.trains_classifier:
            wanted.append(Classification())
        if hasattr(self.model, "teacher"):
            wanted.append(Faithfulness())
        named = {type(probe) for probe in given}
        return [probe for probe in wanted if type(probe) not in named]

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "fit":
            super()._run_subcommand(subcommand)
            return
        with self.stop, self.watch:
            super()._run_subcommand(subcommand)

    def after_fit(self) -> None:
        if not self.trainer.fast_dev_run:
            self._get(self.config_init, "protocol").conclude(self.trainer, self.model, self.datamodule)

    def after_test(self) -> None:
        config, protocol = self.config[self.subcommand].as_dict(), self._get(self.config_init, "protocol")
        protocol.conclude_test(self.trainer, self.model, self.datamodule, config["ckpt_path"], config)


class CommandCLI(CLI):
    """A command of this project, called with the method and the data of a config, as `fit` takes it.

    Args:
        command: its class; its arguments become the command line's own.
        **kwargs: as for every CLI.
    """

    def __init__(self, command: type, **kwargs: Any) -> None:
        self.command = command
        super().__init__(**kwargs, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(self.command)

    def after_instantiate_classes(self) -> None:
        chosen = {name: self.config[name] for name in inspect.signature(self.command).parameters}
        self.result = self.command(**chosen)(self.model, self.datamodule, self.trainer)


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
        with Stop():
            return _run(args)
    except (Exception, StoppedError) as error:
        if distributed.peer_is_gone(error):
            raise SystemExit(
                f"rank {rank_zero_only.rank}: another rank has ended; its own error is above, unless it was killed "
                "(for want of memory, perhaps)"
            ) from None
        known = _known(error)
        if known is None:
            raise
        status = known.status if isinstance(known, RunError | StoppedError) else 2
        if status:
            line = " ".join(str(known).split())
            print(line if isinstance(known, StoppedError) else f"error: {line}", file=sys.stderr)
        raise SystemExit(status) from None
    finally:
        os.environ.pop(TOLD, None)


def _known(error: BaseException) -> BaseException | None:
    """The error that is said in one line; None for one that is a fault of this code's own."""
    if isinstance(error, MisconfigurationException | RunError | StoppedError):
        return error
    return config_error(error) or dead_worker(error) or explained(error)


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
        "save_config_callback": KeepConfig,
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
    others = ", ".join([*commands.ON_A_CONFIG, *commands.ALONE, *commands.AROUND_FIT])
    kwargs["parser_kwargs"] = {"prog": "python -m kd_lightning", "epilog": f"Further commands: {others}"}
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


def _listed(given: Any) -> list:
    """What Lightning takes one of, or a list of, or none."""
    return given if isinstance(given, list) else [given] * (given is not None)


def _each_once(callbacks: list) -> list:
    """The callbacks, of two probes that would log the same names the later one: `--trainer.callbacks+=` adds behind."""
    last = {probe.title: probe for probe in callbacks if isinstance(probe, Probe)}
    return [each for each in callbacks if not isinstance(each, Probe) or last[each.title] is each]


def console() -> None:
    """The `kd-lightning` script: `main` without a result, which would be taken for an exit status."""
    main()


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in NOISE)
