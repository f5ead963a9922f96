"""Texts and null in a config and on the command line: what is saved is read again, and null is what YAML calls null."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from helpers.configs import KD
from helpers.fuzz import NAMES, fuzz
from hypothesis import strategies as st
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from kd_lightning import callbacks, data, methods
from kd_lightning.cli import main
from kd_lightning.config import texts
from kd_lightning.config.parser import Parser
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.models import Network
from kd_lightning.runs.directory import Run

LOOKS_LIKE = (
    "12e3", "1e5", "1.e+3", "1_000", "0x1F", "0b1", "0o17", "007", "yes", "No", "on", "true", "2020-01-01", "1:20",
    "1:20.5",
    ".5", "+.inf", ".NaN", "nan", "=", "<<", "-", "- a", "?", "? a", ":", "a: b", "#x", "a #b", "{a}", "{a", "[a", "&a",
    "*a", "!x", "!!int 3", "|", ">", "%", "@x", "`", "'", '"', "\\", ",", "---", "...", " a", "a ", "  ", "a\nb",
    "a\tb",
    "é", "\U0001f600", "\x85", "\u2028", "\ufeff", "None", "True", "\x1b[0m",
)  # fmt: skip
"""Texts that YAML reads as a number, a date, a boolean, null or a mark if they are not quoted."""
ANY = st.one_of(st.sampled_from(LOOKS_LIKE), NAMES, st.text(max_size=12))


def parser() -> Parser:
    made = Parser(exit_on_error=False)
    made.add_argument("--config", action="config")
    made.add_class_arguments(Run, "run")
    made.add_lightning_class_args(callbacks.Protocol, "protocol")
    made.add_lightning_class_args(callbacks.Speed, "speed")
    made.add_lightning_class_args(Trainer, "trainer")
    made.add_lightning_class_args(StudentModule, "model", subclass_mode=True)
    made.add_lightning_class_args(ImageData, "data", subclass_mode=True)
    return made


PARSER = parser()
REST = ["--data=Digits", "--model=Supervised", "--model.student.name=x"]


def saved(config: Namespace) -> str:
    return PARSER.dump(config, skip_none=False)


@pytest.fixture(scope="module")
def rest() -> Namespace:
    return PARSER.parse_args(REST)


def check_round_trip(given: dict[str, Any]) -> None:
    text = texts.dump(given)
    assert load_yaml(text) == given
    assert texts.load(text) == given


@pytest.mark.parametrize("text", [*LOOKS_LIKE, "null", "~", ""])
def test_a_text_is_saved_and_read_again(text: str, rest: Namespace, tmp_path: Path) -> None:
    """For jsonargparse, a quoted null is null as well, and so are the values of a field of type Any YAML."""
    check_round_trip({"a": text, "b": [text], text: {"c": text}})
    config = rest.clone()
    config.run.group, config.run.tags = text, [text]
    student = config.model.init_args.student
    student.checkpoint, student.model_kwargs = text, {"a": text, "b": [text]}
    file = tmp_path / "config.yaml"
    read = []
    for _ in range(2):
        file.write_bytes(saved(config).encode())
        config = PARSER.parse_args([f"--config={file}"])
        read.append(config.clone())
        config.pop("config")
    assert read[0] == read[1]
    assert read[0].run.tags == [text]
    expected = None if text in ("null", "~") else text
    assert (read[0].run.group, read[0].model.init_args.student.checkpoint) == (expected, expected)


@fuzz(
    100,
    text=ANY.filter(lambda text: not {*text} & {"\0", "\udcff"}),
    key=ANY.filter(lambda text: not {*text} & {"\0", "\udcff"}),
)
def test_every_text_is_read_again(text: str, key: str) -> None:
    check_round_trip({"run": {"group": text, "tags": [text, "a"]}, key: {"a": [{key: text}]}})


@pytest.mark.parametrize("field", ["run.group", "run.tags", "model.student.checkpoint", "model.student.name"])
@pytest.mark.parametrize("text", ["12e3", "007", "1_000", "0x1F", "yes", "2020-01-01", "1:20", ".5", "=", "#x", "a: b"])
def test_a_text_on_the_command_line(field: str, text: str) -> None:
    given = f"['{text}']" if field == "run.tags" else text
    config = PARSER.parse_args([*REST, f"--{field}={given}"])
    value = config[field.replace("model.", "model.init_args.")]
    assert value == ([text] if field == "run.tags" else text)


def optional_fields(kind: type, prefix: str) -> Iterator[str]:
    """Yield the arguments of a class and of its bases that may be None."""
    for base in inspect.getmro(kind):
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(base.__init__).parameters.items():
                if type(None) in get_args(parameter.annotation):
                    yield f"{prefix}.{name}"


VALUES = {str: "x", int: "1", float: "1", bool: "true", Network: None}


def required(kind: type, prefix: str) -> Iterator[str]:
    """Yield a command line's arguments for what a class requires."""
    for base in inspect.getmro(kind):
        if "__init__" not in vars(base):
            continue
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY:
                of_network = parameter.annotation is Network
                yield (
                    f"--{prefix}.{name}.name=x"
                    if of_network
                    else f"--{prefix}.{name}={VALUES.get(parameter.annotation, 'x')}"
                )


