"""A run's folder as an argument: test, validate, predict and embed use its weights, not those that it began with."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from kd_lightning import load_run
from kd_lightning.cli import main
from kd_lightning.cli.registry import COMMANDS
from kd_lightning.data import CIFAR10, Digits
from kd_lightning.data.decode import as_tensor, center_square
from kd_lightning.models import Network, checkpoints

FAST = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items() if key != "format"}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test digits as images in one folder per class."""
    folder = tmp_path_factory.mktemp("written") / "digits"
    images = Digits().load("test")
    for row, label in enumerate(images.labels.tolist()):
        (folder / f"{label}").mkdir(parents=True, exist_ok=True)
        pixels = images.take(torch.tensor([row])).images[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{label}" / f"{row:03}.png")
    return folder


def recorded(run: Path, name: str = "test/acc") -> float:
    return json.loads((run / "results.json").read_text())["metrics"][name]


def error(args: list[str], capfd: pytest.CaptureFixture) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*args, *FAST])
    assert stopped.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def error_of_export(path: Path, capfd: pytest.CaptureFixture) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit):
        main(["export", str(path), "--format", "safetensors", "onnx", "--int8", "--overwrite"])
    return capfd.readouterr().err


def test_predict_reads_any_folder(run: Path, digits: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(["predict", str(run), f"--data.path={digits}", *FAST])
    printed = caplog.text
    assert "best.ckpt is used, the selected checkpoint of the run" in printed
    assert f"accuracy {recorded(run):.2%} on the 360 images with a label" in printed
    table = rows(run / "predictions/digits/predictions.csv")
    assert [*table[0]][:5] == ["path", "class", "confidence", "class_2", "confidence_2"]
    assert [*table[0]][-1] == "label"
    assert np.mean([row["class"] == row["label"] for row in table]) == pytest.approx(recorded(run))
    found, facts = tensors(run / "predictions/digits/predictions.safetensors")
    assert facts["paths"] == [row["path"] for row in table]
    assert facts["class_names"] == [str(digit) for digit in range(10)]
    best = found["logits"].softmax(1).topk(5)
    for rank, ending in enumerate(("", "_2", "_3", "_4", "_5")):
        assert [row[f"class{ending}"] for row in table] == [str(label) for label in best.indices[:, rank].tolist()]
        confidence = [float(row[f"confidence{ending}"]) for row in table]
        assert confidence == pytest.approx(best.values[:, rank].tolist(), rel=1e-4)
    assert found["embedding"].shape[0] == 360
    main(["predict", str(run), f"--data.path={digits}", "--predictions.top_k=1", *FAST])
    assert "predictions/digits-2/predictions.csv" in caplog.text
    assert [*rows(run / "predictions/digits-2/predictions.csv")[0]] == ["path", "class", "confidence", "label"]


def test_a_handful_of_unlabelled_images_and_formulas(
    run: Path, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "plain.png"]
    for name, file in zip(names, sorted(digits.glob("*/*.png")), strict=False):
        shutil.copy(file, name)
    main(["predict", str(run), "--data.path", *names, "--predictions.output=out", *FAST])
    table = rows(tmp_path / "out/predictions.csv")
    assert [row["path"] for row in table] == ["'=1+1.png", "plain.png"]
    assert "label" not in table[0]
    output = capfd.readouterr().out.splitlines()
    for name, row in zip(names, table, strict=True):
        assert f"{name}: {row['class']} ({float(row['confidence']):.1%})" in output
    args = ["predict", str(run), "--data.path=plain.png"]
    assert "out/predictions.csv exists and is not overwritten" in error([*args, "--predictions.output=out"], capfd)
    assert "give only one" in error([*args, "--predictions.output=o", "--predictions.path=p.safetensors"], capfd)
    assert "top_k: 0 is not above 0" in error([*args, "--predictions.top_k=0"], capfd)
    monkeypatch.setattr("kd_lightning.callbacks.prediction_table.find_spec", lambda name: None)
    assert "parquet needs the package pyarrow" in error([*args, "--predictions.format=parquet"], capfd)


def test_embed_writes_embeddings_of_any_run(run: Path, digits: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(["embed", str(run / "config.yaml"), f"--data.path={digits / '3'}", *FAST])
    found, facts = tensors(run / "embeddings/3/embeddings.safetensors")
    assert {*found} == {"embedding", "labels", "indices"}
    assert facts["paths"] == [row["path"] for row in rows(run / "embeddings/3/embeddings.csv")]
    assert "embeddings of 37 images are written to" in caplog.text
    loaded = load_run(run / "config.yaml")
    images = torch.stack([as_tensor(Image.open(path).convert("RGB")) for path in facts["paths"]])
    with torch.no_grad():
        expected = loaded.student.features(images, embedding=True).embedding
    assert torch.allclose(found["embedding"], expected, atol=1e-5)


def test_a_student_alone_predicts(run: Path, digits: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (run / name).unlink()
    main(["predict", str(run), f"--data.path={digits}", *FAST])
    table = rows(run / "predictions/digits/predictions.csv")
    assert np.mean([row["class"] == row["label"] for row in table]) == pytest.approx(recorded(run))


def test_a_student_outside_a_run_predicts(
    run: Path, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata of student.safetensors suffice, also those of a file that `export` writes from this file."""
    monkeypatch.chdir(tmp_path)
    alone, lacking = tmp_path / "alone/student.safetensors", tmp_path / "lacking/student.safetensors"
    for file in (alone, lacking):
        file.parent.mkdir()
        shutil.copy(run / "student.safetensors", file)
    args = [f"--data.path={digits}", *FAST]
    main(["predict", str(run), *args])
    main(["predict", str(alone), *args])
    main(["export", str(alone), "--format", "safetensors", "timm", "--batch_sizes=[]"])
    exported = alone.parent / "export"
    assert "random pixels" in capfd.readouterr().out
    assert "without its run" in (exported / "timm/README.md").read_text()
    main(["embed", "--ckpt_path", str(exported / "student.safetensors"), *args])
    expected, facts = tensors(run / "predictions/digits/predictions.safetensors")
    found, same = tensors(tmp_path / "predictions/digits/predictions.safetensors")
    again, _ = tensors(tmp_path / "embeddings/digits/embeddings.safetensors")
    assert same == facts
    assert torch.equal(found["logits"], expected["logits"])
    assert torch.equal(again["embedding"], expected["embedding"])
    assert f"data.path: {alone} is not in the folder of a run" in error(["predict", str(alone)], capfd)
    assert "the data have 3 classes, but the student was trained for 10" in error(
        ["predict", str(alone), "--data=RandomImages", "--data.classes=3"], capfd
    )
    assert "int8: the calibration needs training images" in error_of_export(alone, capfd)
    state, known = checkpoints.read(lacking)
    checkpoints.write(lacking, state, {**known, "model_kwargs": None, "side": None})
    words = (
        f"{lacking} cannot be used without the folder of its run, because its metadata lack model_kwargs, side; give"
    )
    assert words in error(["predict", str(lacking), f"--data.path={digits}"], capfd)
    checkpoints.write(lacking, state, {**known, "name": "hf_hub:a/b"})
    assert "its network hf_hub:a/b is described in other files" in error(["embed", str(lacking)], capfd)


@pytest.mark.parametrize("recorded_fact", [True, False])
def test_a_run_predicts_without_its_teacher(recorded_fact: bool, run: Path, digits: Path) -> None:
    """Earlier versions did not save whether the classifier is trained. The method is then built without the teacher."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["teacher"] |= {"pretrained": False, "checkpoint": str(run / "gone.safetensors")}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if not recorded_fact:
        content = torch.load(run / "best.ckpt", weights_only=True)
        del content["network"]["classifier_trained"]
        torch.save(content, run / "best.ckpt")
    main(["predict", str(run), f"--data.path={digits}", *FAST])
    table = rows(run / "predictions/digits/predictions.csv")
    assert np.mean([row["class"] == row["label"] for row in table]) == pytest.approx(recorded(run))


def test_the_accuracy_on_the_data_of_the_run_is_not_on_new_images(
    run: Path, digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "kd_lightning.data.ImageFolder", "init_args": {"path": str(digits)}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    main(["predict", str(run), f"--data.path={digits / '1'}", "--data.size=16", *FAST])
    assert f"on the 36 images with a label; 36 of the 36 images are in {digits}, from which the run was" in caplog.text
    assert "data.size: the images are resized to 16 pixels, but the run was trained with images of 8 pix" in caplog.text
    caplog.clear()
    other = shutil.copytree(digits / "1", run.parent / "other/1")
    one = sorted(other.iterdir())[0]
    main(["predict", str(run), f"--data.path={other}", *FAST])
    assert f"on the 36 images with a label; 36 of the 36 images are in {digits}, from" in caplog.text  # the same files
    caplog.clear()
    main(["predict", str(run), f"--data.path={one}", *FAST])
    assert "predictions of 1 image are written" in caplog.text or "predictions of 1 image is" in caplog.text
    assert "from which the run was trained" not in caplog.text
    assert "data.size" not in caplog.text


def test_the_size_in_the_config_of_the_run_is_not_reported(
    run: Path, digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run recorded 8 pixels. In a data set of the user, `size` may be something else than the side."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    arguments = {"path": str(digits), "size": 24}
    config["data"] = {"class_path": "kd_lightning.data.ImageFolder", "init_args": arguments}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    image = sorted((digits / "1").iterdir())[0]
    main(["predict", str(run), f"--data.path={image}", *FAST])
    assert "data.size" not in caplog.text
    main(["predict", str(run), f"--data.path={image}", "--data.size=16", *FAST])
    assert "data.size: the images are resized to 16 pixels" in caplog.text


def test_moved_images_of_the_run_are_named_with_the_option_for_their_path(
    run: Path, digits: Path, capfd: pytest.CaptureFixture
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "kd_lightning.data.ImageFolder", "init_args": {"path": f"{digits}-moved"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    advice = "the run was trained with this path; if its images have been moved, give --data.path PATH"
    for command in ("test", "predict"):
        line = error([command, str(run)], capfd)
        assert f"data.path: {digits}-moved does not exist" in line
        assert line.endswith(advice)
    assert advice not in error(["test", str(run), f"--data.path={digits}-else"], capfd)


def test_fit_says_what_it_takes_instead_of_a_folder(run: Path, capfd: pytest.CaptureFixture) -> None:
    for given in (run, run / "config.yaml"):
        line = error(["fit", f"--config={run / 'config.yaml'}", f"--ckpt_path={given}"], capfd)
        assert f"to resume the run, give --run.id {run.name} --ckpt_path last; " in line
        assert line.endswith(f"to begin a new run with its state, give --ckpt_path {run / 'last.ckpt'}")
    (run / "last.ckpt").unlink()
    line = error(["fit", f"--config={run / 'config.yaml'}", f"--ckpt_path={run}"], capfd)
    assert line.endswith(f"{run} has no last.ckpt; fit takes the last.ckpt of a run")


def test_an_unfinished_run_says_which_checkpoint_is_used(
    run: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "results.json").unlink()
    (run / "best.ckpt").unlink()
    main(["validate", str(run), *FAST])
    assert "last.ckpt is used, because the run has finished, and has no results.json" in caplog.text
    (run / "last.ckpt").unlink()
    assert "contains no checkpoint (best.ckpt or last.ckpt)" in error(["test", str(run)], capfd)


@pytest.mark.parametrize("command", ["fit", "test", "predict", "embed"])
def test_the_help_of_ckpt_path_is_about_this_command_line(command: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capfd.readouterr().out.split())
    assert '"hpc"' not in text
    assert "URL" not in text.partition("--ckpt_path CKPT_PATH")[2].partition(" --")[0]
    assert ("RUN is a run's folder" in text) == (command != "fit")
    assert text.startswith(f"usage: python -m kd_lightning {command} [")
    assert COMMANDS[command].description in text
    assert f"python -m kd_lightning {command} --model.help KD" in text


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student began with the weights of a file, which do not know the digits."""
    folder = tmp_path_factory.mktemp("tuned")
    start = Network("cifar_resnet8", num_classes=3)
    checkpoints.write(folder / "start.safetensors", start.model.state_dict(), start.facts())
    student = f"--model.student={{name: cifar_resnet8, checkpoint: {folder / 'start.safetensors'}}}"
    args = ["fit", "--model=Supervised", student, "--data=Digits", "--trainer.max_epochs=2", "--run.wandb=off"]
    main([*args, f"--run.output_dir={folder}", "--run.id=a", *FAST])
    return folder / "kd_lightning/supervised-s0/a"


@pytest.mark.e2e
@pytest.mark.parametrize("form", ["test RUN", "test RUN/config.yaml", "test --config RUN/config.yaml"])
def test_a_run_is_not_tested_with_its_starting_weights(form: str, tuned: Path) -> None:
    cli = main([*form.replace("RUN", str(tuned)).split(), *FAST])
    accuracy = float(cli.trainer.callback_metrics["test/acc"])
    assert accuracy == pytest.approx(recorded(tuned))
    assert accuracy > 0.3  # the starting weights with a new classifier have about 0.1


@pytest.mark.e2e
def test_the_starting_weights_are_not_needed_again(tuned: Path, digits: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = tuned.parents[2] / "start.safetensors"
    main(["test", f"--config={tuned / 'config.yaml'}", "--ckpt_path=null", *FAST])
    printed = caplog.text
    assert f"the student has the weights of model.student ({start})" in printed
    assert "its classifier is new and random" in printed
    start.rename(start.with_suffix(".moved"))
    try:
        main(["predict", f"--config={tuned / 'config.yaml'}", f"--data.path={digits}", *FAST])
        assert f"accuracy {recorded(tuned):.2%} on the 360 images" in caplog.text
        loaded, images = load_run(tuned), Digits().load("test")
        with torch.no_grad():
            right = loaded.student(images.take(torch.arange(360)).images).argmax(1) == images.labels
        assert right.double().mean() == pytest.approx(recorded(tuned))
        main(["export", str(tuned), "--format=safetensors", "--path", str(tuned / "export"), "--batch_sizes=[]"])
    finally:
        start.with_suffix(".moved").rename(start)


@pytest.mark.e2e
def test_the_checkpoint_from_which_a_run_began_is_not_tested(tuned: Path, tmp_path: Path) -> None:
    first = ["fit", f"--config={tuned / 'config.yaml'}", "--run.wandb=off", f"--run.output_dir={tmp_path}", *FAST]
    main([*first, f"--ckpt_path={tuned / 'last.ckpt'}", "--run.id=b", "--trainer.max_epochs=6"])
    second = tmp_path / "kd_lightning/supervised-s0/b"
    assert recorded(second) != recorded(tuned)
    cli = main(["test", f"--config={second / 'config.yaml'}", *FAST])
    assert float(cli.trainer.callback_metrics["test/acc"]) == pytest.approx(recorded(second))


@pytest.mark.e2e
def test_a_run_on_cifar_predicts_photographs(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for name in CIFAR10.class_names:
            (tmp_path / "cifar" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "cifar" / split / name / f"{number}.png")
    args = ["fit", "--model=Supervised", "--model.student.name=cifar_resnet8", "--data=CIFAR10", "--run.id=a"]
    args += [f"--data.path={tmp_path / 'cifar'}", "--data.batch_size=20", "--trainer.max_epochs=1", "--run.wandb=off"]
    main([*args, f"--run.output_dir={tmp_path}", *FAST])
    run = tmp_path / "kd_lightning/supervised-s0/a"
    (tmp_path / "photos").mkdir()
    photos = [tmp_path / "photos" / f"{number}.jpg" for number in range(3)]
    for number, photo in enumerate(photos):
        Image.fromarray(noise.integers(0, 256, (90 + number, 130, 3), dtype=np.uint8)).save(photo)
    loaded = load_run(run)
    shutil.rmtree(tmp_path / "cifar")  # the images of the run are not needed
    main(["predict", str(run), f"--data.path={tmp_path / 'photos'}", *FAST])
    found, facts = tensors(run / "predictions/photos/predictions.safetensors")
    assert facts["paths"] == [*map(str, photos)]
    with torch.no_grad():
        expected = loaded.student(torch.stack([as_tensor(center_square(photo, 32)) for photo in photos]))
    assert torch.allclose(found["logits"], expected, atol=1e-4)
    table = rows(run / "predictions/photos/predictions.csv")
    assert [row["class"] for row in table] == [CIFAR10.class_names[label] for label in expected.argmax(1).tolist()]


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["embed", "predict"])
def test_a_run_without_labels_gives_embeddings(
    command: str, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = ["fit", "--model=CoSS", "--model.student.name=cifar_resnet8", "--run.id=a", "--run.wandb=off"]
    args += ["--model.teacher={name: cifar_resnet20.digits, pretrained: true}", "--data=ImageFolder"]
    args += ["--data.labeled=false", f"--data.path={digits}", "--data.batch_size=64", "--trainer.max_epochs=1"]
    main([*args, f"--run.output_dir={tmp_path}", *FAST])
    run = tmp_path / "kd_lightning/coss-s0/a"
    main([command, str(run), f"--data.path={digits / '1'}", *FAST])
    printed = caplog.text
    assert ("the classifier of this student was not trained" in printed) == (command == "predict")
    found, _ = tensors(run / "embeddings/1/embeddings.safetensors")
    assert {*found} == {"embedding", "labels", "indices"}
    assert "embeddings of 36 images are written to" in printed
