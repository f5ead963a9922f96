"""A name that is no field is answered with the full name of the field that is meant."""

import pytest
import yaml
from helpers.configs import KD

from kd_lightning.cli import main
from kd_lightning.config import one_line_errors
from kd_lightning.config.messages import explain
from kd_lightning.config.unknown_fields import _ALIASES, fields_meant, known_fields

MEANT = {
    "epochs": "trainer.max_epochs",
    "max-epochs": "trainer.max_epochs",
    "maxepochs": "trainer.max_epochs",
    "lr": "model.optimizer.lr",
    "learning_rate": "model.optimizer.lr",
    "batch_size": "data.batch_size",
    "batch-size": "data.batch_size",
    "batchsize": "data.batch_size",
    "seed": "seed_everything",
    "gpus": "trainer.devices",
    "devices": "trainer.devices",
    "name": "run.name, model.student.name, model.teacher.name",
    "output": "run.output_dir",
    "output-dir": "run.output_dir",
    "teacher": "model.teacher.name",
    "student": "model.student.name",
    "teacher_checkpoint": "model.teacher.checkpoint",
    "temperature": "model.temperature",
    "T": "model.temperature",
    "alpha": "model.kd_weight, model.ce_weight, model.alpha",
    "data_path": "data.path",
    "workers": "data.num_workers",
    "num-workers": "data.num_workers",
    "weight_decay": "model.optimizer.weight_decay",
    "wandb": "run.wandb",
    "warmup_epochs": "model.lr_scheduler.warmup_epochs",
    "compile": "speed.compile",
}
"""Names of the outsiders' first tries and of other projects, and the fields that the message offers."""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The fields of the parser of `fit`, as it passes them to the message."""
    seen: list[set[str]] = []

    def remember(message: str, fields: set[str]) -> str:
        seen.append(fields)
        return message

    path = tmp_path_factory.mktemp("config") / "kd.yaml"
    path.write_text(yaml.safe_dump(KD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_line_errors, "explain", remember)
        with pytest.raises(SystemExit):
            main(["fit", f"--config={path}", "--epochs=3"])
    return seen[-1]


@pytest.mark.parametrize("given", MEANT)
def test_the_field_that_is_meant(given: str, options: set[str]) -> None:
    fields = MEANT[given].split(", ")
    use = "use one of" if len(fields) > 1 else "use"
    dashes = ", ".join(f"--{field}" for field in fields)
    expected = f"{given} is not a field; {use} {dashes}"
    assert explain(f"unrecognized arguments: --{given} 3", options) == expected
    assert explain(f"unrecognized arguments: --{given}=3", options) == expected
    assert explain(f"Option '{given}' is not accepted", options) == expected.replace("--", "")


def test_every_field_with_further_names_exists(options: set[str]) -> None:
    known = known_fields(options)
    assert {*_ALIASES} - known == set()
    for field, aliases in _ALIASES.items():
        assert all(field in fields_meant(alias, known) for alias in aliases.split()), field
        assert not {*aliases.split()} & {option.replace("_", "") for option in options if "." not in option}, field


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("unrecognized arguments: -lr 3", "lr is not a field; use --model.optimizer.lr"),
        ("unrecognized arguments: --trainer.lr 3", "trainer.lr is not a field; use --model.optimizer.lr"),
        ("unrecognized arguments: --trainer.epochs 3", "trainer.epochs is not a field; use --trainer.max_epochs"),
        ("unrecognized arguments: --student.epochs 3", "is not an argument of Network; use --trainer.max_epochs"),
        ("Subcommand 'fit' does not accept option 'epochs'", "epochs is not a field; use trainer.max_epochs"),
        ("unrecognized arguments: --trainer.max_epoch 3", "is not a field; nearest: trainer.max_epochs"),
        ("unrecognized arguments: --modle.layers 3", "modle is not a field; nearest: model"),
        ("unrecognized arguments: kd.yaml", "is given without the name of a field; give a config as --config kd.yaml"),
        ("unrecognized arguments: 3", "3 is given without the name of a field; choices: --ckpt_path, --config"),
    ],
)
def test_other_messages(message: str, words: str, options: set[str]) -> None:
    assert words in explain(message, options)


def test_a_command_without_a_config_offers_only_its_own_fields() -> None:
    assert explain("unrecognized arguments: --name 3", {"metric", "out"}) == "name is not a field; choices: metric, out"
