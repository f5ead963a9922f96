"""No file that is read runs code: every place where a stranger's file comes in is given one that would."""

import argparse
import ast
import builtins
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.messages import message_of

import kd_lightning
from kd_lightning.analysis import load_run
from kd_lightning.cli import main
from kd_lightning.data import ImageNet, cache
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.errors import ConfigError
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.io.schema import SCHEMA
from kd_lightning.models import Network, checkpoints
from kd_lightning.reports import read_runs

KD = {
    "data": {"class_path": "Digits"},
    "model": {
        "class_path": "KD",
        "init_args": {
            "teacher": {"name": "cifar_resnet20.digits", "pretrained": True},
            "student": {"name": "cifar_resnet8"},
        },
    },
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 1, "enable_progress_bar": False},
}


class Payload:
    """Leaves a mark when it is unpickled, by one of the usual ways."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


class Options(argparse.Namespace):
    """What is not argparse's own must not pass for it."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def payloads(mark: Path) -> dict[str, object]:
    return {
        "touch": Payload(Path.touch, mark),
        "system": Payload(os.system, f"touch {mark}"),
        "eval": Payload(builtins.eval, f"__import__('pathlib').Path({str(mark)!r}).touch()"),
        "exec": Payload(builtins.exec, f"__import__('pathlib').Path({str(mark)!r}).touch()"),
        "namespace": Options(mark=mark),
    }


