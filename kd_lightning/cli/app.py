"""The command line: Lightning's own, with this project's links and defaults."""

import inspect
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kd_lightning import distributed
from kd_lightning.callbacks import (
    NonFiniteGuard,
    OutOfMemory,
    PreemptionHandler,
    Progress,
    Protocol,
    RunStatus,
    RunSummary,
    SavePredictions,
    Speed,
    TeacherAccuracy,
    TeacherAgreement,
)
from kd_lightning.callbacks.memory import explained
from kd_lightning.callbacks.preemption import StoppedError
from kd_lightning.config.checks import check, fixed_seed, validates
from kd_lightning.config.messages import config_error
from kd_lightning.data.loader import dead_worker
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.evaluation import Classification, Cost, Evaluator, Faithfulness
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO
from kd_lightning.runs.directory import Run
from kd_lightning.runs.resume import check_config_matches, resume_path

DEFAULTS = {
    "max_epochs": 100,
    "use_distributed_sampler": False,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


class CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(Protocol, "protocol")
        parser.add_lightning_class_args(Speed, "speed")
        parser.add_lightning_class_args(NonFiniteGuard, "guard")
        parser.link_arguments("data.num_classes", "model.init_args.student.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=fixed_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_lightning_class_args(SavePredictions, "predictions")
            parser.set_defaults({"return_predictions": False})
        if subcommand == "test":
            parser.set_defaults({"verbose": False})  # one table, with the teacher beside the student
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        self.resume_path = resume_path(config) if command == "fit" else None
        check(command, config)
        if self.resume_path:
            check_config_matches(self.resume_path, yaml.safe_load(self._parser(command).dump(config, skip_none=False)))
            self.save_config_kwargs = {**self.save_config_kwargs, "overwrite": True}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        callbacks = [*_each_once(_listed(trainer.callbacks)), RunSummary(), OutOfMemory()]
        if hasattr(self.model, "teacher"):
            callbacks += [TeacherAccuracy(), TeacherAgreement()]
        if trainer.enable_progress_bar is not False:
            callbacks.append(Progress())
        if self.subcommand == "fit":
            folder, loggers = self._get(self.config_init, "run").open(self.model, self.datamodule, self.resume_path)
            writes = rank_zero_only.rank == 0 and not trainer.fast_dev_run
            self.watch = RunStatus(folder, resume_path=bool(self.resume_path), writes=writes, explain=known_error)
            self.stop = PreemptionHandler(folder)
            protocol = self._get(self.config_init, "protocol")
            self.datamodule.tested = protocol.test
            self.datamodule.checks = [
                evaluator.check_data for evaluator in callbacks if isinstance(evaluator, Evaluator)
            ]
            callbacks += self._default_evaluators(callbacks)
            evaluated = self.datamodule.has_validation and self.datamodule.labeled and self.model.trains_classifier
            validated = evaluated and validates(trainer)
            callbacks += [self.watch, *protocol.checkpoints(folder, validated=validated), self.stop]
            kwargs |= {
                "default_root_dir": folder,
                "logger": loggers if trainer.logger in (None, True) else trainer.logger,
            }
        else:
            if self.subcommand == "test":
                self.datamodule.checks = [
                    evaluator.prepare for evaluator in callbacks if isinstance(evaluator, Evaluator)
                ]
                callbacks += self._default_evaluators(callbacks)
            kwargs |= {"logger": trainer.logger or False, "enable_checkpointing": False}
        kwargs["callbacks"] = callbacks
        plugins = _listed(trainer.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, AtomicCheckpointIO()]
        if trainer.sync_batchnorm:
            plugins = [*plugins, distributed.SyncBatchNorm()]
            kwargs["sync_batchnorm"] = False
        kwargs["plugins"] = plugins
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise error if config_error(error) else ConfigError(f"trainer: {error}") from error

    def _default_evaluators(self, given: list) -> list[Evaluator]:
        """What every run is evaluated by, where the config does not name it itself."""
        wanted: list[Evaluator] = [Cost(batch_sizes=[], teacher=True)]
        if self.datamodule.labeled and self.model.trains_classifier:
            wanted.append(Classification())
        if hasattr(self.model, "teacher"):
            wanted.append(Faithfulness())
        named = {type(evaluator) for evaluator in given}
        return [evaluator for evaluator in wanted if type(evaluator) not in named]

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


def _listed(given: Any) -> list:
    """What Lightning takes one of, or a list of, or none."""
    return given if isinstance(given, list) else [given] * (given is not None)


def _each_once(callbacks: list) -> list:
    """The callbacks, of two probes that would log the same names the later one: `--trainer.callbacks+=` adds behind."""
    last = {evaluator.title: evaluator for evaluator in callbacks if isinstance(evaluator, Evaluator)}
    return [each for each in callbacks if not isinstance(each, Evaluator) or last[each.title] is each]


def known_error(error: BaseException) -> BaseException | None:
    """The error that is said in one line; None for one that is a fault of this code's own."""
    if isinstance(error, MisconfigurationException | RunError | StoppedError):
        return error
    return config_error(error) or dead_worker(error) or explained(error)
