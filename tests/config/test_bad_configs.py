"""A table of wrong configs, values and files: each is refused before the first step, in one line that names the field.

KD_BAD_INPUTS names a file for the table of what was given and what was said, as markdown.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from helpers.configs import KD, changed
from helpers.messages import message_of
from helpers.wrong_arguments import GIVEN, GROUPS, LONG, TOO_LONG
from helpers.wrong_inputs import OTHERS, write_files

from kd_lightning.cli import main
from kd_lightning.io.safe_yaml import load_yaml

TEXT = yaml.safe_dump(KD)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{now}: &{now} [{','.join([f'*{before}'] * 10)}]\n" for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)


def folder(name: str, **kwargs: object) -> dict:
    """A config of the images in a folder below the place of these tests."""
    data = {"class_path": "ImageFolder", "init_args": {"path": f"HERE/{name}", "batch_size": 4, **kwargs}}
    return changed(data=data, model={"class_path": "Supervised", "init_args": {"student": {"name": "cifar_resnet8"}}})


def of(kind: str, **kwargs: object) -> dict:
    return changed(data={"class_path": kind, "init_args": kwargs}, model__init_args__teacher={"name": "cifar_resnet8"})


def parts(*given: object) -> dict:
    """A config of the digits with these parts; a pair is a method and its arguments."""
    listed = [{"class_path": p[0], "init_args": p[1]} if isinstance(p, tuple) else p for p in given]
    return changed(model__class_path="Combined", model__init_args__parts=listed)


def schedule(**kwargs: object) -> dict:
    return changed(model__init_args__lr_scheduler={"class_path": "WarmupCosine", "init_args": kwargs})


def yamls(text: str) -> str:
    """What PyYAML says of a text."""
    return f"config: {message_of(lambda: load_yaml(text))}"


WRITTEN: list[tuple[str, dict | str, str | Callable[[str], str]]] = [
    ("an empty file", "", "config: '' is not a mapping of fields; give the path of a config"),
    ("null alone", "null", "config: null is not a mapping of fields"),
    ("a list at the top", "- a\n- b\n", "config: - a"),
    ("a text alone", "just text", "config: just text"),
    ("a tab", "model: KD\n\tdata: Digits\n", yamls),
    ("two documents", f"{TEXT}---\n{TEXT}", ": a second document begins; give only one"),
    ("a key that comes twice", f"{TEXT}trainer: {{max_epochs: 2}}\n", "'trainer' is given twice in the table"),
    (
        "a key twice, deep inside",
        TEXT.replace("name: cifar_resnet8", "{name: a, name: b}"),
        "'name' is given twice",
    ),
    ("a billion laughs", BOMB, "more than 20,000 values"),
    ("a list that holds itself", "model: &a [*a]\n", "line 1: the value &a contains itself"),
    ("100,000 brackets", f"model: {'[' * 100_000}{']' * 100_000}", "nested more than 50 levels deep"),
    ("3,000 dashes", f"model: \n  {'- ' * 3000}x\n", "nested more than 50 levels deep"),
    ("two megabytes", f"# {'x' * 2_000_000}\n{TEXT}", "more than 1,000,000 characters"),
    ("an unknown reference", "model: *nowhere", "line 1: there is no &nowhere before *nowhere"),
    ("a NUL", "model: a\0", yamls),
    (
        "a Python object",
        "model: !!python/object/apply:os.system ['true']\n",
        "line 1: !!python/object/apply:os.system asks for an object",
    ),
    (
        "teacher and student swapped",
        changed(
            model__init_args__teacher={"name": "cifar_resnet8"},
            model__init_args__student={"name": "cifar_resnet20.digits", "pretrained": True},
        ),
        "model.teacher: cifar_resnet8 has no weights; set model.teacher.checkpoint",
    ),
    (
        "model and data swapped",
        changed(data=KD["model"], model=KD["data"]),
        "data: there is no class 'KD'; choices: CIFAR10",
    ),
    ("a list for the model", changed(model=[]), "model: [] is neither a class nor a mapping with class_path"),
    ("a list for the data", changed(data=[]), "data: [] is neither a class nor a mapping with class_path"),
    ("a list for the student", changed(model__init_args__student=[1]), "model.student"),
    ("a list for the teacher", changed(model__init_args__teacher=[]), "model.teacher"),
    ("a list for the optimizer", changed(model__init_args__optimizer=[]), "model.optimizer: [] is neither a class"),
    (
        "a list for the schedule",
        changed(model__init_args__lr_scheduler=[]),
        "model.lr_scheduler: [] is neither a class",
    ),
    ("a list for the mixing", changed(data__init_args__mixing=[]), "data.mixing: [] is not a mapping of the arguments"),
    ("a number for data's init_args", changed(data__init_args=5), "data: "),
    ("a field at the top", changed(epochs=3), "epochs is not a field; use trainer.max_epochs"),
    ("a field of another group", changed(trainer__lr=3), "trainer.lr is not a field; use model.optimizer.lr"),
    ("an empty table for the model", changed(model={}), "model: "),
    ("no model", changed(model=None), "model is required"),
    ("an empty class_path", changed(model={"class_path": ""}), "model: "),
    ("a number for class_path", changed(model={"class_path": 3}), "model: {'class_path': 3} is neither a class nor"),
    ("init_arg", changed(model={"class_path": "KD", "init_arg": {}}), "model: "),
    ("a list for init_args", changed(model={"class_path": "KD", "init_args": []}), "model: "),
    ("no trainer", changed(trainer=None), "trainer: null is not a YAML mapping"),
    *(
        (f"no {name}", changed(**{name: None}), f"{name}: null is not a YAML mapping")
        for name in GROUPS
        if name not in ("run", "trainer")
    ),
    ("a list for the trainer", changed(trainer=[]), "trainer: [] is not a YAML mapping"),
    ("a word for the trainer", changed(trainer="fast"), "trainer: "),
    ("a word for the run", changed(run="x"), "run: "),
    ("no seed", changed(seed_everything=None), "seed_everything: None is not an integer"),
    ("a seed too large", changed(seed_everything=2**70), "seed_everything: 1180591620717411303424 is not an integer"),
    ("a seed with a fraction", changed(seed_everything=1.5), "seed_everything: 1.5 is not"),
    ("no teacher", changed(model__init_args__teacher=None), "model.teacher.name is required"),
    (
        "infinite YAML number",
        changed(model__init_args__temperature=float("inf")),
        "model.temperature: inf is not a finite",
    ),
    ("YAML's NaN", changed(model__init_args__kd_weight=float("nan")), "model.kd_weight: nan is not a finite number"),
    ("NaN in a schedule", schedule(warmup_epochs=float("nan")), "lr_scheduler.warmup_epochs: nan is not a finite"),
    ("a negative warm-up", schedule(warmup_epochs=-1), "warmup_epochs: -1.0 is negative"),
    (
        "milestones that fall",
        changed(model__init_args__lr_scheduler={"class_path": "WarmupMultiStep", "init_args": {"milestones": [5, 3]}}),
        "milestones: [5.0, 3.0] must be positive epochs in rising order",
    ),
    ("one class", folder("one"), "train must contain at least two folders, one per class"),
    ("images of no bytes", folder("zero"), "data.path: none of the 12 images can be read"),
    ("an image that is cut off", folder("cut"), "train/cat/0.png cannot be read as an image"),
    (
        "test images of another size",
        folder("sizes", val_split=2),
        "the test images have 9x9 pixels, but the train images have 8x8",
    ),
    ("a class without training images", folder("hollow"), "train/dog contains no images, but each class needs"),
    ("a class that contains itself", folder("loop"), "dog/self is a link to a folder that contains it"),
    ("a pipe", folder("pipe", memory_limit=0), "dog/3.png cannot be read as an image (it is not a regular file)"),
    (
        "an empty file, decoded late",
        folder("void", memory_limit=0, val_split=2),
        "test/dog/3.png cannot be read as an image",
    ),
    (
        "a test without a readable image",
        folder("hidden", on_error="skip", memory_limit=0, num_workers=0, val_split=2),
        "data.path: none of the 12 images can be read, for example HERE/hidden/test/cat/0.png",
    ),
    ("floating-point pixels", folder("float"), "floating-point numbers with an unknown range"),
    ("other classes in the test", folder("swap"), "differ in the classes cat, cats, dog"),
    ("an empty folder", folder("empty"), "it contains no folders"),
    ("a file for a folder", folder("plain.txt"), "plain.txt is neither a folder nor a tar or zip archive"),
    ("an empty tar", folder("cut.tar"), "cut.tar is corrupt or not accepted"),
    ("a torn zip", folder("cut.zip"), "cut.zip is corrupt or not accepted"),
    ("a folder that is not there", folder("emtpy"), "data.path: HERE/emtpy does not exist; nearest: empty"),
    ("a name too long for a file", folder(LONG), f"cannot be read: {TOO_LONG}"),
    ("a NUL in a path", folder("a\0b"), r"'HERE/a\x00b' is not a path"),
    ("an empty path", folder("x", path=""), "data.path: '' is not a path"),
    ("a list for a path", folder("x", path=[]), "data.path: [] is not str"),
    ("images of size 0", folder("ok", size=0), "data.size: 0 is not positive"),
    ("images of a gigapixel", folder("ok", size=10**9, val_split=0), "data.size: 1000000000 is more than 8192 pixels"),
    ("a crop above 1", folder("ok", crop_ratio=1.5), "data.crop_ratio: 1.5 is not a number above 0 and up to 1"),
    ("a crop of NaN", folder("ok", crop_ratio=float("nan")), "data.crop_ratio: nan is not a finite number"),
    ("splits that take all", folder("ok/train", test_split=5, val_split=20), "data.val_split: 20 means 20 of 7 images"),
    ("a test of all images", folder("ok/train", test_split=0.99), "data.test_split: 0.99 means 12 of 12 images"),
    (
        "images without labels",
        folder("ok", labeled=False),
        "data.labeled: Supervised reads labels, but the data have none",
    ),
    ("a maybe", folder("ok", labeled="maybe"), "data.labeled: maybe is not bool"),
    (
        "labels of neither kind",
        of("CIFAR100", labels="medium"),
        "data.labels: 'medium' is not a valid value; choices: coarse, fine",
    ),
    ("no path", of("HFDataset"), "data.path is required"),
    (
        "an optimizer of a part",
        parts("AT", ("SP", {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}})),
        "model.parts: SP.optimizer: all parts share this argument; set model.optimizer",
    ),
    (
        "a schedule of a part",
        parts(("SP", {"lr_scheduler": "WarmupCosine"})),
        "model.parts: SP.lr_scheduler: all parts share",
    ),
    ("a weight of a part's labels", parts(("SP", {"ce_weight": 1})), "model.parts: SP.ce_weight: all parts share"),
    (
        "a part's misspelt argument",
        parts("AT", ("SP", {"wieght": 3})),
        "model.parts: SP.wieght is not an argument of SP; nearest: sp_weight",
    ),
    ("a part's wrong type", parts(("SP", {"layers": "many"})), "model.parts: SP.layers: many is not int"),
    (
        "a part's wrong choice",
        parts(("TinTeM", {"style": "jont"})),
        "model.parts: TinTeM.style: 'jont' is not a valid value; nearest: joint",
    ),
    ("a misspelt part", parts("SPP"), "model.parts: there is no class 'SPP'; nearest: SP"),
    ("a part without a teacher", parts("Supervised"), "model.parts: Supervised is not a subclass of Distiller"),
    ("an abstract part", parts({"class_path": "Distiller"}), "Distiller is abstract; choices: AB, AICSD, AT, "),
    (
        "a combination in a combination",
        parts("SP", "Combined"),
        "model.parts: Combined cannot be a part; give its parts",
    ),
    (
        "KD as a part",
        parts("SP", "KD"),
        "model.parts: KD cannot be a part, because its only terms are the cross-entropy",
    ),
    ("a number as a part", parts(3), "model.parts: 3 is neither a class nor a mapping with class_path and init_args"),
    ("a part with init_arg", parts({"class_path": "SP", "init_arg": {}}), "is neither a class nor a mapping"),
    (
        "surplus arguments of a part",
        parts({"class_path": "SP", "dict_kwargs": {"foo": 1}}),
        "model.parts.foo is not an argument of kd_lightning.methods.SP",
    ),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wrong files and folders, and of right ones."""
    return write_files(tmp_path_factory.mktemp("bad"), TEXT)


