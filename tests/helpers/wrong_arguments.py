"""Wrong arguments of `fit`, and what is said of each."""

import errno
import os
from argparse import ArgumentParser
from collections.abc import Callable

import torch
from lightning.pytorch import Trainer

from helpers.messages import message_of

LONG = "a" * 300
GROUPS = ("protocol", "guard", "run", "speed", "trainer")
SAVES = "--trainer.callbacks={class_path: "
ACCUMULATES = f"{SAVES}GradientAccumulationScheduler, init_args: "
LAMBDA = f"{SAVES}LambdaCallback, init_args: "
TOO_LONG = os.strerror(errno.ENAMETOOLONG)


def trainers(**kwargs: object) -> str:
    """What Lightning says of a trainer's arguments."""
    return f"trainer: {message_of(lambda: Trainer(**{'accelerator': 'cpu', **kwargs}))}"


def sgds(**kwargs: float) -> str:
    """What torch says of an optimizer's arguments."""
    return message_of(lambda: torch.optim.SGD([torch.zeros(1)], **kwargs))


def argparses(name: str) -> str:
    """What argparse says of an option without its value."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(name)
    return message_of(lambda: parser.parse_args([name]))


GIVEN: list[tuple[str, str | tuple[str, ...] | Callable[[], str]]] = [
    ("--config=HERE", ("config: ", "HERE")),
    ("--config=HERE/binary.yaml", "config: the file is not text in UTF-8"),
    ("--config=a\0b", "config: '--config=a\\x00b' contains a NUL character"),
    ("--trainer.max_epochs=0.5", "trainer.max_epochs: 0.5 is not int"),
    ("--trainer.max_epochs=-2", lambda: trainers(max_epochs=-2)),
    ("--trainer.max_epochs=1e400", "trainer.max_epochs: inf is not int"),
    ("--trainer.max_epochs=", "trainer.max_epochs: (empty) is not int"),
    ("--trainer.max_steps=-5", lambda: trainers(max_steps=-5)),
    ("--trainer.limit_train_batches=0", "trainer.limit_train_batches: 0 would train on no batches"),
    ("--trainer.limit_train_batches=-1", lambda: trainers(limit_train_batches=-1)),
    ("--trainer.limit_test_batches=2.5", lambda: trainers(limit_test_batches=2.5)),
    ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: 0 is less than 1"),
    ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch: 0 is less than 1"),
    ("--trainer.val_check_interval=1000", "trainer.val_check_interval: 1000 is more than the 10 steps of an epoch"),
    ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: -1 is less than 0"),
    ("--trainer.log_every_n_steps=-1", "trainer.log_every_n_steps: -1 is less than 0"),
    ("--trainer.gradient_clip_algorithm=cut", lambda: trainers(gradient_clip_algorithm="cut")),
    ("--trainer.max_time=soon", lambda: trainers(max_time="soon")),
    ("--trainer.val_check_interval=0", "trainer.val_check_interval: 0 is not above 0"),
    ("--run.output_dir=$NO_SUCH/x", "run.output_dir: $NO_SUCH/x names an environment variable that is not set"),
    ("--model.kd_temperature=null", "kd_temperature"),
    ("--trainer.devices=0", lambda: trainers(devices="0")),
    ("--trainer.devices=many", lambda: trainers(devices="many")),
    ("--trainer.num_nodes=0", lambda: trainers(num_nodes=0)),
    ("--trainer.accelerator=tpu", lambda: trainers(accelerator="tpu")),
    ("--trainer.accelerator=", "trainer: "),
    ("--trainer.strategy=fsdp", "trainer.strategy: fsdp cannot be used, because it splits networks"),
    ("--trainer.strategy=ddp_spawn", "trainer.strategy: ddp_spawn cannot be used, because it trains in copies of"),
    (
        "--trainer.strategy=ddp_notebook",
        "trainer.strategy: ddp_notebook cannot be used, because it trains in copies",
    ),
    ("--trainer.strategy=dp", "trainer.strategy: 'dp' is not a valid value; nearest: ddp"),
    ("--trainer.precision=", "trainer.precision: '(empty)' is not a valid value; choices: 16, 16-mixed"),
    ("--trainer.profiler=clock", lambda: trainers(profiler="clock")),
    ("--trainer.callbacks=EarlyStoping", "trainer.callbacks: there is no class 'EarlyStoping'; nearest: EarlyStopping"),
    (
        "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=val/accuracy",
        "EarlyStopping.monitor: this run logs no value named 'val/accuracy', so that it cannot be monitored; nearest: "
        "val/acc",
    ),
    (
        "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=val/acc --data.val_split=0",
        "logs no value named 'val/acc', so that it cannot be monitored; nearest: train/acc",
    ),
    (
        "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau --model.lr_scheduler.monitor=train/los",
        "model.lr_scheduler.monitor: this run logs no value named 'train/los', so that it cannot be monitored",
    ),
    ("--trainer.callbacks=[EarlyStopping]", "trainer.callbacks.monitor is required"),
    ("--trainer.logger=WandbLoger", "trainer.logger: there is no class 'WandbLoger'; nearest: WandbLogger"),
    ("--model.temperature=nan", "model.temperature: nan is not float"),
    ("--model.temperature=1e400", "model.temperature: inf is not a finite number"),
    ("--model.temperature=-4", "temperature: -4.0 is not above 0"),
    ("--model.temperature=[4]", "model.temperature: [4] is not float"),
    ("--model.temperature=true", "model.temperature: True is not float"),
    ("--model.kd_weight=-1", "kd_weight: -1.0 is not a valid weight"),
    ("--model.kd_weight=0 --model.ce_weight=0", "ce_weight, kd_weight: all weights are 0, so nothing is trained"),
    ("--model.optimizer.lr=nan", "model.optimizer.lr: nan is not float"),
    ("--model.optimizer.lr=1e400", "model.optimizer.lr: inf is not a finite number"),
    ("--model.optimizer.momentum=-1", lambda: f"model.optimizer: SGD cannot be built: {sgds(momentum=-1.0)}"),
    ("--model.optimizer.momentum=1.5", "model.optimizer.momentum: 1.5 is given; it must be at least 0 and below 1"),
    (
        "--model.optimizer=AdamW --model.optimizer.fused=true --model.optimizer.foreach=true",
        "model.optimizer: AdamW cannot be built: RuntimeError: `fused` and `foreach` cannot be `True` together",
    ),
    (
        "--model.optimizer=timm.optim.lookahead.Lookahead",
        "model.optimizer: Lookahead cannot be used, because it needs another optimizer as its argument",
    ),
    ("--model.optimizer=timm.optim.Adafactor", "model.optimizer.lr: Adafactor has no learning rate by default"),
    (
        "--model.head_lr_scale=1e30 --model.student={name: cifar_resnet20.digits, pretrained: true}",
        "model.head_lr_scale: it makes the learning rate 5e+28; all learning rates must be from 0 to 1e+06",
    ),
    ("--model.lr_batch_size=1 --model.optimizer.lr=1e5", "model.lr_batch_size: it makes the learning rate 1.28e+07"),
    (
        "--model.optimizer=SparseAdam",
        "model.optimizer: SparseAdam cannot take a step: RuntimeError: SparseAdam does not support dense gradients",
    ),
    ("--model.lr_scheduler=WarmupCosine --model.lr_scheduler.final_factor=1e30", "lr_scheduler.final_factor: 1e+30 is"),
    (
        "--model.lr_scheduler=StepLR --model.lr_scheduler.step_size=0",
        "model.lr_scheduler: StepLR cannot be updated: ZeroDivisionError",
    ),
    (
        "--model.lr_scheduler=ExponentialLR --model.lr_scheduler.gamma=10 --trainer.max_epochs=20",
        "model.lr_scheduler: ExponentialLR gives the learning rate 5e+06 in epoch 8",
    ),
    (
        "--model.lr_scheduler=OneCycleLR --model.lr_scheduler.max_lr=1 --model.lr_scheduler.total_steps=5",
        "model.lr_scheduler: OneCycleLR has 5 steps, but the run has",
    ),
    ("--model.student.std=[1, 1, 1e-30]", "std is (1.0, 1.0, 1e-30); it must be three numbers from 1e-06 to 1e+06"),
    (
        "--model.student.model_kwargs={drop_rate: 2.0}",
        "model_kwargs.drop_rate is 2.0; a rate must be at least 0 and below 1",
    ),
    (
        "--trainer.callbacks=LearningRateFinder --trainer.callbacks.num_training_steps=0",
        "trainer.callbacks: LearningRateFinder.num_training_steps: 0 is less than 14",
    ),
    (
        "--model.optimizer=timm.optim.Kron",
        "model.optimizer: there is no class 'Kron' in this module; give the complete name timm.optim.kron.Kron",
    ),
    (
        "--model.lr_scheduler=ReduceLROnPlatea",
        "model.lr_scheduler: there is no class 'ReduceLROnPlatea'; nearest: lightning.pytorch.cli.ReduceLROnPlateau",
    ),
    (
        "--model.lr_scheduler=torch.optim.ReduceLROnPlateau",
        "model.lr_scheduler: there is no class 'ReduceLROnPlateau' in this module; give the complete name lightning.",
    ),
    ("--model=5", "model: there is no class '5'; choose from the names that `python -m kd_lightning list` prints"),
    ("--config=null", "config: null is not a mapping of fields; give the path of a config, for example --config"),
    ("--config=", "config: '' is not a mapping of fields; give the path of a config, for example --config"),
    ("--config=[1]", "config: [1] is not a mapping of fields; give the path of a config, for example --config"),
    ("--model.optimizer=Adm", "model.optimizer: there is no class 'Adm'; nearest: Adam"),
    ("--model.optimizer=[]", "model.optimizer: "),
    ("--model.lr_batch_size=0", "lr_batch_size: 0 is not above 0"),
    ("--model.lr_scaling=log", "model.lr_scaling: 'log' is not a valid value; choices: linear, sqrt"),
    ("--model.student.name=", "name: timm has no model ''"),
    ("--model.student.name=\u202egnp.8tenser", r"name: timm has no model '\u202egnp.8tenser'"),
    ("--model.student.name=cifar_résnet8", "timm has no model 'cifar_résnet8'; nearest: cifar_resnet8"),
    ("--model.student.size=99999999999", "size is 99999999999; it must be a whole number from 1 to 8192"),
    ("--model.student.mean=0.5", "model.student.mean: 0.5 is not tuple"),
    ("--model.student.checkpoint=", "checkpoint: '' is not a path"),
    ("--model.student.pretrained=true", "cifar_resnet8: its weights cannot be loaded"),
    (
        "--model.student.model_kwargs={num_classes: -3}",
        "model_kwargs.num_classes is -3; give it as num_classes",
    ),
    ("--model.student.dtype=float8", "model.student.dtype: 'float8' is not a valid value; nearest: float32"),
    ("--model={class_path: KD, dict_kwargs: {foo: 1}}", "model.foo is not an argument of kd_lightning.methods.KD"),
    ("--data.batch_size=-1", "data.batch_size: -1 is not positive"),
    ("--data.batch_size=true", "data.batch_size: True is not int"),
    ("--data.batch_size=99999999999999999999", "99999999999999999999 is more than the 1293 training images"),
    ("--data.val_split=1e400", "data.val_split: inf is not a finite number"),
    (
        "--data.val_split=1.5",
        "data.val_split: 1.5 means 1 of 1437 images, but with 10 classes the number of images must be 10 to 1427",
    ),
    ("--data.max_train_samples=3", "data.max_train_samples: 3 means 3 of 1293 images"),
    ("--data.val_split=0.9 --data.max_train_samples=1000", "data.max_train_samples: 1000 means 1000 of 144 images"),
    ("--data.split_seed=-1", "data.split_seed: -1 is not a number from 0 to 2**32 - 1"),
    ("--data.num_workers=100000", "data.num_workers: 100000 processes per device are too many"),
    ("--data.num_workers=-1", "data.num_workers: -1 is negative"),
    ("--data.on_error=ignore", "data.on_error: 'ignore' is not a valid value; choices: raise, skip"),
    ("--data.augmentations=cifr", "data.augmentations: 'cifr' is not a valid value; nearest: cifar"),
    ("--data.augmentations=[KD]", "data.augmentations: there is no class 'KD'; choices: ColorJitter"),
    ("--data.mixing={mixup: -1}", "data.mixing: mixup is -1.0 and cutmix is 0.0; both must be 0 or more"),
    ("--data.mixing={mixupp: 1}", "data.mixing.mixupp is not an argument of Mixing; nearest: mixup"),
    ("--data.neighbors={}", "data.neighbors.path is required"),
    (
        "--data.neighbors={path: x, count: 3} --data.batch_size=6",
        "data.batch_size: 6 images cannot be divided into anchors",
    ),
    (
        "--data.neighbors={path: x, count: 3} --data.batch_size=8 --data.repeats=2",
        "data.repeats: repeated augmentation",
    ),
    ("--data.neighbors={path: HERE/plain.txt, count: 3} --data.batch_size=8", "plain.txt is not a table of neighbours"),
    ("--run.name=", "run.name: '' cannot be the name of a folder"),
    ("--run.name=..", "run.name: '..' cannot be the name of a folder"),
    ("--run.id=..", "run.id: '..' cannot be the name of a folder"),
    ("--run.project=a\nb", "run.project: 'a\\nb' cannot be the name of a folder"),
    (f"--run.name={LONG}", "run.name: 'aaaaaa"),
    ("--run.name=\ud800", "run.name: '\\ud800' cannot be the name of a folder"),
    ("--run.tags=a", "run.tags: a is not list"),
    ("--run.wandb=maybe", "run.wandb: 'maybe' is not a valid value; choices: auto, off"),
    ("--run.output_dir=", "run.output_dir: '' is not a folder"),
    ("--run.output_dir=HERE/plain.txt", "plain.txt is a file and not a folder"),
    ("--run.output_dir=HERE/plain.txt/x", "plain.txt is a file and not a folder"),
    ("--run.output_dir=HERE/nowhere_link", "nowhere_link is a link to nowhere, which does not exist"),
    ("--run.output_dir=HERE/self_link/x", "self_link is a link to self_link, which does not exist"),
    ("--run.output_dir=~nosuchuser/x", "run.output_dir: ~nosuchuser/x names a user that does not exist"),
    (f"--run.output_dir=HERE/{LONG}", ("run.output_dir: ", f"cannot be created or written ({TOO_LONG})")),
    ("--run.output_dir=/proc/x", "run.output_dir: /proc/x cannot be created or written"),
    ("--model.optimizer=AdamW --model.optimizer.lr=true", "model.optimizer.lr: true is not float"),
    ("--run.output_dir=s3://bucket/x", "run.output_dir: s3://bucket/x is an address, but only local files"),
    ("--trainer.max_epochs=0", "trainer.max_epochs: 0 would train nothing"),
    ("--trainer.max_steps=0", "trainer.max_steps: 0 would train nothing"),
    ("--trainer.barebones=true", "trainer.barebones: true excludes the checkpoints and metrics of a run"),
    ("--trainer.enable_checkpointing=false", "trainer.enable_checkpointing: a run always writes its checkpoints"),
    ("--model.optimizer=timm.optim.Adahessian", "model.optimizer: Adahessian cannot be used, because it needs second"),
    ("--model.temperature=1e-30", "temperature: 1e-30 is not from 0.001 to 10000"),
    (
        f"{SAVES}ModelCheckpoint, init_args: {{monitor: val/acc}}}}",
        "ModelCheckpoint.mode: min is given, but val/acc is better if it is higher; set mode to max",
    ),
    (
        f"{SAVES}EarlyStopping, init_args: {{monitor: train/kd, mode: max}}}}",
        "EarlyStopping.mode: max is given, but train/kd is better if it is lower; set mode to min",
    ),
    (
        "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau --model.lr_scheduler.monitor=val/acc",
        "model.lr_scheduler.mode: min is given, but val/acc is better if it is higher; set mode to max",
    ),
    (f'{SAVES}ModelCheckpoint, init_args: {{filename: "{{epoch"}}}}', "filename: '{epoch' cannot be formatted"),
    (
        f'{SAVES}ModelCheckpoint, init_args: {{filename: "{{epochs}}"}}}}',
        "ModelCheckpoint.filename: this run logs no value named 'epochs'; nearest: epoch",
    ),
    ("--run.output_dir=HERE/taken", "taken/kd_lightning is a file and not a folder"),
    ("--run.output_dir=HERE/odd --run.id=a --ckpt_path=last", "a/config.yaml is a folder, but the run writes a file"),
    ("--run.output_dir=HERE/odd --run.id=b --ckpt_path=last", "b/state.json is a folder, but the run writes a file"),
    ("--model.student.name=convnext_atto", "model.student: convnext_atto cannot use 2 images of 8 x 8 pixels"),
    ("--model.student.size=8192", "a step with 128 images of 8192 x 8192 pixels needs more than 103.1 GB of memory"),
    ("--protocol.jugde=best", "protocol.jugde is not a field; nearest: protocol.test, protocol.select"),
    ("--model.optimizer.lrr=3", "model.optimizer.lrr is not an argument of SGD; nearest: lr"),
    ("--model.help=SPP", "model: there is no class 'SPP'; nearest: SP"),
    ("--data.help=Digit", "data: there is no class 'Digit'; nearest: Digits"),
    ("--speed.compile=fast", "speed.compile: 'fast' is not a valid value; nearest: default"),
    ("--ckpt_path=", "ckpt_path: '' is not a path"),
    ("--ckpt_path=HERE", " is not a checkpoint, and "),
    ("--ckpt_path=http://127.0.0.1:9/x.ckpt", "ckpt_path: http://127.0.0.1:9/x.ckpt is an address"),
    (f"--ckpt_path={LONG}", f"cannot be read: {TOO_LONG}"),
    ("--weights_only=false", "weights_only: false would let a checkpoint run code"),
    ("stray", "stray is given without the name of a field; choices: --ckpt_path, --config"),
    ("--run", lambda: argparses("--run")),
    ("--trainer.limit_test_batches=0", "trainer.limit_test_batches: with 0, the test at the end of fit would read no"),
    ("--trainer.limit_test_batches=0.001", "limit_test_batches: 0.001 of 2 batches is less than one batch; give at"),
    ("--trainer.limit_val_batches=0.001", "limit_val_batches: 0.001 of 1 batch is less than one batch"),
    ("--trainer.limit_train_batches=0.001", "limit_train_batches: 0.001 of 10 batches is less than one batch"),
    (f"{SAVES}ModelCheckpoint, init_args: {{dirpath: /proc/x}}}}", "trainer.callbacks: ModelCheckpoint.dirpath: /proc"),
    (
        f"{SAVES}ModelCheckpoint, init_args: {{dirpath: HERE/plain.txt}}}}",
        "ModelCheckpoint.dirpath: HERE/plain.txt is a file; give a folder",
    ),
    (
        f"{SAVES}ModelCheckpoint, init_args: {{dirpath: HERE/self_link}}}}",
        "dirpath: HERE/self_link cannot be written to",
    ),
    (f"{SAVES}ModelCheckpoint, init_args: {{dirpath: ''}}}}", "ModelCheckpoint.dirpath: '' is not a folder"),
    (
        f"{SAVES}ModelCheckpoint, init_args: {{filename: ../x}}}}",
        "ModelCheckpoint.filename: '../x' is not the name of a file in the folder of the checkpoints",
    ),
    (f"{SAVES}ModelCheckpoint, init_args: {{filename: /proc/x}}}}", "filename: '/proc/x' is not the name of a file"),
    (
        f'{SAVES}ModelCheckpoint, init_args: {{filename: "a\\u0007b"}}}}',
        "ModelCheckpoint.filename: 'a\\x07b' is not the name",
    ),
    (f"{SAVES}OnExceptionCheckpoint, init_args: {{dirpath: /proc/x}}}}", "OnExceptionCheckpoint.dirpath: /proc cannot"),
    (
        f"{SAVES}OnExceptionCheckpoint, init_args: {{dirpath: HERE, filename: {LONG}}}}}",
        "OnExceptionCheckpoint.filename: 'aaaa",
    ),
    (
        "--run.id=x --trainer.callbacks={class_path: OnExceptionCheckpoint, init_args: {dirpath: "
        "HERE/r/kd_lightning/kd-s0/x, filename: last}} --run.output_dir=HERE/r",
        "filename: last.ckpt in HERE/r/kd_lightning/kd-s0/x is a checkpoint of the run itself",
    ),
    *((f"--{group}=null", f"{group}: null is neither a mapping of fields nor a file") for group in GROUPS),
    *((f"--{group}=[]", f"{group}: [] is neither a mapping of fields nor a file") for group in GROUPS),
    ("--data=null", "data is required, but not given; give a config (--config configs/quickstart.yaml)"),
    ("--model=null", "model is required, but not given; give a config (--config configs/quickstart.yaml)"),
    ("--data=[]", "data: [] is neither a class nor a mapping with class_path and init_args; choices: CIFAR10"),
    ("--data=5", "data: there is no class '5'; choices: CIFAR10"),
    ("--model={class_path: 5}", "model: {'class_path': 5} is neither a class nor a mapping with class_path"),
    ("--data={class_path: [a]}", "data: {'class_path': ['a']} is neither a class nor a mapping"),
    ("--model={class_path: KD, init_args: []}", "model: {'class_path': 'KD', 'init_args': []} is neither a class nor"),
    ("--model.student=5", "model.student: 5 is neither a mapping of fields nor a file; give its fields, such as"),
    ("--model.optimizer={class_path: 5}", "model.optimizer: {'class_path': 5} is neither a class nor a mapping"),
    ("--model.optimizer=[1]", "model.optimizer: [1] is neither a class nor a mapping"),
    ("--model.lr_scheduler=5", "model.lr_scheduler: there is no class '5'"),
    ("--model.optimizer=adamw", "model.optimizer: there is no class 'adamw'; nearest: AdamW, "),
    ("--model.student.model_kwargs=[]", "model.student.model_kwargs: [] is not dict"),
    ("--data.mixing=5", "data.mixing: 5 is not a mapping of the arguments of Mixing; choices: cutmix, mixup"),
    ("--data.mixing=[]", "data.mixing: [] is not a mapping of the arguments of Mixing; choices: cutmix, mixup"),
    ("--data.neighbors=foo", "data.neighbors: foo is not a mapping of the arguments of Neighbors; choices: "),
    ("--data.augmentations=5", "data.augmentations: 5 is not list or one of 'cifar', "),
    ("--trainer.callbacks=5", "trainer.callbacks: there is no class '5'"),
    (
        "--trainer.callbacks=Retrieval --trainer.callbacks.gallery=students",
        "trainer.callbacks.gallery: 'students' is not a valid value; choices: own, teacher",
    ),
    (
        "--trainer.callbacks=EarlyExits --trainer.callbacks.teacher=true",
        "trainer.callbacks.teacher is not an argument of EarlyExits; choices: every_n_epochs",
    ),
    ("--model.kd_temperature=2", "model.kd_temperature is not an argument of KD; nearest: temperature"),
    ("--model=MHKD --model.stages=2", "model.stages: 2 is not a list"),
    ("--model=OKDMDE --model.teacher=null", "model.teacher is not an argument of OKDMDE, which has no teacher; remove"),
    ("--model=TeacherFreeKD --model.checkpoint=nofile", "error: model.checkpoint: nofile does not exist"),
    ("--trainer.callbacks=[5]", "trainer.callbacks: 5 is neither a class nor a mapping"),
    ("--trainer.logger=5", "trainer.logger: there is no class '5'; choices: CSVLogger"),
    ("--trainer.plugins=foo", "trainer.plugins: there is no class 'foo'"),
    ("--trainer.plugins=[5]", "trainer.plugins: [5] is not Precision or ClusterEnvironment or CheckpointIO or"),
    (f"{ACCUMULATES}{{scheduling: {{a: 2}}}}}}", "trainer.callbacks.scheduling: 'a' is not int"),
    (f"{ACCUMULATES}{{scheduling: [2]}}}}", "trainer.callbacks.scheduling: [2] is not dict"),
    (
        f"{ACCUMULATES}{{scheduling: {{0: 0}}}}}}",
        "trainer.callbacks: GradientAccumulationScheduler: Accumulation",
    ),
    (f"{LAMBDA}{{setup: abc}}}}", "trainer.callbacks.setup: 'abc' is not the import path of a function"),
    (f"{LAMBDA}{{setup: 5}}}}", "trainer.callbacks.setup: 5 is neither a class nor a mapping"),
    (f"{LAMBDA}{{setup: os.getcwd}}}}", "trainer.callbacks.setup: os.getcwd is not allowed, because a config may not"),
    ("--epochs=3", "epochs is not a field; use --trainer.max_epochs"),
    ("--model.lr=3", "model.lr is not an argument of KD; use model.optimizer.lr"),
    ("--model.student.epochs=3", "model.student.epochs is not an argument of Network; use --trainer.max_epochs"),
    ("--ckpt_path=best", "ckpt_path: 'best' is not the path of a checkpoint; give a path, for example RUN/best.ckpt"),
    ("--ckpt_path=hpc", "ckpt_path: 'hpc' is not the path of a checkpoint; give a path, for example RUN/best.ckpt"),
    (
        "--ckpt_path=best --run.output_dir=HERE/past",
        "ckpt_path: 'best' is not the path of a checkpoint; give a path, for example "
        "HERE/past/kd_lightning/kd-s0/a/best.ckpt",
    ),
]