def old_tar(path: Path, content: object) -> None:
    """The form of torch before 0.1.10: a tar of pickles."""
    (path.parent / "storages").write_bytes(pickle.dumps(content))
    with tarfile.open(path, "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            file.add(path.parent / "storages", name)


FORMS: dict[str, Callable[[Path, object], None]] = {
    "zip": lambda path, content: torch.save(content, path),
    "legacy": lambda path, content: torch.save(content, path, _use_new_zipfile_serialization=False),
    "raw": lambda path, content: path.write_bytes(pickle.dumps(content)) and None,
    "tar": old_tar,
}
KINDS = ["touch", "system", "eval", "exec", "namespace"]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def test_the_payloads_would_run(mark: Path, tmp_path: Path) -> None:
    for kind, payload in payloads(mark).items():
        torch.save({"state_dict": {"a": payload}}, tmp_path / "a.pt")
        torch.load(tmp_path / "a.pt", weights_only=False)
        assert mark.exists(), kind
        mark.unlink()


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints(mark: Path, tmp_path: Path, kind: str, form: str, ending: str) -> None:
    path = tmp_path / f"evil{ending}"
    weights = {"conv1.weight": torch.zeros(2), "fc.bias": payloads(mark)[kind]}
    for content in (payloads(mark)[kind], {"state_dict": weights}, {"model": {"net": {"state_dict": weights}}}):
        FORMS[form](path, content)
        with pytest.raises(ConfigError, match=r"could run code|corrupt or truncated|cannot be read") as refused:
            Network("cifar_resnet8", checkpoint=str(path))
        assert "\n" not in str(refused.value)
        assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        pytest.param(kind, command, marks=[] if kind == KINDS[0] or command == "fit" else pytest.mark.e2e)
        for kind in KINDS
        for command in ("fit", "validate", "test", "predict")
    ],
)
def test_ckpt_path(mark: Path, tmp_path: Path, command: str, kind: str, capfd, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what turns torch's own caution off
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(KD))
    student = {f"student.model.{k}": v for k, v in Network("cifar_resnet8").model.state_dict().items()}
    torch.save({"state_dict": student, "callbacks": {"Guard": payloads(mark)[kind]}}, tmp_path / "evil.ckpt")
    args = [f"--config={tmp_path / 'config.yaml'}", f"--ckpt_path={tmp_path / 'evil.ckpt'}"]
    with pytest.raises(SystemExit) as stopped:
        main([command, *args, f"--run.output_dir={tmp_path / 'runs'}"])
    assert stopped.value.code == 2
    assert "could run code" in [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")][-1]
    assert not mark.exists()
    assert not (tmp_path / "runs").exists()


def test_lightning_is_told_to_read_weights_alone(tmp_path: Path, monkeypatch) -> None:
    """A file that is exchanged between the look at it and Lightning's reading."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(KD))
    content = {"state_dict": Network("cifar_resnet8").model.state_dict(), "epoch": 0, "global_step": 0}
    torch.save(content | {"pytorch-lightning_version": "2", "schema": SCHEMA}, tmp_path / "a.ckpt")
    asked = {}

    class SeenError(Exception):
        pass

    def spy(*args: object, **kwargs: object) -> None:
        asked.update(kwargs)
        raise SeenError

    monkeypatch.setattr("lightning.pytorch.strategies.Strategy.load_checkpoint", spy)
    with pytest.raises(SeenError):
        main(["test", f"--config={tmp_path / 'config.yaml'}", f"--ckpt_path={tmp_path / 'a.ckpt'}"])
    assert asked["weights_only"] is True


@pytest.mark.parametrize("beside", [".npy", ".bad.npy"])
def test_decoded_images(mark: Path, tmp_path: Path, beside: str, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fill(array: np.ndarray) -> np.ndarray:
        array[:] = 7
        return np.zeros(3, bool)

    cache.decoded("a", (3, 2), fill)
    evil = tmp_path / "kd_lightning" / "decoded" / f"a{beside}"
    for spoil in (
        lambda: np.save(evil, np.array([payloads(mark)["touch"]], dtype=object), allow_pickle=True),
        lambda: evil.write_bytes(pickle.dumps(payloads(mark)["touch"])),
    ):
        spoil()
        with pytest.warns(UserWarning, match="it is created again"):
            array, bad, _ = cache.decoded("a", (3, 2), fill)
        assert (array == 7).all()
        assert not bad.any()
        assert not mark.exists()
        evil.unlink(missing_ok=True)


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_neighbours(mark: Path, tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path / "table.safetensors", payloads(mark)["touch"])
    with pytest.raises(ConfigError, match="is not a table of neighbours"):
        Neighbors(str(tmp_path / "table.safetensors")).load(None)
    assert not mark.exists()


def run_folder(tmp_path: Path, mark: Path) -> Path:
    """A finished run's folder in which every file is one that would run code."""
    folder = tmp_path / "runs" / "p" / "kd-s0" / "x"
    folder.mkdir(parents=True)
    evil = f"!!python/object/apply:os.system ['touch {mark}']"
    (folder / "config.yaml").write_text(
        f"data: {{class_path: Digits}}\nmodel:\n  class_path: KD\n  init_args: {evil}\n"
    )
    (folder / "results.json").write_text(evil)
    (folder / "state.json").write_bytes(pickle.dumps(payloads(mark)["touch"]))
    (folder / "metrics.csv").write_bytes(pickle.dumps(payloads(mark)["touch"]))
    for name in ("predictions.safetensors", "student.safetensors", "last.ckpt"):
        (folder / name).write_bytes(pickle.dumps(payloads(mark)["system"]))
    return folder


def test_compare(mark: Path, tmp_path: Path) -> None:
    found = read_runs(run_folder(tmp_path, mark))
    assert not list(found)
    assert "results.json is not JSON" in found.problems[0]
    assert not mark.exists()


def test_compare_reads_the_rest_of_a_run(mark: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, mark)
    parts = {"run": {"name": "kd-s0", "seed": 0}, "data": {"name": "digits"}, "metrics": {"test/acc": 0.5}}
    (folder / "results.json").write_text(json.dumps({"schema": 3, "code": {}, "protocol": {}, **parts}))
    found = read_runs(folder)
    assert len(found) == 1
    assert any("config.yaml cannot be read" in line for line in found.problems)
    assert not mark.exists()


def test_looking_into_a_run(mark: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, mark)
    said = message_of(lambda: load_yaml((folder / "config.yaml").read_text()))
    with pytest.raises(ConfigError, match=f"config.yaml cannot be read: {re.escape(said[:100])}"):
        load_run(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(KD))
    with pytest.raises(ConfigError, match="could run code"):
        load_run(folder)
    assert not mark.exists()


def test_repeat_passes_over_a_config_that_is_none(mark: Path, tmp_path: Path) -> None:
    from kd_lightning.commands.repeat.plan import Config, Job

    place = run_folder(tmp_path, mark)
    place.rename(place.with_name("repeat-000000000000"))
    content = {**KD, "run": {"name": "kd-s0", "output_dir": str(tmp_path / "runs"), "project": "p"}}
    assert Job(Config("kd.yaml", content), 0).changed() == ""
    assert not mark.exists()


def test_the_devkit_of_imagenet(mark: Path, tmp_path: Path) -> None:
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    (data / "meta.mat").write_bytes(pickle.dumps(payloads(mark)["touch"]))
    with pytest.raises(ConfigError, match=r"meta\.mat cannot be read"):
        ImageNet(path=str(tmp_path))._flat_labels(tmp_path, ["a.JPEG"])
    assert not mark.exists()


def test_teachers_facts_are_data(tmp_path: Path) -> None:
    """What stands beside the weights is looked up by name and never called."""
    network = Network("cifar_resnet8")
    checkpoints.write(tmp_path / "a.safetensors", network.model.state_dict(), {**network.facts(), "mean": "os.system"})
    with pytest.raises((ConfigError, TypeError, ValueError)):
        Network("cifar_resnet8", checkpoint=str(tmp_path / "a.safetensors"))


ALLOWED = {
    (
        "data/cifar.py",
        "pickle",
    ): "the official files are pickles: _ArrayUnpickler finds numpy's arrays and nothing else",
    ("distributed.py", "all_gather_object"): "between the processes of one run, which are one program",
    ("config/classes.py", "import_module"): "of a class that jsonargparse has imported already, for an error's line",
    ("config/own_classes.py", "import_module"): "of a user's file that jsonargparse failed to import, for its error",
    ("cli/registry.py", "import_module"): "of the registry's own class paths",
    ("__init__.py", "import_module"): "of the package's own public names",
}


def suspects(tree: ast.AST) -> list[str]:
    """Names of what can run code, or what is read in a way that can, in a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [n for n in names if n.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal")]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = name.rpartition(".")[2]
        refused = {
            "torch.load": given.get("weights_only") != "True",
            "np.load": given.get("allow_pickle") != "False",
            "load_from_checkpoint": given.get("weights_only") != "True",
            "yaml.load": given.get("Loader") not in ("_Loader", "yaml.SafeLoader", "yaml.CSafeLoader"),
        }
        never = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path")
        calls = ("unsafe_load", "full_load", "all_gather_object", "import_module", "read_pickle")
        if refused.get(name, refused.get(last, False)) or name in never or last in calls:
            found.append(last)
        if given.get("shell") not in (None, "False") or (given.get("weights_only") == "False" and "save" not in name):
            found.append(name)
    return found


def test_nothing_in_the_code_runs_what_it_reads() -> None:
    root = Path(kd_lightning.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 100
    found = {(str(f.relative_to(root)), name) for f in files for name in suspects(ast.parse(f.read_text()))}
    assert found == {*ALLOWED}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(t, Loader=yaml.Loader)",
        "yaml.unsafe_load(t)",
        "eval(t)",
        "os.system(t)",
        "subprocess.run(t, shell=True)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert suspects(ast.parse(code))
