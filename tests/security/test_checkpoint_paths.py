"""What a checkpoint may not do: choose a path, or a setting of the run that loads it."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from helpers.configs import KD
from helpers.fuzz import NAMES, fuzz
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from kd_lightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from kd_lightning.cli import main
from kd_lightning.errors import ConfigError

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class Keeper(Callback):
    """A callback of somebody else, which stores a path."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


def load(place: Path, states: Any, ckpt_path: Path | None = None) -> list[Callback]:
    """Let the callbacks of a run in `place` load the states, as Lightning does, and return the callbacks."""
    own = ModelCheckpoint(place / "own", monitor="val/acc", save_top_k=2)
    callbacks = [own, EarlyStopping("val/acc"), Keeper(), BestCheckpoint(place), LastCheckpoint(place)]
    trainer = SimpleNamespace(
        callbacks=callbacks,
        default_root_dir=str(place),
        ckpt_path=str(ckpt_path or place / "last.ckpt"),
        is_global_zero=True,
    )
    checkpoint = {"callbacks": states}
    callbacks[-1].on_load_checkpoint(trainer, None, checkpoint)
    for callback in callbacks:
        if state := (checkpoint["callbacks"] or {}).get(callback.state_key):
            callback.load_state_dict(state)
    return callbacks


def state(folder: Path | str, name: Path | str, score: Any = 0.5) -> dict[str, Any]:
    """The state of a ModelCheckpoint whose files are all `name`."""
    path = str(Path(folder) / name)
    scores = {"best_model_score": score, "current_score": score, "kth_value": score}
    return {"dirpath": str(folder), **dict.fromkeys(PATHS, path), "best_k_models": {path: score}, **scores}


def key_of(kind: type, place: Path) -> str:
    return (BestCheckpoint(place) if kind is BestCheckpoint else ModelCheckpoint(monitor="val/acc")).state_key


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "run" / "own").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "secret.txt").write_text("x")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", [BestCheckpoint, ModelCheckpoint])
@pytest.mark.parametrize("folder", ["victim", "run", "run/own", "/"])
@pytest.mark.parametrize(
    "name", ["victim", "victim/secret.txt", "../victim", "own/../../victim", "run/config.yaml", ""]
)
def test_a_path_that_is_not_a_checkpoint_of_the_callback(kind: type, folder: str, name: str, place: Path) -> None:
    top = place.parent
    (place / "config.yaml").touch()
    for given in (name, str(top / name)):
        with pytest.raises(ConfigError, match="not a checkpoint in the folder of that callback") as refused:
            load(place, {key_of(kind, place): state(top / folder, given)})
        assert "\n" not in str(refused.value)
    assert (top / "victim" / "secret.txt").exists()


def test_an_existing_checkpoint_elsewhere_is_not_copied(place: Path) -> None:
    other = place.parent / "victim" / "best.ckpt"
    torch.save({"callbacks": {BestCheckpoint(place).state_key: {"best_model_score": 0.5}}}, other)
    with pytest.warns(UserWarning, match=r"run/best\.ckpt is not the best checkpoint of that run"):
        best = load(place, {key_of(BestCheckpoint, place): state(other.parent, "best.ckpt")})[3]
    own = load(place, {key_of(ModelCheckpoint, place): state(other.parent, "best.ckpt")})[0]
    assert not any(getattr(callback, path) for callback in (best, own) for path in (*PATHS, "best_k_models"))
    assert not (place / "best.ckpt").exists()


def test_the_best_checkpoint_next_to_the_given_one_is_taken(place: Path, tmp_path: Path) -> None:
    """Also if the earlier run's folder has been moved since."""
    earlier, key = tmp_path / "moved", BestCheckpoint(place).state_key
    earlier.mkdir()
    torch.save({"callbacks": {key: {"best_model_score": torch.tensor(0.5)}}}, earlier / "best.ckpt")
    best = load(place, {key: state("/before/it/moved", "best.ckpt", torch.tensor(0.5))}, earlier / "last.ckpt")[-2]
    assert (best.best_model_path, best.best_model_score) == (str(place / "best.ckpt"), 0.5)
    assert (place / "best.ckpt").read_bytes() == (earlier / "best.ckpt").read_bytes()
    with pytest.warns(UserWarning, match=r"best\.ckpt is not the best checkpoint of that run"):
        other = load(place, {key: state(earlier, "best.ckpt", torch.tensor(0.9))}, earlier / "last.ckpt")[-2]
    assert (other.best_model_path, other.best_model_score, other.best_k_models) == ("", None, {})


