"""Keys and passwords end up in no file and no line."""

import logging
import warnings
from pathlib import Path

import pytest
import yaml
from helpers.configs import KD

from kd_lightning import redaction
from kd_lightning.cli import main
from kd_lightning.errors import ConfigError, RunError, one_line
from kd_lightning.io import noise
from kd_lightning.io.paths import resolve
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


SHAPES = {
    "Authorization: Bearer abcDEF123.456-x": "Authorization: Bearer ***",
    "run.group: bearer 12345678901234567890": "run.group: bearer ***",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN": "***",
    "sk-abcdefghij0123456789abcd": "***",
    "sk-proj-abcdefghij0123456789abcd": "***",
    "hf_abcdefghijklmnopqrstuvwxyz": "***",
    "ghp_abcdefghijklmnopqrstuvwxyz0123": "***",
    "AKIAIOSFODNN7EXAMPLE": "***",
    "ASIAIOSFODNN7EXAMPLE": "***",
    "wandb: 0123456789abcdef0123456789abcdef01234567": "wandb: ***",
    "'0123456789abcdef0123456789abcdef01234567'": "'***'",
    "aws k3Jq9Zx/Wb7Lr2Pv+Tn5Ys8Gd1Hc4Mf6Qa0Ue9Ri": "aws ***",
    "dGhpcyBpcyBhIHZlcnkgbG9uZyBzZWNyZXQga2V5IDEyMzQ1Njc4OTA=": "***",
    "-----BEGIN RSA PRIVATE KEY----- MIIE": "***",
}


@pytest.mark.parametrize("text", SHAPES)
def test_a_key_is_known_by_its_form(text: str) -> None:
    assert redacted(text) == SHAPES[text]
    assert str(ConfigError(text)) == SHAPES[text]
    assert secret_field({"run": {"tags": ["a", text]}}) == "run.tags"


def test_a_key_is_not_printed_or_kept(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """By --print_config, in config.yaml, in logs and in warnings."""
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump({**KD, "run": {"group": "Bearer abcDEF1234567890"}}))
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                f"--config={tmp_path / 'kd.yaml'}",
                "--run.tags=[ghp_abcdefghijklmnopqrstuvwxyz0123]",
                "--print_config",
            ]
        )
    said = "".join(capfd.readouterr())
    assert "group: Bearer ***" in said
    assert "abcDEF" not in said
    assert "ghp_" not in said
    noise.silence()
    assert "ghp_" not in warnings.formatwarning("ghp_abcdefghijklmnopqrstuvwxyz0123", UserWarning, "a.py", 1)
    record = logging.LogRecord("x", logging.INFO, "a.py", 1, "it is %s", ("ghp_abcdefghijklmnopqrstuvwxyz0123",), None)
    assert noise._clean(record)
    assert record.getMessage() == "it is ***"
    noise.end_command()


@pytest.mark.parametrize("given", ["$KD_PLACE", "${KD_PLACE}", "$KD_PLACE/x", "/x/$KD_PLACE/y"])
def test_a_path_is_shown_as_given(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is not named like a key, but its value may be one."""
    monkeypatch.setenv("KD_PLACE", "hunter2hunter2")
    with pytest.raises(ConfigError) as refused:
        resolve(given, "data.path")
    assert given in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "data.path: datasets/ImageNet1k/ILSVRC2012/Data/CLS-LOC/train does not exist",
        "/home/me/.cache/huggingface/hub/models--a--b/snapshots/0123456789abcdef0123456789abcdef01234567/model.safetensors",
        "hf-hub:timm/resnet18@0123456789abcdef0123456789abcdef01234567",
        "vit_base_patch14_reg4_dinov2.lvd142m_in1k_and_more_words_behind_it",
        "teacher's weights: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "kd_lightning.callbacks.checkpoints.LastCheckpoint of kd_lightning_ImageNet100_resnet50_2026",
        "basic understanding of this",
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


HASH = "9fceb02d0ae598e95dc970b74767f19372d61af8"


def test_a_run_may_be_named_by_a_commit(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The name has the form of a key of W&B. It is kept in all files and shown in all tables."""
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    args = ["fit", f"--config={tmp_path / 'kd.yaml'}", f"--run.name={HASH}", f"--run.id={HASH}", f"--run.tags=[{HASH}]"]
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--print_config"])
    assert stopped.value.code in (0, None)
    assert f"name: {HASH}" in capfd.readouterr().out
    quick = ["--trainer.limit_train_batches=1", "--trainer.limit_test_batches=1", "--run.wandb=off"]
    main([*args, f"--run.output_dir={tmp_path / 'runs'}", *quick])
    folder = tmp_path / "runs" / "kd_lightning" / HASH / HASH
    run = yaml.safe_load((folder / "config.yaml").read_text())["run"]
    assert (run["name"], run["id"], run["tags"]) == (HASH, HASH, [HASH])
    redaction._NAMES.clear()
    main(["compare", str(tmp_path / "runs"), f"--out={tmp_path / 'report'}", "--images=false"])
    assert HASH in capfd.readouterr().out
    assert HASH in (tmp_path / "report" / "table.csv").read_text()


@pytest.mark.parametrize("field", ["model.student.name", "model.student.model_kwargs.a", "data.path"])
def test_elsewhere_this_form_is_a_key(field: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    redaction._NAMES.clear()
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    with pytest.raises(SystemExit):
        main(["fit", f"--config={tmp_path / 'kd.yaml'}", f"--{field}={HASH}", f"--run.output_dir={tmp_path / 'runs'}"])
    assert HASH not in "".join(capfd.readouterr())
    assert not (tmp_path / "runs").exists()


def test_the_key_of_wandb_login_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {HASH}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    redaction._NAMES.clear()
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={tmp_path / 'kd.yaml'}", f"--run.name={HASH}", f"--run.output_dir={tmp_path / 'runs'}"])
    assert stopped.value.code == 2
    assert "run.name: the value contains a key or password" in capfd.readouterr().err
    assert redacted(f"/home/me/{HASH}/x") == "/home/me/***/x"
