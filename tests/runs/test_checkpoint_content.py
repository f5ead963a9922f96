"""Checkpoints of odd content: each is refused in one line, and no run begins."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kd_lightning.cli import main
from kd_lightning.errors import ConfigError
from kd_lightning.runs.checkpoint_content import _check_precision as check_precision

Content = dict[str, Any]
VERSION = "pytorch-lightning_version"
ODD: list[tuple[str, Callable[[Content], Any], str]] = [
    ("a state dict alone", lambda c: c["state_dict"], "contains only weights and not the state of a run"),
    ("a list", lambda c: [1], "contains no state dict"),
    ("only weights with a version", lambda c: _only(c, "state_dict", VERSION), "entry epoch is missing"),
    *((f"no {name}", lambda c, name=name: _without(c, name), f"entry {name} is missing")
      for name in ("loops", "epoch", "global_step", "callbacks", "optimizer_states", "lr_schedulers")),
    ("a negative epoch", lambda c: c | {"epoch": -1}, "entry epoch has another form"),
    ("a step of text", lambda c: c | {"global_step": "7"}, "entry global_step has another form"),
    ("loops as a list", lambda c: c | {"loops": [1]}, "entry loops has another form"),
    ("loops of another kind", lambda c: c | {"loops": {"fit_loop": {"a": 1}}}, "entry loops.fit_loop."),
    ("progress of text", lambda c: _progress(c, "seven"), "loops.fit_loop.epoch_progress.total.ready has another form"),
    ("callbacks as a list", lambda c: c | {"callbacks": [1]}, "entry callbacks has another form"),
    ("a callback as a list", lambda c: c | {"callbacks": {"Protocol": [1]}}, "callbacks.Protocol has another form"),
    ("no schedule", lambda c: c | {"lr_schedulers": []}, "entry lr_schedulers has another form"),
    ("two optimizers", lambda c: c | {"optimizer_states": 2 * c["optimizer_states"]}, "optimizer_states has another"),
    ("other groups", lambda c: _optimizer(c, param_groups=[{"params": [0]}]), "has other groups of parameters"),
    ("groups without rates", lambda c: _optimizer(c, param_groups=[_without(_groups(c)[0], "lr")]), "lr is missing"),
    ("another weight decay", lambda c: _group(c, weight_decay=-5), "param_groups.weight_decay is -5, but this config"),
    ("maximize", lambda c: _group(c, maximize=True), "param_groups.maximize is True, but this config gives False"),
    ("a momentum of text", lambda c: _buffer(c, "x"), "optimizer_states.state.0.momentum_buffer has another form"),
    ("a momentum of another shape", lambda c: _buffer(c, torch.ones(3)), "momentum_buffer has the shape (3,) instead"),
    ("momentum that is NaN", lambda c: _buffer(c, float("nan") * _shape(c)), "momentum_buffer contains numbers that"),
    ("a schedule as an empty table", lambda c: c | {"lr_schedulers": [{}]}, "lr_schedulers.last_epoch is missing"),
    ("a schedule of text", lambda c: c | {"lr_schedulers": ["x"]}, "lr_schedulers has another form"),
    ("a schedule of the future", lambda c: c | {"lr_schedulers": [{"last_epoch": 10**6}]}, "last_epoch is 1000000, wh"),
    ("a schedule of the past", lambda c: c | {"lr_schedulers": [{"last_epoch": -1}]}, "last_epoch is -1, which is not"),
    *((f"{name} of text", lambda c, name=name: _callback(c, name, "x"), f"callbacks.{name} has another form")
      for name in ("NonFiniteGuard.skipped", "Protocol.seconds")),
    ("no seconds", lambda c: _states(c, Protocol={}), "entry callbacks.Protocol.seconds is missing"),
    ("seconds that are NaN", lambda c: _callback(c, "Protocol.seconds", float("nan")), "Protocol.seconds is nan"),
    ("negative seconds", lambda c: _callback(c, "Protocol.seconds", -1.0), "callbacks.Protocol.seconds is -1.0"),
    ("negative skipped steps", lambda c: _callback(c, "NonFiniteGuard.skipped", -1), "NonFiniteGuard.skipped is -1"),
    ("too many skipped", lambda c: _callback(c, "NonFiniteGuard.skipped", 10**9), "is more than all steps of the run"),
    ("a fraction of a step", lambda c: _callback(c, "NonFiniteGuard.skipped", 0.5), "skipped is 0.5"),
    ("a path", lambda c: _best(c, best_model_path="/etc/passwd"), "names '/etc/passwd' as a file of BestCheckpoint"),
    ("a score of text", lambda c: _best(c, best_model_score="x"), "best_model_score of BestCheckpoint is not a number"),
    ("negative progress", lambda c: _progress(c, -1), "loops.fit_loop.epoch_progress.total.ready is -1"),
    ("other steps", lambda c: c | {"global_step": 1}, "entry global_step is 1, but the loop has done"),
    ("a negative place", lambda c: c | {"Digits": {"epoch": -1, "batches": 0}}, "entry Digits.epoch is -1"),
    ("inputs of text", lambda c: c | {"inputs": "x"}, "entry inputs has another form"),
    ("inputs as a list", lambda c: c | {"inputs": [1]}, "entry inputs has another form"),
    ("no classes", lambda c: c | {"inputs": {}}, "entry inputs.classes is missing"),
    ("values of text", lambda c: c | {"last_values": {"val/acc": "x"}}, "entry last_values has another form"),
    ("a version of text", lambda c: c | {VERSION: "x"}, f"entry {VERSION} is no version of Lightning"),
    ("an empty optimizer", lambda c: _optimizer(c, state={}), "entry optimizer_states.state is empty"),
    ("a parameter without momentum", lambda c: _forget(c, 3), "entry optimizer_states.state.3 is missing"),
    ("the place of another loader", lambda c: c | {"Digits": [3]}, "entry Digits has another form"),
    ("facts as a list", lambda c: c | {"network": [1]}, "entry network has another form"),
    *((f"another {name}", lambda c, name=name, value=value: c | {"network": c["network"] | {name: value}},
       f"entry network.{name} is {value!r}, but this config gives ")
      for name, value in (("name", "cifar_vgg8"), ("mean", [0.1, 0.2, 0.3]), ("std", [9.0, 9.0, 9.0]), ("size", 99))),
    ("no epochs", lambda c: _no_epochs(c), "epoch_progress.current.processed is 0, but the entry epoch is 2"),
    ("a variance below 0", lambda c: _variance(c, -1.0), "negative variances"),
    ("a variance that is NaN", lambda c: _variance(c, float("nan")), "numbers that are not finite"),
    ("weights that are NaN", lambda c: _nan(c), "numbers that are not finite, in 1 of"),
]  # fmt: skip
EVALUATED = ("a state dict alone", "no epoch", "no global_step", "weights that are NaN", "facts as a list")


def _without(content: Content, name: str) -> Content:
    return {key: value for key, value in content.items() if key != name}


def _only(content: Content, *names: str) -> Content:
    return {name: content[name] for name in names} | {"schema": content["schema"]}


def _progress(content: Content, value: str) -> Content:
    content["loops"]["fit_loop"]["epoch_progress"]["total"]["ready"] = value
    return content


def _no_epochs(content: Content) -> Content:
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 0
    return content


def _groups(content: Content) -> list[Content]:
    return content["optimizer_states"][0]["param_groups"]


def _optimizer(content: Content, **changed: Any) -> Content:
    content["optimizer_states"][0] |= changed
    return content


def _group(content: Content, **changed: Any) -> Content:
    _groups(content)[0] |= changed
    return content


def _shape(content: Content) -> torch.Tensor:
    return torch.ones_like(content["optimizer_states"][0]["state"][0]["momentum_buffer"])


def _buffer(content: Content, value: Any) -> Content:
    content["optimizer_states"][0]["state"][0]["momentum_buffer"] = value
    return content


def _forget(content: Content, number: int) -> Content:
    del content["optimizer_states"][0]["state"][number]
    return content


def _states(content: Content, **states: Any) -> Content:
    content["callbacks"] |= states
    return content


def _callback(content: Content, name: str, value: Any) -> Content:
    callback, _, key = name.partition(".")
    return _states(content, **{callback: {key: value}})


def _best(content: Content, **changed: Any) -> Content:
    (key,) = (key for key in content["callbacks"] if key.startswith("BestCheckpoint"))
    content["callbacks"][key] |= changed
    return content


def _variance(content: Content, value: float) -> Content:
    name = next(name for name in content["state_dict"] if name.endswith("running_var"))
    content["state_dict"][name][0] = value
    return content


def _nan(content: Content) -> Content:
    content["state_dict"]["student.model.conv1.weight"][0] = float("nan")
    return content


@pytest.fixture(scope="module")
def good(finished_run: Path) -> Content:
    return torch.load(finished_run / "last.ckpt", weights_only=True)


def refusal(command: str, run: Path, path: Path, folder: Path, capfd: pytest.CaptureFixture, *args: str) -> str:
    config = [f"--config={run / 'config.yaml'}", "--run.id=null", f"--run.output_dir={folder / 'runs'}"]
    with pytest.raises(SystemExit) as stopped:
        main([command, *config, f"--ckpt_path={path}", *args])
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    (line,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert "Traceback" not in error
    assert not (folder / "runs").exists()
    return line


@pytest.mark.parametrize(("what", "change", "words"), ODD, ids=[what for what, *_ in ODD])
def test_odd_content(what: str, change, words: str, good: Content, finished_run: Path, tmp_path: Path, capfd) -> None:
    path = tmp_path / "odd.ckpt"
    torch.save(change(copy.deepcopy(good)), path)
    for command in ("fit", "test") if what in EVALUATED else ("fit",):
        line = refusal(command, finished_run, path, tmp_path, capfd)
        assert line.startswith("error: ckpt_path: ")
        assert words in line


def test_the_state_of_the_gradient_scaler(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu")
    plugin = SimpleNamespace(state_dict=scaler.state_dict)
    name = type(plugin).__qualname__
    saved = scaler.state_dict() | {"scale": 1024.0, "_growth_tracker": 3}
    check_precision(plugin, {name: saved}, tmp_path)
    check_precision(plugin, {}, tmp_path)  # the run that saved the checkpoint had another precision
    for key, value, words in (
        ("scale", "x", "has another form"),
        ("scale", float("nan"), "is nan"),
        ("_growth_tracker", -1, "is -1"),
        ("growth_factor", 7.0, "is 7.0, but this config gives 2.0"),
    ):
        for entry in (name, "native_amp_scaling_state"):
            with pytest.raises(ConfigError, match=rf"^ckpt_path: .* its entry {entry}\.{key} {words}"):
                check_precision(plugin, {entry: saved | {key: value}}, tmp_path)


def test_a_run_that_would_end_before_its_checkpoint_does_not_begin(finished_run: Path, tmp_path: Path, capfd) -> None:
    last = finished_run / "last.ckpt"
    for setting, count in (("trainer.max_epochs", 3), ("trainer.max_steps", 60)):
        line = refusal("fit", finished_run, last, tmp_path, capfd, f"--{setting}=1")
        what = setting.partition("max_")[2]
        assert line.startswith(f"error: {setting}: 1 is given, but {last} was saved after {count} {what}; set it to")


def test_a_checkpoint_of_another_method_begins_no_run(finished_run: Path, tmp_path: Path, capfd) -> None:
    for method in ("CoSS", "SEED"):
        args = [f"--model={method}", "--protocol.select=last"]
        line = refusal("fit", finished_run, finished_run / "last.ckpt", tmp_path, capfd, *args)
        assert f"the checkpoint does not fit {method}" in line
