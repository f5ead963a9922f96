"""EMA: the student alone is averaged, evaluated beside itself, kept, and resumed."""

from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, student, trainer
from lightning.pytorch import Callback

from kd_lightning.callbacks import EMA
from kd_lightning.cli import main
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.methods import SP, CoSS
from kd_lightning.models import Network

ROOT = Path(__file__).parents[2]


class Steps(Callback):
    """The student's numbers after each step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: object, pl_module: StudentModule, *args: object) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.student.state_dict().items()})


def fitted(folder: Path, *callbacks: Callback, ckpt: Path | None = None, epochs: int = 2, **kwargs: object) -> tuple:
    torch.manual_seed(0)
    trained = method(SP, check_teacher=False)
    run = trainer(folder, *callbacks, max_epochs=epochs, **kwargs)
    run.fit(trained, datamodule=digits(batch_size=25, val_split=40), ckpt_path=ckpt, weights_only=False)
    return run, trained


def test_the_average_is_that_of_the_students_steps(tmp_path: Path) -> None:
    ema, steps = EMA(decay=0.7), Steps()
    run, trained = fitted(tmp_path, ema, steps)
    expected = dict(steps.states[0])
    for state in steps.states[1:]:
        expected = {name: 0.7 * expected[name] + 0.3 * value for name, value in state.items()}
    average = ema._average_model.module.state_dict()
    for name, value in expected.items():
        if average[name].is_floating_point():
            torch.testing.assert_close(average[name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(trained.student.state_dict(), steps.states[-1])  # the run's own weights stay
    assert 0 <= run.callback_metrics["val/acc_ema"] <= 1
    assert run.callback_metrics["val/acc_ema"] != run.callback_metrics["val/acc"]
    written = Network(
        "cifar_resnet8", checkpoint=str(tmp_path / "student_ema.safetensors"), model_kwargs={"channels": [4, 4, 8, 16]}
    )
    torch.testing.assert_close(written.model.state_dict(), ema._average_model.module.model.state_dict())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_the_average_of_other_dtypes(tmp_path: Path, precision: str) -> None:
    """In bfloat16 a decay of 0.999 would round each update to nothing, so that the average would be the first state."""
    ema, steps = EMA(decay=0.999), Steps()
    run, _ = fitted(tmp_path, ema, steps, precision=precision)
    expected = torch.float64 if precision == "64-true" else torch.float32
    average = ema._average_model.module.state_dict()
    moved = 0
    for name, value in average.items():
        if value.is_floating_point():
            mean = steps.states[0][name].to(expected)
            for state in steps.states[1:]:
                mean = 0.999 * mean + 0.001 * state[name].to(expected)
            assert value.dtype == expected
            torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-6, msg=name)
            moved += not value.equal(steps.states[0][name].to(expected))
    assert moved
    assert 0 <= run.callback_metrics["val/acc_ema"] <= 1


def test_it_does_not_move_the_run(tmp_path: Path) -> None:
    _, with_it = fitted(tmp_path / "a", EMA())
    _, without = fitted(tmp_path / "b")
    torch.testing.assert_close(with_it.student.state_dict(), without.student.state_dict(), rtol=0, atol=0)


def test_a_resumed_run_goes_on_with_its_average(tmp_path: Path) -> None:
    whole, first, second = EMA(decay=0.9), EMA(decay=0.9), EMA(decay=0.9)
    fitted(tmp_path / "whole", whole, epochs=2)
    run, _ = fitted(tmp_path / "first", first, epochs=1)
    run.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert not [name for name in [*saved["ema"], *saved["state_dict"]] if "teacher" in name]
    fitted(tmp_path / "second", second, ckpt=tmp_path / "last.ckpt", epochs=2)
    assert int(second._average_model.n_averaged) == int(whole._average_model.n_averaged)


def test_a_checkpoint_without_an_average_is_taken_and_said(tmp_path: Path) -> None:
    run, _ = fitted(tmp_path / "first", epochs=1)
    run.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="no average"):
        fitted(tmp_path / "second", EMA(), ckpt=tmp_path / "last.ckpt", epochs=2)


def test_without_labels_it_averages_and_does_not_evaluate(tmp_path: Path) -> None:
    ema, trained = EMA(), method(CoSS, student=student(), check_teacher=False)
    run = trainer(tmp_path, ema)
    run.fit(trained, datamodule=digits(val_split=20))
    assert "val/acc_ema" not in run.callback_metrics
    assert ema._average_model.n_averaged


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="decay: 1"):
        EMA(decay=1)
    with pytest.raises(ConfigError, match="update_every_n_steps: 0"):
        EMA(update_every_n_steps=0)


def test_by_name_from_the_command_line(tmp_path: Path) -> None:
    config = f"--config={ROOT / 'configs/digits/kd.yaml'}"
    args = ["fit", config, "--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--trainer.accelerator=cpu"]
    args += [
        f"--run.output_dir={tmp_path}",
        "--run.wandb=off",
        "--trainer.callbacks+=EMA",
        "--trainer.callbacks.decay=0.5",
    ]
    main([*args, "--trainer.enable_progress_bar=false"])
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert "val/acc_ema" in metrics.read_text().splitlines()[0]
    (average,) = tmp_path.rglob("student_ema.safetensors")
    again = ["test", f"--config={average.parent / 'config.yaml'}", f"--model.student.checkpoint={average}"]
    found = main([*again, "--trainer.accelerator=cpu"]).trainer.callback_metrics
    assert float(found["test/acc"]) > 0