@pytest.fixture(scope="module")
def said() -> Iterator[list[tuple[str, str]]]:
    """What was given and what was said; written as a table in the end."""
    found: list[tuple[str, str]] = []
    yield found
    if path := os.environ.get("KD_BAD_INPUTS"):
        rows = [f"| {' '.join(ascii(a)[1:-1].split())} | {b} |".replace("|", "|") for a, b in found]
        Path(path).write_text("\n".join(["| given | said |", "|---|---|", *rows]) + "\n")


def refusal(args: list[str], capfd: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    text = capfd.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert len(lines[0]) < 1000
    return lines[0]


def tell(said: list, here: Path, given: str, line: str) -> str:
    short = given if len(given) <= 90 else f"{given[:60]}... ({len(given):,} characters)"
    line = line.replace(str(here), "HERE")
    said.append((short, line.removeprefix("error: ").replace("|", r"\|")))
    return line


@pytest.mark.parametrize(("what", "config", "words"), WRITTEN, ids=[what for what, *_ in WRITTEN])
def test_configs(what: str, config: dict | str, words, here: Path, said: list, tmp_path: Path, capfd) -> None:
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    words = words(text) if callable(words) else words
    (tmp_path / "config.yaml").write_text(text.replace("HERE", str(here)))
    line = refusal(["fit", f"--config={tmp_path / 'config.yaml'}", f"--run.output_dir={tmp_path / 'runs'}"], capfd)
    assert words in tell(said, here, what, line)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("given", "words"), GIVEN, ids=[ascii(given)[:60] for given, _ in GIVEN])
def test_arguments(given: str, words, here: Path, said: list, tmp_path: Path, capfd) -> None:
    words = words() if callable(words) else words
    args = [f"--{part}" if place else part for place, part in enumerate(given.replace("HERE", str(here)).split(" --"))]
    line = refusal(["fit", f"--config={here / 'kd.yaml'}", f"--run.output_dir={tmp_path / 'runs'}", *args], capfd)
    told = tell(said, here, given, line)
    assert all(each in told for each in (words if isinstance(words, tuple) else (words,))), told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("given", "words"), OTHERS, ids=[given for given, _ in OTHERS])
def test_other_commands(given: str, words: str, here: Path, said: list, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    line = refusal(given.replace("HERE", str(here)).split(), capfd)
    assert words in tell(said, here, given, line)
    assert not [*tmp_path.iterdir()]
    torch.set_rng_state(before)


def test_the_table_is_long() -> None:
    assert len(WRITTEN) + len(GIVEN) + len(OTHERS) >= 150
