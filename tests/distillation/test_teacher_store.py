"""The teacher store: runs with it are the runs without it, the teacher is asked once, and wrong stores are refused."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.factories import EVERY_METHOD, digits, method, some_by_default, trainer, weights
from helpers.messages import message_of

from kd_lightning.data.augmentations import HorizontalFlip, RandomCrop
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.distillation.teacher_store import TeacherStore
from kd_lightning.errors import ConfigError
from kd_lightning.methods import CPCL, KD, SP, STKD
from kd_lightning.mixing import Mixing

EPOCHS = 4


def data(**kwargs: object) -> object:
    return digits(**{"augmentation_epochs": 2, "max_train_samples": 100, "val_split": 20, **kwargs})


def fitted(folder: Path, built: StudentModule, store: TeacherStore | None, **kwargs: object) -> StudentModule:
    """Return a copy of a method after a run with a store, or without."""
    trained = copy.deepcopy(built)
    trained.teacher_store = store
    trainer(folder, max_epochs=EPOCHS).fit(trained, data(**kwargs))
    return trained


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each pass of the teacher in a step of a run. A dry step has fewer images."""
    found, ask = [], Distiller.teacher_features

    def counted(self: Distiller, images: object, reads: object) -> object:
        count = sum(map(len, images)) if isinstance(images, list) else len(images)
        found.extend([count] if count >= 50 else [])
        return ask(self, images, reads)

    monkeypatch.setattr(Distiller, "teacher_features", counted)
    return found


@pytest.mark.parametrize(
    "kind", some_by_default([kind for kind in EVERY_METHOD if issubclass(kind, Distiller)], "SP", "STKD")
)
def test_every_methods_run_is_the_same_and_asks_the_teacher_once(
    kind: type[Distiller], tmp_path: Path, asked: list[int]
) -> None:
    built = method(kind)
    plain = weights(fitted(tmp_path, built, None))
    per_run = len(asked)
    store = {"path": str(tmp_path / "store"), "keep": "all"}
    asked.clear()
    torch.testing.assert_close(weights(fitted(tmp_path, built, TeacherStore(**store))), plain, rtol=1e-5, atol=1e-6)
    assert len(asked) == per_run / 2
    asked.clear()
    torch.testing.assert_close(weights(fitted(tmp_path, built, TeacherStore(**store))), plain, rtol=1e-5, atol=1e-6)
    assert not asked


@pytest.mark.parametrize("settings", [{"mixing": Mixing(mixup=1.0)}, {"repeats": 2}, {"views": 3}])
def test_mixed_repeated_and_further_images(settings: dict[str, object], tmp_path: Path, asked: list[int]) -> None:
    built = method(KD)
    plain = fitted(tmp_path, built, None, **settings)
    for _ in range(2):
        asked.clear()
        stored = fitted(tmp_path, built, TeacherStore(path=str(tmp_path / "store")), **settings)
        torch.testing.assert_close(weights(stored), weights(plain), rtol=1e-5, atol=1e-6)
    if "repeats" not in settings:  # an epoch with repeats has only some of the images
        assert not asked


def test_the_order_repeats_only_if_images_are_mixed(tmp_path: Path) -> None:
    orders = {}
    for name, built, settings in (("KD", KD, {}), ("STKD", STKD, {}), ("mixed", KD, {"mixing": Mixing(cutmix=1.0)})):
        given = data(**settings)
        given.setup("fit")
        method(built).on_data_ready(given)
        sampler = given.train_dataloader().sampler
        orders[name] = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            orders[name].append([*sampler])
    assert [order[0][0] for order in orders["KD"]] == [0, 1, 0, 1]
    assert sorted(orders["KD"][0]) == sorted(orders["KD"][2])
    assert orders["KD"][0] != orders["KD"][2]
    for name in ("STKD", "mixed"):
        assert orders[name][0] == orders[name][2] != orders[name][1]


def test_a_damaged_row_is_asked_again(tmp_path: Path, asked: list[int]) -> None:
    built = method(KD)
    store = {"path": str(tmp_path / "store")}
    first = fitted(tmp_path, built, TeacherStore(**store))
    content = (tmp_path / "store/rows.bin").read_bytes()
    (tmp_path / "store/rows.bin").write_bytes(content[:5] + bytes(5) + content[10:])
    asked.clear()
    torch.testing.assert_close(weights(fitted(tmp_path, built, TeacherStore(**store))), weights(first))
    assert len(asked) == 1  # the batch with this image
    assert (tmp_path / "store/rows.bin").read_bytes() == content


def test_a_store_of_more_features_serves_a_method_that_reads_fewer(tmp_path: Path, asked: list[int]) -> None:
    path = str(tmp_path / "store")
    fitted(tmp_path, method(SP, kd_weight=1.0), TeacherStore(path=path, keep="all"))
    built = method(KD)
    plain = fitted(tmp_path, built, None)
    asked.clear()
    torch.testing.assert_close(
        weights(fitted(tmp_path, built, TeacherStore(path=path))), weights(plain), rtol=1e-5, atol=1e-6
    )
    assert not asked
    with pytest.raises(ConfigError, match=r"store contains maps, logits of the teacher as float32, but this run reads"):
        fitted(tmp_path, method(SP, layers=2), TeacherStore(path=path, keep="all"))