def test_files_of_the_run_are_not_those_of_another_callback(place: Path) -> None:
    """Lightning would delete last.ckpt as the callback's worst checkpoint."""
    (place / "last.ckpt").touch()
    (place / "own" / "last.ckpt").symlink_to(place / "last.ckpt")
    for folder in (place, place / "own"):
        callback = ModelCheckpoint(folder, monitor="val/acc")
        trainer = SimpleNamespace(callbacks=[callback], default_root_dir=str(place), ckpt_path=None)
        checkpoint = {"callbacks": {callback.state_key: state(folder, "last.ckpt")}}
        LastCheckpoint(place).on_load_checkpoint(trainer, None, checkpoint)
        loaded = checkpoint["callbacks"][callback.state_key]
        assert not any(loaded[name] for name in (*PATHS, "best_k_models"))


def test_own_checkpoints_remain(place: Path) -> None:
    (place / "own" / "epoch=3.ckpt").touch()
    own = load(place, {key_of(ModelCheckpoint, place): state("/elsewhere/own", "epoch=3.ckpt")})[0]
    assert own.best_k_models == {str(place / "own" / "epoch=3.ckpt"): 0.5}
    assert own.best_model_path == str(place / "own" / "epoch=3.ckpt")


@pytest.mark.parametrize("text", ["/etc/passwd", "../x", "~/x", "/", "/tmp/../etc"])
@pytest.mark.parametrize("wrap", [lambda x: {"file": x}, lambda x: {"files": [{"a": (x,)}]}, lambda x: {x: 1}])
def test_other_callbacks_with_a_path(text: str, wrap: Any, place: Path) -> None:
    with pytest.raises(ConfigError, match="state of Keeper in the checkpoint names the path"):
        load(place, {"Keeper": wrap(text)})
    assert load(place, {"Keeper": wrap(str(place / "x"))})[2].state == wrap(str(place / "x"))


@pytest.mark.parametrize(
    "states", [["a"], "text", 3, torch.zeros(0), {"Keeper": ["a"]}, {"Keeper": torch.ones(0)}, {"EarlyStopping": 3}]
)
def test_states_of_another_format(states: Any, place: Path) -> None:
    if isinstance(states, dict) and "EarlyStopping" in states:
        states = {EarlyStopping("val/acc").state_key: 3}
    with pytest.raises(ConfigError, match="not a dict"):
        load(place, states)


def one_line_of(error: ConfigError) -> None:
    assert "\n" not in str(error)


VALUES = st.one_of(
    NAMES, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4), st.lists(NAMES, max_size=2),
    st.dictionaries(NAMES, st.floats(), max_size=2), st.builds(torch.zeros, st.integers(0, 3)),
    st.sampled_from(["RUN", "RUN/own", "RUN/best.ckpt", "RUN/own/a.ckpt", "RUN/own/../../victim", "TOP/victim"]),
)  # fmt: skip
FIELDS = ("dirpath", *PATHS, "best_k_models", "best_model_score", "kth_value", "current_score")


@fuzz(
    kind=st.sampled_from([BestCheckpoint, ModelCheckpoint]),
    fields=st.fixed_dictionaries(dict.fromkeys(FIELDS, VALUES)),
    models=st.dictionaries(VALUES.filter(lambda value: isinstance(value, str)), VALUES, max_size=2) | st.none(),
)
def test_no_state_chooses_a_path(kind: type, fields: dict[str, Any], models: dict[str, Any] | None) -> None:
    """A state is either refused in one line, or names nothing but checkpoints in the callback's own folder."""
    with TemporaryDirectory() as temporary:
        top, place = Path(temporary), Path(temporary) / "run"
        (place / "own").mkdir(parents=True)
        (place / "own" / "a.ckpt").touch()
        (top / "victim").mkdir()

        def at(value: Any) -> Any:
            return value.replace("RUN", str(place)).replace("TOP", temporary) if isinstance(value, str) else value

        content = {name: at(value) for name, value in fields.items()}
        if models is not None:
            content["best_k_models"] = {at(path): value for path, value in models.items()}
        try:
            callbacks = load(place, {key_of(kind, place): content})
        except ConfigError as error:
            return one_line_of(error)
        for callback in (callbacks[0], callbacks[3]):
            folder = place / "own" if callback is callbacks[0] else place
            for path in filter(None, [*(getattr(callback, name) for name in PATHS), *callback.best_k_models]):
                assert Path(path).resolve().parent == folder.resolve()
                assert path.endswith(".ckpt")
        assert sorted(path.name for path in top.rglob("*")) == ["a.ckpt", "own", "run", "victim"]


def test_hyper_parameters_change_no_setting(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would take the class and the arguments of the model from them."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(KD))
    shutil.copy(finished_run / "last.ckpt", tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    torch.save({**content, "hyper_parameters": {"_class_path": "kd_lightning.methods.SP"}}, tmp_path / "a.ckpt")
    seen = []
    monkeypatch.setattr(
        "kd_lightning.cli.app.CLI._run_subcommand", lambda cli, name: seen.append(type(cli.model).__name__)
    )
    main(["test", f"--config={tmp_path / 'config.yaml'}", f"--ckpt_path={tmp_path / 'a.ckpt'}"])
    assert seen == ["KD"]
