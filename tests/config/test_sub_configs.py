"""Sub-configs: relative paths, values on the command line, error messages."""

from pathlib import Path

import pytest
import yaml

from kd_lightning.cli import main

MODEL = "model: {class_path: KD, init_args: {teacher: {name: cifar_resnet8}, student: {name: cifar_resnet8}%s}}\n"


def parsed(capsys: pytest.CaptureFixture, folder: Path, config: str, file: str = "", *args: str) -> dict | str:
    """Return the resolved values of a config in `folder/pair` whose sub-config is `folder/base.yaml`, or the error."""
    (folder / "pair").mkdir(exist_ok=True)
    (folder / "pair" / "kd.yaml").write_text(config)
    (folder / "base.yaml").write_text(file)
    with pytest.raises(SystemExit) as ended:
        main(["fit", f"--config={folder / 'pair' / 'kd.yaml'}", *args, "--print_config"])
    said = capsys.readouterr()
    return said.err if ended.value.code else yaml.safe_load(said.out)


def test_values_come_from_the_file_and_the_command_line_overrides_them(tmp_path: Path, capsys) -> None:
    digits = "{class_path: Digits, init_args: {batch_size: 32, val_split: 0.2}}"
    config = "data: ../base.yaml\n" + MODEL % ""
    data = parsed(capsys, tmp_path, config, digits, "--data.batch_size=16")["data"]
    assert data["class_path"] == "kd_lightning.data.Digits"
    assert (data["init_args"]["batch_size"], data["init_args"]["val_split"]) == (16, 0.2)
    trainer = "trainer: ../base.yaml\ndata: {class_path: Digits}\n" + MODEL % ""
    values = parsed(capsys, tmp_path, trainer, "max_epochs: 7\nprecision: bf16-mixed", "--trainer.max_epochs=3")
    assert (values["trainer"]["max_epochs"], values["trainer"]["precision"]) == (3, "bf16-mixed")
    assert "base.yaml" not in str(values)


DIGITS = "data: {class_path: Digits}\n"
DATA, TRAINER = "data: ../base.yaml\n", DIGITS + "trainer: ../base.yaml\n"
CODE = "a: !!python/object:os.system x"
OPTIMIZER = DIGITS + MODEL % ", optimizer: ../base.yaml"


@pytest.mark.parametrize(
    ("config", "file", "words"),
    [
        (
            "data: ../none.yaml\n" + MODEL % "",
            "",
            "data: there is no file ../none.yaml; give its path relative to the config that names it",
        ),
        (DIGITS + "trainer: ../none.yaml\n" + MODEL % "", "", "trainer: there is no file ../none.yaml"),
        (DIGITS + MODEL % ", optimizer: ../none.yaml", "", "model.optimizer: there is no file ../none.yaml"),
        (DATA + MODEL % "", "class_path: Digits\ninit_args: {batch_sise: 3}", "data.batch_sise is not an argument"),
        (DATA + MODEL % "", "class_path: Digts", "data: there is no class 'Digts'; nearest: Digits"),
        (DATA + MODEL % "", CODE, "data: ../base.yaml is not a valid sub-config (line 1: !!python/object"),
        (DATA + MODEL % "", "a: 1\na: 2", "data: ../base.yaml is not a valid sub-config ('a' is given"),
        (TRAINER + MODEL % "", "max_epochs: x", "trainer.max_epochs: x is not int"),
        (TRAINER + MODEL % "", CODE, "trainer: ../base.yaml is not a valid sub-config (line 1: !!python/object"),
        (OPTIMIZER, CODE, "model.optimizer: ../base.yaml is not a valid sub-config (line 1: !!python/object"),
    ],
)
def test_errors_name_the_field_and_the_file(config: str, file: str, words: str, tmp_path: Path, capsys) -> None:
    said = parsed(capsys, tmp_path, config, file)
    assert said.startswith(f"error: {words}")
    assert said.count("\n") == 1


def test_a_config_within_a_config_is_an_error(tmp_path: Path, capsys) -> None:
    (tmp_path / "base.yaml").write_text("trainer: {max_epochs: 240}\n")
    file = tmp_path / "kd.yaml"
    file.write_text("config: base.yaml\ndata: {class_path: Digits}\ntrainer: {devices: 1}\n" + MODEL % "")
    with pytest.raises(SystemExit) as ended:
        main(["fit", f"--config={file}"])
    assert ended.value.code == 2
    assert f"config: {file} names another config in its field `config`" in capsys.readouterr().err
