"""Foreign checkpoints: which are read, how their names are cleaned, and that none runs code."""

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import resolve
from kd_lightning.models import Network, checkpoints


@pytest.fixture(scope="module")
def network() -> Network:
    return Network("cifar_resnet8").eval()


def same(ours: Network, theirs: Network) -> bool:
    return all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_a_scripted_model_is_no_state_dict(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    with pytest.raises(ConfigError, match=r"could run code; save a state dict instead$"):
        checkpoints.read(tmp_path / "scripted.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "student.model.", "module.backbone.net."])
@pytest.mark.parametrize("container", [None, "state_dict", "model", "net", "model_state_dict"])
def test_prefixes_and_containers(network: Network, tmp_path: Path, prefix: str, container: str | None) -> None:
    state = {f"{prefix}{name}": value for name, value in network.model.state_dict().items()}
    if prefix == "student.model.":
        state["head.0.weight"] = torch.zeros(3)  # an adapter beside the student
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "file.pth")
    assert same(Network("cifar_resnet8", checkpoint=str(tmp_path / "file.pth")), network)


@pytest.mark.parametrize("head", ["fc", "linear", "classifier", "head"])
def test_customary_names_of_the_classifier(network: Network, tmp_path: Path, head: str) -> None:
    state = {name.replace("fc.", f"{head}."): value for name, value in network.model.state_dict().items()}
    save_file(state, tmp_path / "file.safetensors")
    assert same(Network("cifar_resnet8", checkpoint=str(tmp_path / "file.safetensors")), network)


def test_files_from_before_batchnorm_counted(network: Network, tmp_path: Path) -> None:
    state = {k: v for k, v in network.model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert same(Network("cifar_resnet8", checkpoint=str(tmp_path / "old.pth")), network)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        Network("cifar_resnet8", checkpoint=str(path))
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith("cifar_resnet8: checkpoint: ")
    assert path.name in message
    return message


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": Touch(executed)}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"state_dict": Touch(executed)}))
    for name in ("zip.pth", "bare.pth"):
        assert "could run code" in refusal(tmp_path / name)
    assert not executed.exists()


def test_what_is_no_checkpoint_is_named(network: Network, tmp_path: Path) -> None:
    save_file(network.model.state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:2000])
    torch.save(network.model.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("<html>404</html>")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "none.pth")
    (tmp_path / "folder").mkdir()
    assert "corrupt or truncated" in refusal(tmp_path / "cut.safetensors")
    for name in ("cut.pth", "empty.pth", "text.pth"):
        assert "cannot be read" in refusal(tmp_path / name) or "could run code" in refusal(tmp_path / name)
    assert "contains no state dict (it contains epoch, lr)" in refusal(tmp_path / "none.pth")
    assert "is a folder" in refusal(tmp_path / "folder")
    assert "nearest: whole.pth" in refusal(tmp_path / "whol.pth")


def test_another_architecture_shows_the_first_keys(tmp_path: Path) -> None:
    deeper = Network("cifar_resnet14")
    checkpoints.write(tmp_path / "deeper.safetensors", deeper.model.state_dict(), deeper.facts())
    message = refusal(tmp_path / "deeper.safetensors")
    assert "(it has weights of cifar_resnet14)" in message
    assert "18 not expected: layer1.1.bn1.bias" in message or "not expected: layer1.1." in message


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050", "resnet18"])
def test_a_network_of_another_family_is_not_called_two_networks(name: str, prefix: str, tmp_path: Path) -> None:
    """The names of a block (conv1, bn1, ...) occur in the blocks of many families."""
    state = {f"{prefix}{key}": value for key, value in Network("cifar_resnet56").model.state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"other.safetensors does not fit this model: \d+ missing: ") as refused:
        Network(name, num_classes=10, checkpoint=str(tmp_path / "other.safetensors"))
    assert "two networks" not in str(refused.value)


def test_the_student_in_the_folder_of_a_run_is_named(network: Network, tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith(f"{tmp_path} is a folder; give a file in it")
    save_file(network.model.state_dict(), tmp_path / "student.safetensors")
    assert refusal(tmp_path).endswith(f"{tmp_path} is a folder; give {tmp_path / 'student.safetensors'}")


def test_two_networks_in_one_file_are_refused(network: Network, tmp_path: Path) -> None:
    both = {f"{role}.{k}": v.clone() for role in ("teacher", "student") for k, v in network.model.state_dict().items()}
    save_file(both, tmp_path / "both.safetensors")
    message = refusal(tmp_path / "both.safetensors")
    assert "'teacher.'" in message
    assert "'student.'" in message


def test_writing_never_leaves_half_a_file(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "student.safetensors"
    checkpoints.write(path, network.model.state_dict(), network.facts())
    before = path.read_bytes()
    assert {*load_file(path)} == {*network.model.state_dict()}
    assert os.stat(path).st_mode & 0o044  # others may read it

    def full_disk(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoints.write(path, network.model.state_dict(), network.facts())
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_tensors_of_shared_memory_are_written(tmp_path: Path) -> None:
    block = torch.arange(12.0).reshape(3, 4)
    state = {"a": block, "b": block, "rows": block[1:], "columns": block[:, 1:], "none": torch.zeros(0)}
    checkpoints.write(tmp_path / "file.safetensors", state, {})
    read, facts = checkpoints.read(tmp_path / "file.safetensors")
    assert facts == {}
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_paths_take_home_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("${SOME_FOLDER}/file", "field") == resolve("~/file", "field") == tmp_path / "file"
    with pytest.raises(ConfigError, match=r"field: \$NO_SUCH/x names an environment variable that is not set"):
        resolve("$NO_SUCH/x", "field")
    with pytest.raises(ConfigError, match=r"field: .*fille does not exist; nearest: file"):
        resolve(tmp_path / "fille", "field")
    (tmp_path / ".secret").touch()
    with pytest.raises(ConfigError, match=r"photos does not exist; choices: file$"):  # without hidden files
        resolve(tmp_path / "photos", "field")
    with pytest.raises(ConfigError, match=r"\.secrets does not exist; nearest: \.secret$"):
        resolve(tmp_path / ".secrets", "field")