def test_half_precision_rounds_the_features(tmp_path: Path) -> None:
    built = method(KD)
    plain = weights(fitted(tmp_path, built, None))
    for _ in range(2):
        stored = weights(fitted(tmp_path, built, TeacherStore(path=str(tmp_path / "store"), dtype="float16")))
    assert 0 < (stored - plain).abs().max() < 1e-2
    size = (tmp_path / "store/rows.bin").stat().st_size
    assert size == 2 * 100 * 10 * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "data.seed was 0 and is now 1"),
        ({"augmentation_epochs": 3}, "data.augmentation_epochs was 2 and is now 3"),
        ({"augmentations": [RandomCrop(padding=2)]}, "data.augmentations has changed"),
        ({"augmentations": [RandomCrop(padding=1), HorizontalFlip()]}, "data.augmentations has changed"),
        ({"max_train_samples": 90}, "data has changed"),
        ({"split_seed": 3}, "data has changed"),
        ({"mixing": Mixing(mixup=1.0)}, "data.mixing has changed; data.batch_size was None and is now 50"),
        ({"views": 2}, "data.views was 3 and is now 2"),
        ({"repeats": 2}, "data.repeats was 1 and is now 2"),
    ],
)
def test_other_inputs_are_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    built, path = method(KD), str(tmp_path / "store")
    fitted(tmp_path, built, TeacherStore(path=path))
    message = message_of(lambda: fitted(tmp_path, built, TeacherStore(path=path), **changes))
    assert message.startswith(f"model.teacher_store.path: {path} was written with other inputs: ")
    assert said in message
    assert message.endswith("; give another path, remove the folder, or restore these inputs")


def test_another_teacher_and_other_arguments_of_its_inputs_are_refused(tmp_path: Path) -> None:
    built, path = method(STKD), str(tmp_path / "store")
    fitted(tmp_path, built, TeacherStore(path=path))
    other = copy.deepcopy(built)
    other.alpha = 0.5
    with pytest.raises(ConfigError, match=r"other inputs: model has changed"):
        fitted(tmp_path, other, TeacherStore(path=path))
    other = copy.deepcopy(built)
    with torch.no_grad():
        next(other.teacher.parameters()).mul_(2)
    with pytest.raises(ConfigError, match=r"model.teacher was cifar_resnet20.digits, fingerprint \w+ and is now"):
        fitted(tmp_path, other, TeacherStore(path=path))


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, store = method(KD), TeacherStore(path=str(tmp_path / "new/store"))
    with pytest.raises(ConfigError, match=r"model.teacher_store: the augmentations .* never repeat.* set data.augment"):
        fitted(tmp_path, built, store, augmentation_epochs=None)
    with pytest.raises(ConfigError, match=r"model.teacher_store: batches of neighbours \(data.neighbors\)"):
        store.check(built, SimpleNamespace(augmentation_epochs=2, neighbors=Neighbors("table.safetensors", count=1)))
    with pytest.raises(ConfigError, match=r"keep: SP reads maps of the teacher, .* would have 0.2 MB; set keep to all"):
        fitted(tmp_path, method(SP), store)
    with pytest.raises(ConfigError, match=r"model.teacher_store: CPCL reads nothing of the teacher with these argum"):
        fitted(tmp_path, method(CPCL, target="student"), store)
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match=r"model.teacher_store.path: .*other is not a teacher store; give a folder"):
        fitted(tmp_path, built, TeacherStore(path=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match=r"data.augmentation_epochs: 0 is not positive; omit it"):
        data(augmentation_epochs=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ConfigError, match=r"path: the store has 0.0 MB, but .* has only 0.0 MB of free space; give"):
        fitted(tmp_path, built, store)
    assert not (tmp_path / "new").exists()


def test_the_description_is_json_without_secrets_and_no_partial_folder_remains(tmp_path: Path) -> None:
    fitted(tmp_path, method(KD), TeacherStore(path=str(tmp_path / "store")))
    known = json.loads((tmp_path / "store/store.json").read_text())
    assert known["facts"]["data.augmentation_epochs"] == 2
    assert not [*tmp_path.glob("*.partial")]


def test_a_store_that_another_run_has_just_created_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run has another seed, and creates its store between the check and the first step of this run."""
    path = str(tmp_path / "store")
    store, create = TeacherStore(path=path), TeacherStore._create

    def late(self: TeacherStore) -> None:
        monkeypatch.setattr(TeacherStore, "_create", create)
        fitted(tmp_path, method(KD), TeacherStore(path=path), seed=1)
        create(self)

    monkeypatch.setattr(TeacherStore, "_create", late)
    with pytest.raises(ConfigError, match=r"other inputs: data.seed was 1 and is now 0"):
        fitted(tmp_path, method(KD), store)
