"""Arguments of the commands that evaluate a run: `test RUN`, `validate RUN`, `predict RUN` and `embed RUN`.

RUN is a run's folder, its config.yaml, or a checkpoint in the folder.
"""

import json
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.errors import ConfigError
from kd_lightning.runs.one_run import check_checkpoint_of, check_run
from kd_lightning.runs.selected import CONFIG, Selected, is_run, selected
from kd_lightning.runs.student_alone import is_alone, of_file

READS_IMAGES = ("predict", "embed")
"""Commands that read images of any folder."""
_OTHER_DATA = ("--data", "--data.class_path", "--data.predict_split")
"""Arguments with which the images are those of a data set, and not those of any folder."""
_OTHER_STUDENT = ("--model.student", "--model.student.checkpoint", "--model.student.pretrained")
_ONE_DEVICE = ("--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto")


_NEW_IMAGES = "kd_lightning.data.new_images.NewImages"


class Arguments(NamedTuple):
    """Arguments of Lightning's command line, and the images that `predict` reads."""

    args: list[str]
    images: list[str] | None = None
    """Paths of folders, images or lists of images; None if the images are those of the data set in the config."""


def with_run(args: list[str]) -> Arguments:
    """Return the arguments of a command with the config and the checkpoint of the run that they name.

    The run is named by the first argument after the command, by `--ckpt_path`, or by `--config RUN/config.yaml`. If
    the user did not name the checkpoint itself, one line says which checkpoint is used. The `ckpt_path` in the config
    of a run is not used, because it is the checkpoint from which the run began.

    Raises:
        ConfigError: if there is no such run, if it contains no checkpoint, or if two runs are given.
    """
    command, *rest = args
    run = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if run is not None:
        check_run(run, rest)
    name = "predict" if command == "embed" else command
    more = ["--predictions.embeddings=true"] if command == "embed" else []
    checkpoints, rest = _take(rest, "--ckpt_path")
    configs = _take(rest, "--config")[0] + _take(rest, "-c")[0]
    own = [config for config in configs if Path(config).name == CONFIG and is_run(Path(config).parent)]
    if checkpoints and checkpoints[-1] == "null":  # the user wants the starting weights
        config = [f"--config={_with_config(selected(run, 'run'), 'run').config}"] if run is not None else []
        return Arguments([name, *config, *rest, *more, "--ckpt_path=null"])
    if checkpoints:
        check_checkpoint_of(run, checkpoints[-1])
        found = selected(checkpoints[-1], "ckpt_path", student=command in READS_IMAGES)
    elif run is not None:
        found = selected(run, "run", student=command in READS_IMAGES)
    elif own and not _names(rest) & {*_OTHER_STUDENT}:
        found = selected(own[-1], "config", student=command in READS_IMAGES)
    else:
        return Arguments([name, *rest, *more])
    if line := found.line():
        rank_zero_info(line)
    elif found.file.suffix == ".safetensors" and command in READS_IMAGES:
        rank_zero_info(f"ckpt_path: {found.file} is used, as given")
    config = []
    if command in READS_IMAGES and is_alone(found.file) and (run is None or not checkpoints) and not configs:
        config = _alone(found.file, rest)
    elif run is not None:
        source = selected(run, "run", student=True) if checkpoints else found
        config = [f"--config={_with_config(source, 'run').config}"]
    elif not (configs or _names(rest) & {"--model", "--model.class_path"}) and found.config.is_file():
        config = [f"--config={found.config}"]
    images = None
    if command in READS_IMAGES and (config or own):
        more += [default for default in _ONE_DEVICE if default.partition("=")[0] not in _names(rest)]
        if not _names(rest) & {*_OTHER_DATA}:
            paths, rest = _take(rest, "--data.path", several=True)
            images = paths or None
    return Arguments([name, *config, *rest, *more, f"--ckpt_path={found.file}"], images)


def _alone(file: Path, rest: list[str]) -> list[str]:
    """Return the arguments that take the place of the config of a run, for a student without the folder of its run.

    Raises:
        ConfigError: if the metadata of the file do not suffice, or if no images are given.
    """
    student = of_file(file, "run")
    given = _names(rest) & {"--data", "--data.class_path"}
    if not given and "--data.path" not in _names(rest):
        raise ConfigError(f"data.path: {file} is not in the folder of a run; give images as --data.path FOLDER")
    described = {"name": student.arguments["name"], "model_kwargs": student.arguments["model_kwargs"]}
    model = ["--model=Supervised", f"--model.student={json.dumps(described)}"]
    crop = student.facts.get("crop_ratio") or 1.0
    data = [f"--data={_NEW_IMAGES}", "--data.paths=[]", f"--data.size={student.facts['side']}"]
    return [*model, *([] if given else [*data, f"--data.crop_ratio={crop}"])]


def _with_config(found: Selected, field: str) -> Selected:
    if not found.config.is_file():
        raise ConfigError(
            f"{field}: {found.file} is not in the folder of a run, because {found.config} is missing; give the folder "
            f"of a run, or copy the run's {CONFIG} to this path"
        )
    return found


def _names(args: list[str]) -> set[str]:
    return {arg.partition("=")[0].removesuffix("+") for arg in args if arg.startswith("-")}


def _take(args: list[str], name: str, *, several: bool = False) -> tuple[list[str], list[str]]:
    """Return the values of an option, and the other arguments.

    Args:
        args: arguments of a command line.
        name: name of the option. Its value is given as `--name value` or `--name=value`.
        several: whether all words up to the next option are values, as the shell writes them for `*.jpg`.
    """
    values, others = [], []
    place = 0
    while place < len(args):
        word, place = args[place], place + 1
        if word.startswith(f"{name}="):
            values.append(word.removeprefix(f"{name}="))
        elif word == name and place < len(args):
            values.append(args[place])
            place += 1
        else:
            others.append(word)
            continue
        while several and place < len(args) and not args[place].startswith("-"):
            values.append(args[place])
            place += 1
    return values, others
