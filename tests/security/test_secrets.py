"""Keys and passwords end up in no file and no line."""

from pathlib import Path

import pytest
import yaml
from helpers.configs import KD

from kd_lightning.cli import main
from kd_lightning.errors import ConfigError, RunError, one_line
from kd_lightning.redaction import redacted, secret_field

KEYS = {
    "WANDB_API_KEY": "5f0e7c1b2a3948576e6d5c4b3a29180706f5e4d3",
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz0123456789",
    "MY_SERVICE_PASSWORD": "correct-horse-battery",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")


def written(folder: Path) -> list[tuple[str, str]]:
    """The keys that are in files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [(name, str(file)) for file in files for name, key in KEYS.items() if key.encode() in file.read_bytes()]


def test_a_run_and_its_page(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    args = ["--trainer.limit_train_batches=2", "--trainer.limit_test_batches=1", "--run.wandb=offline"]
    main(["fit", f"--config={tmp_path / 'kd.yaml'}", f"--run.output_dir={tmp_path / 'runs'}", *args])
    main(["compare", str(tmp_path / "runs"), f"--out={tmp_path / 'report'}", "--images=false"])
    assert {path.suffix for path in (tmp_path / "runs").rglob("*")} >= {".yaml", ".csv", ".json", ".wandb", ".ckpt"}
    assert (tmp_path / "report" / "report.html").exists()
    assert written(tmp_path) == []
    said = "".join(capfd.readouterr())
    assert not [name for name, key in KEYS.items() if key in said]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--wandb_api_key=KEY", "wandb_api_key is not a field"),
        ("--run.wandb_api_key=KEY", "run.wandb_api_key is not a field"),
        ("--run.tags=[a, KEY]", "run.tags: the value contains a key or password"),
        ("--run.group=KEY", "run.group: the value contains a key or password"),
        ("--run.project=KEY", "run.project: the value contains a key or password"),
        ("--run.id=hf_zyxwvutsrqponmlkjihgfedcba", "run.id: the value contains a key or password"),
        (
            "--model.student.model_kwargs={api_key: abcdefgh12}",
            "model.student.model_kwargs.api_key: the value contains a key",
        ),
        ("--data.path=https://me:abcdefgh12@host/x", "data.path is not an argument"),
        ("--trainer.max_epochs=KEY", "trainer.max_epochs: *** is not int"),
        (
            "--trainer.logger={class_path: lightning.pytorch.loggers.WandbLogger, init_args: {api_key: KEY}}",
            "trainer.logger",
        ),
        ("--model.teacher.name=KEY", "model.teacher.name: the value contains a key or password"),
    ],
)
def test_a_key_by_mistake(given: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    given = given.replace("KEY", KEYS["WANDB_API_KEY"])
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={tmp_path / 'kd.yaml'}", f"--run.output_dir={tmp_path / 'runs'}", given])
    assert stopped.value.code == 2
    assert not (tmp_path / "runs").exists()
    said = "".join(capfd.readouterr())
    assert words in said
    for key in (KEYS["WANDB_API_KEY"], "hf_zyxwvutsrqponmlkjihgfedcba", "abcdefgh12"):
        assert key not in said


def test_redacted() -> None:
    for kind in (ConfigError, RunError):
        assert str(kind(f"x: {KEYS['MY_SERVICE_PASSWORD']} is wrong")) == "x: *** is wrong"
    assert redacted("{'api_key': 'abcdefgh12', 'a': 1}") == "{'api_key': '***', 'a': 1}"
    assert redacted("at https://me:secret@host/x") == "at https://***@host/x"
    assert redacted("--auth-token=abcdefgh12") == "--auth-token=***"


@pytest.mark.parametrize(
    "line",
    [
        "model.tokens: something is not bool",
        "teacher.num_classes: 7 classes",
        "data.path: /data/secrets/images does not exist; nearest: secret",
        "keys: abcdefgh12 is not a number",
        "https://host/path is missing",
        "cifar_resnet20.digits: class_token: true",
    ],
)
def test_words_that_are_no_keys_stay(line: str) -> None:
    assert redacted(line) == line


def test_a_message_is_cut_behind_a_hidden_key() -> None:
    key = f"hf_{'a' * 30}"
    for length in range(40, 60):
        assert "aaa" not in one_line(ValueError(f"{'x' * 40} {key}"), length)
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError("12345678"), 6) == "123..."
    assert one_line(ValueError()) == "ValueError"


def test_configs_of_this_project_hold_none() -> None:
    for path in Path(__file__).parents[2].glob("configs/**/*.yaml"):
        assert secret_field(yaml.safe_load(path.read_text())) is None
