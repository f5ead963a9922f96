"""show-batch, build-neighbors and build-store through the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kd_lightning.cli import main
from kd_lightning.commands import show_batch
from kd_lightning.distillation.stored_rows import StoredRows

ROOT = Path(__file__).parents[2]
KD = f"--config={ROOT / 'configs/digits/kd.yaml'}"
CPU = "--trainer.accelerator=cpu"


def refusal(args: list[str], capfd: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--data.views=3", "--data.augmentations=moco_v2"],
        ["--data.augmentations=deit", "--data.mixing={mixup: 0.8, cutmix: 1.0}", "--data.repeats=3"],
    ],
)
def test_show_draws_a_picture(args: list[str], tmp_path: Path) -> None:
    path = tmp_path / "folder" / "seen.png"
    main(["show-batch", KD, CPU, f"--path={path}", "--rows=5", *args])
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 150
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10  # not an empty page
    before = path.read_bytes()
    main(["show-batch", KD, CPU, f"--path={path}", "--rows=5", "--epoch=1", *args])
    assert path.read_bytes() != before


def test_show_reads_as_many_batches_as_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list] = []
    few = ["--data.max_train_samples=20", "--data.batch_size=16"]
    monkeypatch.setattr(show_batch, "_draw", lambda rows, *_: drawn.append(rows))
    for count in (4, 9, 13):
        main(["show-batch", KD, CPU, f"--path={tmp_path / 'x.png'}", f"--rows={count}", "--data.batch_size=4"])
    main(["show-batch", KD, CPU, f"--path={tmp_path / 'x.png'}", "--rows=50", *few])
    assert [len(rows) for rows in drawn] == [4, 9, 13, 16]
    titles = [row[0][0] for row in drawn[2]]
    assert len({*titles}) == 13


def test_neighbors_are_made_used_and_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    table = tmp_path / "table.safetensors"
    main(["build-neighbors", KD, CPU, f"--path={table}", "--k=6"])
    content = load_file(table)
    assert content["neighbors"].shape == (1293, 6)
    assert not (content["neighbors"] == torch.arange(1293)[:, None]).any()
    capfd.readouterr()
    use = f"--data.neighbors={{path: {table}, count: 3, candidates: 6}}"
    fit = ["fit", KD, CPU, use, f"--run.output_dir={tmp_path / 'runs'}", "--run.wandb=off", "--trainer.max_epochs=1"]
    cli = main([*fit, "--trainer.limit_train_batches=3", "--protocol.test=false"])
    assert cli.trainer.num_training_batches == 3
    images = cli.datamodule.datasets["train"]
    batch = next(iter(cli.datamodule.train_dataloader()))
    anchors = {int(index): row for row, index in enumerate(images.indices)}
    for start in range(0, 64, 4):
        row, *beside = (anchors[int(index)] for index in batch.indices[start : start + 4])
        assert {*beside} <= {*content["neighbors"][row].tolist()}
    # the teacher is right about most digits, so its neighbours show the same digit
    labels = images.labels[content["neighbors"].long()]
    assert (labels == images.labels[:, None]).float().mean() > 0.9
    main(["show-batch", KD, CPU, use, f"--path={tmp_path / 'seen.png'}"])
    capfd.readouterr()
    assert "was created with another teacher" in refusal([*fit, "--model.teacher.mean=[0.4, 0.4, 0.4]"], capfd)
    assert "was created from other images" in refusal([*fit, "--data.val_split=0"], capfd)
    assert "data.batch_size: 65" in refusal([*fit, "--data.batch_size=65"], capfd)
    wide = use.replace("candidates: 6", "candidates: 31")
    assert "has 6 neighbours per image" in refusal([*fit, wide], capfd)


@pytest.mark.parametrize("kind", ["KD", "STKD"])
def test_a_store_is_filled_and_no_run_asks_the_teacher(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    config = f"--config={ROOT / f'configs/digits/{kind.lower()}.yaml'}"
    few = ["--data.max_train_samples=100", "--data.batch_size=40", "--data.augmentation_epochs=2"]
    args = [config, CPU, *few, f"--model.teacher_store.path={store}", "--trainer.enable_progress_bar=false"]
    main(["build-store", *args])
    filled = np.fromfile(store / "checksums.bin", np.uint32) != 0
    assert len(filled) == 200
    assert filled.sum() == (200 if kind == "KD" else 160)  # of mixed images, the batches of training
    monkeypatch.setattr(StoredRows, "write", lambda *args: pytest.fail("the teacher was asked"))
    fit = [*args, f"--run.output_dir={tmp_path}", "--run.wandb=off", "--trainer.max_epochs=2", "--protocol.test=false"]
    main(["fit", *fit])


def test_refusals(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    baseline = f"--config={ROOT / 'configs/digits/baseline.yaml'}"
    assert "path: seen.jpg does not end in .png" in refusal(["show-batch", KD, CPU, "--path=seen.jpg"], capfd)
    assert "rows: 0" in refusal(["show-batch", KD, CPU, "--rows=0"], capfd)
    assert "has no teacher" in refusal(["build-neighbors", baseline, CPU, "--path=x.safetensors"], capfd)
    assert "no store is given to fill; give model.teacher_store.path" in refusal(["build-store", KD, CPU], capfd)
    assert "no path is given for the table" in refusal(["build-neighbors", KD, CPU], capfd)
    assert "nearest: build-neighbors" in refusal(["build-neighbours", KD], capfd)
    assert "nearest: path" in refusal(["show-batch", KD, "--paht=x.png"], capfd)


def test_show_names_every_file_that_cannot_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = [
        tmp_path / f"pets/{split}/{kind}/{n}.jpg" for split in ("train", "test") for kind in "ab" for n in range(8)
    ]
    pixels = torch.randint(0, 255, (32, 40, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for file, image in zip(files, pixels, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(file)
    torn, text = files[3], files[20]  # a training image whose header is whole, and a test image
    torn.write_bytes(torn.read_bytes()[:-900])
    text.write_text("no image")
    path = tmp_path / "x.png"
    args = ["show-batch", "--data=ImageFolder", f"--data.path={tmp_path / 'pets'}", "--data.size=32", "--rows=2"]
    args += ["--model=Supervised", "--model.student.name=cifar_resnet8", "--data.batch_size=4", CPU, f"--path={path}"]
    for memory in ("--data.memory_limit=4", "--data.memory_limit=0"):
        with pytest.warns(UserWarning, match="cannot be read") as caught:
            main([*args, "--data.num_workers=0", memory])
        said = [str(warning.message) for warning in caught if "cannot be read" in str(warning.message)]
        first, second, total = said
        assert first.startswith(f"data.path: {torn} cannot be read as an image (")
        assert second.startswith(f"data.path: {text} cannot be read as an image (")
        assert total.startswith("data.path: 2 of 32 images cannot be read; repair or remove them")
        assert path.exists()
    assert f"data.path: {torn} cannot be read" in refusal([*args, "--check=0", "--data.memory_limit=4"], capfd)
    torn.unlink()
    text.unlink()
    main(args)
    assert "all 30 images of the data set can be read" in caplog.text
