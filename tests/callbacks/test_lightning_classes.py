"""Lightning's callbacks, loggers and profilers work as docs/lightning.md says, and none changes the teacher."""

import json
import os
import re
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from _pytest.mark import ParameterSet
from helpers.factories import digits, method, shared_teacher, trainer
from lightning.pytorch import LightningModule, Trainer, callbacks, loggers, profilers
from lightning.pytorch.callbacks import Callback

from kd_lightning.batch import image_count
from kd_lightning.cli import main
from kd_lightning.config.lightning_classes import REFUSED
from kd_lightning.errors import RunError
from kd_lightning.methods import KD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/lightning.md").read_text()
MODULES = {"callbacks": callbacks, "loggers": loggers, "profilers": profilers}
FIELDS = {"callbacks": "trainer.callbacks+", "loggers": "trainer.logger", "profilers": "trainer.profiler"}
ROW = r"^\| `(\w+)` \| `(.+?)` \| (yes|no) \| (.*)\|$"


def rows(kind: str) -> list[tuple[str, str, bool, str]]:
    """The rows of a table of the page: name, arguments, whether it works, remark."""
    table = PAGE.partition(f"<!-- table: {kind} -->")[2].partition("\n\n")[0]
    return [(name, given, works == "yes", remark) for name, given, works, remark in re.findall(ROW, table, re.M)]


EVERY = [(kind, *row) for kind in MODULES for row in rows(kind)]
WORKS = [(kind, name, given, remark) for kind, name, given, works, remark in EVERY if works]
FAILS = [(kind, name) for kind, name, _, works, _ in EVERY if not works]


def some(cases: list[tuple], *default: str) -> list[ParameterSet]:
    """Rows of a table as parameters of a test: the named ones are in the default run, the others in `e2e`."""
    return [pytest.param(*one, marks=[] if {*one} & {*default} else pytest.mark.e2e, id=one[1]) for one in cases]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> Path:
    """Fit a few steps by the command line, and return the run's folder."""
    monkeypatch.chdir(folder)
    fixed = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--run.id=a"]
    quick = ["--data.max_train_samples=200", "--run.wandb=off", "--model.check_teacher=false"]
    main(["fit", f"--config={ROOT / 'configs/digits/kd.yaml'}", *fixed, *quick, *args])
    return folder / "runs/kd_lightning-digits/kd-s0/a"