def walk() -> Iterator[tuple[str, list[str]]]:
    """Yield every optional field that the command line has, and the arguments that it needs."""
    for name in methods.__all__:
        kind = getattr(methods, name)
        if inspect.isclass(kind) and issubclass(kind, StudentModule) and not inspect.isabstract(kind):
            needed = [f"--model={name}", *dict.fromkeys(required(kind, "model")), "--data=Digits"]
            networks = ["student"] + ["teacher"] * any("teacher" in each for each in needed)
            for field in dict.fromkeys(optional_fields(kind, "model")):
                yield field, needed
            for network in networks if name in ("Supervised", "KD") else ():
                for field in optional_fields(Network, f"model.{network}"):
                    yield field, needed
    for name in data.__all__:
        kind = getattr(data, name)
        if inspect.isclass(kind) and issubclass(kind, ImageData) and kind is not ImageData:
            needed = [f"--data={name}", *dict.fromkeys(required(kind, "data")), *REST[1:]]
            for field in dict.fromkeys(optional_fields(kind, "data")):
                if (name, field) != ("CINIC10", "data.size"):  # it sets the size of its base class
                    yield field, needed
    groups = {"run": Run, "protocol": callbacks.Protocol, "speed": callbacks.Speed, "trainer": Trainer}
    for group, kind in groups.items():
        for field in optional_fields(kind, group):
            yield field, REST


FIELDS = {(field, arguments[0]): arguments for field, arguments in walk()}


@pytest.mark.parametrize("key", FIELDS, ids=lambda key: f"{key[1]}-{key[0]}")
def test_null_on_the_command_line(key: tuple[str, str]) -> None:
    """It is None, and is printed as null, as if it came from YAML."""
    field = key[0]
    config = PARSER.parse_args([*FIELDS[key], f"--{field}=null"])
    group, _, rest = field.partition(".")
    full = f"{group}.init_args.{rest}" if group in ("model", "data") else field
    assert config[full] is None
    content = yaml.safe_load(saved(config))
    for part in full.split("."):
        content = content[part]
    assert content is None


def test_the_walk_is_long() -> None:
    assert len(FIELDS) > 60
    assert {"model.student.checkpoint", "model.teacher.num_classes", "model.student.mean"} <= {
        field for field, _ in FIELDS
    }


def test_python_words_of_a_nested_argument() -> None:
    config = PARSER.parse_args([*REST, "--model.student.model_kwargs={a: null, b: [true, 1e3]}"])
    assert config.model.init_args.student.model_kwargs == {"a": None, "b": [True, 1e3]}
    config = PARSER.parse_args([*REST, "--model.student.model_kwargs.a=null", "--model.student.model_kwargs.b=3"])
    assert config.model.init_args.student.model_kwargs == {"a": None, "b": 3}


@pytest.mark.parametrize(
    "field",
    ["data.memory_limit", "data.batch_size", "model.temperature", "model.student.pretrained"],
)
def test_null_for_a_field_that_needs_a_value(field: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={tmp_path / 'kd.yaml'}", f"--{field}=null"])
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {field}")
