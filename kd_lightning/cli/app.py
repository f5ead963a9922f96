"""Lightning's CLI with the arguments, links and defaults of this project."""

import inspect
import os
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kd_lightning import callbacks
from kd_lightning.callbacks import assembly
from kd_lightning.callbacks.distributed_start import with_time_out
from kd_lightning.cli.help import improve
from kd_lightning.cli.registry import Command
from kd_lightning.config.checks import check, fixed_seed
from kd_lightning.config.lightning_classes import construction_error
from kd_lightning.config.messages import config_error
from kd_lightning.config.network_errors import with_field
from kd_lightning.config.own_classes import own_construction_error
from kd_lightning.config.parser import Parser
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import Evaluator
from kd_lightning.io import noise
from kd_lightning.io.schema import SCHEMA
from kd_lightning.runs import evaluated
from kd_lightning.runs.arguments import with_run
from kd_lightning.runs.checkpoint_io import check_checkpoint
from kd_lightning.runs.directory import RESUME_ENV_VAR, Run
from kd_lightning.runs.resume import check_config_matches, check_no_word, resume_path
from kd_lightning.runs.training_images import TrainingImages

DEFAULTS = {
    "max_epochs": 100,
    "use_distributed_sampler": False,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


class CLI(LightningCLI):
    """Lightning's CLI. If `only` is given, the parsers of all other subcommands are not built; each takes 0.1 s.

    If `images` is given, `predict` reads these images instead of those of the data set in the config. `shown` is the
    name of the command in the help, if it differs from the name of the subcommand.
    """

    def __init__(
        self, only: str | None = None, images: list[str] | None = None, shown: str | None = None, **kwargs: Any
    ) -> None:
        self.only, self.images, self.shown, self.training_images = only, images, shown, None
        super().__init__(**kwargs)

    def subcommands(self) -> dict[str, set[str]]:
        subcommands = LightningCLI.subcommands()
        return {self.only: subcommands[self.only]} if self.only else subcommands

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(callbacks.Protocol, "protocol")
        parser.add_lightning_class_args(callbacks.Speed, "speed")
        parser.add_lightning_class_args(callbacks.NonFiniteGuard, "guard")
        parser.add_argument("--schema", type=int, default=SCHEMA, help="Version of the config's format.")
        parser.link_arguments("data.num_classes", "model.init_args.student.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=fixed_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_lightning_class_args(callbacks.SavePredictions, "predictions")
            parser.set_defaults({"return_predictions": False})
        if subcommand == "test":
            parser.set_defaults({"verbose": False})  # `after_test` prints these values together with the teacher's
        improve(parser, self.shown or subcommand)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        config = self.config[command] if (command := self.config.get("subcommand")) else self.config
        self.resume_path = resume_path(config) if command == "fit" else None
        check(command, config)
        if config.get("ckpt_path") is not None:
            check_no_word(config)
            kinds = {"fits": command == "fit", "student": command == "predict"}
            config.ckpt_path, config.weights_only = check_checkpoint(config.ckpt_path, **kinds), True
        if command == "predict" and config.get("ckpt_path"):
            evaluated.report_size(config)
        if self.images:
            self.training_images = TrainingImages.of(config)
            config.data = evaluated.new_images(config, self.images)
        if command == "predict" and config.get("ckpt_path"):
            evaluated.use_student_alone(config)
        elif command not in (None, "fit"):
            evaluated.use_weights(config)
        if self.resume_path:
            check_config_matches(self.resume_path, yaml.safe_load(self._parser(command).dump(config, skip_none=False)))
            self.save_config_kwargs = {**self.save_config_kwargs, "overwrite": True}

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning's method would let the hyper_parameters in a checkpoint change the config."""

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            known = config_error(error)
            evaluates = known and self.subcommand in ("validate", "test", "predict")
            if evaluates and (advice := evaluated.moved_images(self.config[self.subcommand], str(known))):
                raise ConfigError(f"{known}; {advice}") from error
            if known and (named := with_field(known, self._get(self.config, "model").as_dict())) is not known:
                raise named from error
            if not known and (line := own_construction_error(error) or construction_error(error)):
                raise ConfigError(line) from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer, data = self._get(self.config_init, "trainer"), self.datamodule
        all_callbacks = assembly.callbacks_of(trainer, self.model)
        evaluators = [callback for callback in all_callbacks if isinstance(callback, Evaluator)]
        if self.subcommand in ("fit", "test"):
            all_callbacks += assembly.default_evaluators(self.model, data, all_callbacks)
        if self.subcommand == "fit":
            folder, loggers = self._get(self.config_init, "run").open(self.model, data, self.resume_path)
            self.watch, self.stop = assembly.run_context(trainer, folder, resumes=bool(self.resume_path))
            protocol = self._get(self.config_init, "protocol")
            guard, start = self._get(self.config_init, "guard"), self._get(self.config, "ckpt_path")
            look = assembly.first_look(self.model, protocol, guard, ckpt_path=start)
            data.tested, data.checks = protocol.test, [look, *(evaluator.check_data for evaluator in evaluators)]
            checkpoints = assembly.checkpoints_of(protocol, folder, trainer, self.model, data)
            all_callbacks += [self.watch, *checkpoints, self.stop]
            kwargs |= {"default_root_dir": folder, "logger": assembly.loggers_of(trainer, loggers)}
        else:
            if self.subcommand:
                evaluated.report_starting_weights(self.config[self.subcommand], self.model)
            if self.subcommand == "predict":
                predictions = self._get(self.config_init, "predictions")
                predictions.run = evaluated.folder_of(self.config.predict)
                predictions.training_images = self.training_images
            data.checks = [evaluator.prepare for evaluator in evaluators] if self.subcommand == "test" else data.checks
            kwargs |= {"logger": trainer.logger or False, "enable_checkpointing": False}
        try:
            built = super().instantiate_trainer(**kwargs, callbacks=all_callbacks, **assembly.plugins_of(trainer))
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise error if config_error(error) else ConfigError(f"trainer: {error}") from error
        return with_time_out(built)

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
    """CLI of a command with its own arguments and those of `fit`. The command is called with method, data, trainer."""

    def __init__(self, command: type, **kwargs: Any) -> None:
        self.command = command
        super().__init__(**kwargs, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(self.command)

    def after_instantiate_classes(self) -> None:
        arguments = {name: self.config[name] for name in inspect.signature(self.command).parameters}
        self.result = self.command(**arguments)(self.model, self.datamodule, self.trainer)


def run(name: str, command: Command, args: ArgsType, cli: type[CLI] = CLI) -> LightningCLI:
    """Run a command of kind `lightning`, by the class `cli`, or of kind `on_config`."""
    try:
        noise.silence()
        with callbacks.PreemptionHandler():
            return _run(name, command, args, cli)
    finally:
        noise.end_command()
        os.environ.pop(RESUME_ENV_VAR, None)


def _run(name: str, command: Command, args: ArgsType, cli: type[CLI]) -> LightningCLI:
    images = shown = None
    if command.takes_run and isinstance(args, list) and args[0] == name:
        args, images = with_run(args)
        shown, name = name, args[0]  # `embed` is `predict` with other settings
    on_config, only = command.kind == "on_config", name if isinstance(args, list) and args[0] == name else None
    kwargs: dict[str, Any] = {
        "model_class": StudentModule,
        "datamodule_class": ImageData,
        "args": args[1:] if on_config else args,
        "save_config_callback": callbacks.SaveConfig,
        "trainer_defaults": DEFAULTS,
        "seed_everything_default": 0,
        "parser_class": Parser,
        "parser_kwargs": {"prog": f"python -m kd_lightning{f' {name}' * on_config}"},
        **dict.fromkeys(("subclass_mode_model", "subclass_mode_data"), True),
        **dict.fromkeys(("auto_configure_optimizers", "load_from_checkpoint_support"), False),
    }
    if on_config:
        return CommandCLI(command.load(), **kwargs)
    return cli(only=only, images=images, shown=shown, **kwargs)