def refusal(capfd: pytest.CaptureFixture, call: Callable[[], Any]) -> str:
    with pytest.raises(SystemExit) as stopped:
        call()
    text = capfd.readouterr().err
    (line,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert stopped.value.code in (1, 2)
    assert "Traceback" not in text
    return line


@pytest.mark.parametrize("kind", MODULES)
def test_the_page_lists_every_class_once(kind: str) -> None:
    assert sorted(name for name, *_ in rows(kind)) == sorted(MODULES[kind].__all__)
    remarks = {name: remark for name, _, _, remark in rows(kind)}
    for name in {*REFUSED} & {*remarks}:
        reason = re.split("[,;]", REFUSED[name])[0].removesuffix(" after config.yaml is written")
        assert reason.replace("`", "").casefold() in remarks[name].replace("`", "").casefold()


@pytest.mark.parametrize(("kind", "name", "given", "remark"), some(WORKS, "Timer", "TensorBoardLogger"))
def test_it_fits_or_its_package_is_named(
    kind: str, name: str, given: str, remark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(os.environ, "COMET_OFFLINE_DIRECTORY", str(tmp_path))
    argument = f"--{FIELDS[kind]}={{class_path: lightning.pytorch.{kind}.{name}, init_args: {given}}}"
    package = (re.findall(r"pip install ([\w-]+)", remark) or [""])[0]
    if package and package not in {name for names in packages_distributions().values() for name in names}:
        line = refusal(capfd, lambda: run(tmp_path, monkeypatch, argument))
        assert f"{name} needs the package {package}, which is not installed; run: pip install {package}" in line
        return
    folder = run(tmp_path, monkeypatch, argument)
    wandb.finish()
    facts = json.loads((folder / "results.json").read_text())
    assert facts["run"]["teacher_fingerprint"] == shared_teacher().fingerprint()[:16]
    assert json.loads((folder / "state.json").read_text())["state"] == "finished"
    assert (folder / "metrics.csv").exists()


@pytest.mark.parametrize(("kind", "name"), some(FAILS, "BackboneFinetuning", "LitLogger", "Logger"))
def test_it_is_refused_in_one_line(kind: str, name: str, tmp_path: Path, monkeypatch, capfd) -> None:
    line = refusal(capfd, lambda: run(tmp_path, monkeypatch, f"--{FIELDS[kind]}={name}"))
    assert f"{FIELDS[kind].removesuffix('+')}: {name} " in line
    assert REFUSED.get(name, "is abstract") in line
    assert not [*tmp_path.iterdir()]


def monitors(callback: str, value: str) -> str:
    return f"trainer.callbacks+={{class_path: {callback}, init_args: {{monitor: {value}}}}}"


TIMER = "trainer.callbacks+={class_path: Timer, init_args: {duration: 10 minutes}}"
SPAWN = "trainer.strategy={class_path: lightning.pytorch.strategies.DDPStrategy, init_args: {start_method: spawn}}"
WRONG = [
    *((f"trainer.strategy={name}", "choose ddp") for name in ("fsdp_cpu_offload", "deepspeed_stage_3_offload")),
    *((f"trainer.strategy={name}", "choose ddp") for name in ("ddp_spawn", "ddp_notebook", "xla")),
    (SPAWN, "choose ddp"),
    ("trainer.strategy={class_path: FSDPStrategy}", "FSDPStrategy cannot be used"),
    ("trainer.profiler=xla", "choose simple, advanced or pytorch"),
    ("trainer.logger=[CSVLogger,LitLogger]", "LitLogger cannot be used"),
    (TIMER, "trainer.callbacks: Timer: `Timer(duration='10 minutes')` is not a valid duration"),
    ("trainer.callbacks=[RichProgressBar,TQDMProgressBar]", "only one progress bar"),
    (
        monitors("EarlyStopping", "val/ac"),
        "EarlyStopping.monitor: this run logs no value named 'val/ac'",
    ),
    (monitors("EarlyStopping", "val/knn"), "logs no value named 'val/knn'"),
    (monitors("ModelCheckpoint", "test/acc"), "ModelCheckpoint.monitor: this run logs no value named 'test/acc'"),
]
IN_THE_FIRST_STEP = [
    (monitors("EarlyStopping", "train/cee"), "nearest: train/ce"),
    ("trainer.callbacks+={class_path: ModelSummary, init_args: {max_depth: -5}}", "ModelSummary: `max_depth`"),
]


@pytest.mark.parametrize(("given", "words"), some(WRONG, "trainer.strategy=ddp_spawn", TIMER, WRONG[11][0]))
def test_wrong_settings_of_lightnings_classes(given: str, words: str, tmp_path: Path, monkeypatch, capfd) -> None:
    line = refusal(capfd, lambda: run(tmp_path, monkeypatch, f"--{given}"))
    assert words in line
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("given", "words"), some(IN_THE_FIRST_STEP, IN_THE_FIRST_STEP[0][0]))
def test_what_is_known_only_in_the_first_step_is_one_line(given: str, words: str, tmp_path, monkeypatch, capfd) -> None:
    assert words in refusal(capfd, lambda: run(tmp_path, monkeypatch, f"--{given}"))


CHANGES = {"ModelPruning", "EMAWeightAveraging", "StochasticWeightAveraging", "BaseFinetuning", "Walks"}


class Walks(Callback):
    """Changes everything that can be found by walking the modules of a method."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        with torch.no_grad():
            for value in (*pl_module.parameters(), *pl_module.buffers()):
                value.mul_(2)
        for module in pl_module.modules():
            module.train()
        pl_module.requires_grad_(True)


class Reaches(Callback):
    """Changes the teacher itself."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        with torch.no_grad():
            pl_module.teacher.model.fc.bias.add_(1)


class Thaws(callbacks.BaseFinetuning):
    """Freezes and then trains all modules of a method."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        self.unfreeze_and_add_param_group(pl_module, optimizer)


class WithBackbone(KD):
    """A method with the attribute that BackboneFinetuning needs."""

    @property
    def backbone(self) -> torch.nn.Module:
        return self.student


def built(name: str, given: str, folder: Path) -> Callback:
    arguments = yaml.safe_load(given.replace("dirpath: saved", f"dirpath: {folder}"))
    special = {
        "ThroughputMonitor": {"batch_size_fn": image_count},
        "BackboneFinetuning": {"unfreeze_backbone_at_epoch": 1},
        "LearningRateFinder": {"update_attr": False},  # the command line sets the rate instead
        "BatchSizeFinder": {"max_trials": 2},
    }
    return Thaws() if name == "BaseFinetuning" else getattr(callbacks, name)(**arguments | special.get(name, {}))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param(*row[:2], marks=[] if row[0] in CHANGES else pytest.mark.e2e, id=row[0])
        for row in [*rows("callbacks"), ("Walks", "{}")]
    ],
)
def test_the_teacher_stays_what_it_was(name: str, given: str, tmp_path: Path) -> None:
    fitted = method(WithBackbone, check_teacher=False)
    before, logger = fitted.teacher.fingerprint(), loggers.CSVLogger(tmp_path)
    callback = Walks() if name == "Walks" else built(name, given, tmp_path)
    unset = {"enable_progress_bar": None, "enable_checkpointing": None}
    settings = {"logger": logger, "max_epochs": 2, "limit_train_batches": 2, **unset}
    trainer(tmp_path, callback, **settings).fit(fitted, digits(batch_size=25))
    assert fitted.teacher.fingerprint() == before
    assert not any(value.requires_grad for value in fitted.teacher.parameters())
    assert not any(module.training for module in fitted.teacher.modules())


def test_a_callback_that_changes_the_teacher_itself_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^teacher: its weights changed during training.*; remove .* \(Reaches\)$"):
        trainer(tmp_path, Reaches(), limit_train_batches=1).fit(method(KD), digits())
