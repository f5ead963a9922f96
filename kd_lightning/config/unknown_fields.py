"""One-line messages about a field that does not exist, with the full name of the field that is meant."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from kd_lightning.config.classes import arguments_of, import_class, subclasses
from kd_lightning.errors import nearest

_NETWORKS, _NETWORK = ("teacher", "student"), "kd_lightning.models.Network"
_NESTED = {
    "data": ("kd_lightning.data.ImageData",),
    "model": ("kd_lightning.distillation.StudentModule",),
    "model.optimizer": ("torch.optim.SGD", "torch.optim.AdamW"),
    "model.lr_scheduler": ("kd_lightning.optim.RunSchedule",),
    "model.student": (_NETWORK,),
    "model.teacher": (_NETWORK,),
}
"""Fields whose values are objects, and the base classes of the objects."""
_LINKED = {"data.seed", "model.student.num_classes"}
"""Arguments of classes that cannot be given, because they follow from other fields."""
_NOT_MEANT = {"predictions.path"}
"""Fields that are not meant by their last part alone, because another field is much more often meant."""
_ALIASES = {
    "trainer.max_epochs": "epochs epoch nepochs numepochs trainepochs",
    "trainer.max_steps": "steps iterations iters maxiters numsteps",
    "trainer.devices": "gpus gpu ngpus numgpus gpuids ndevices",
    "trainer.accelerator": "device cuda cpu",
    "trainer.strategy": "ddp distributed",
    "trainer.precision": "amp fp16 bf16 half mixedprecision",
    "trainer.num_nodes": "nodes nnodes",
    "trainer.gradient_clip_val": "clip gradclip clipgrad gradientclip maxgradnorm",
    "trainer.accumulate_grad_batches": "accumulate gradaccum accumsteps gradientaccumulationsteps",
    "seed_everything": "seed randomseed manualseed",
    "run.output_dir": "output out outdir outputfolder savedir logdir savefolder savepath resultsdir",
    "run.name": "experiment expname experimentname trial",
    "run.wandb": "usewandb nowandb wandbmode",
    "data": "dataset datamodule",
    "data.path": "dataset datadir dataroot root datafolder datasetpath imagedir imagefolder",
    "data.batch_size": "bs batch trainbatchsize",
    "data.num_workers": "workers j nworkers",
    "data.val_split": "valsize valfraction validationsplit",
    "data.size": "imgsize imagesize inputsize resolution",
    "data.augmentations": "aug augment augmentation",
    "model": "method distill distiller distillation loss",
    "model.student.name": "student models students arch backbone network studentmodel",
    "model.teacher.name": "teacher modelt teacherarch teachermodel",
    "model.teacher.checkpoint": "patht teacherpath teacherckpt teacherweights",
    "model.optimizer.lr": "learningrate lrate",
    "model.optimizer.weight_decay": "wd decay l2",
    "model.lr_scheduler": "scheduler schedule lrschedule sched",
    "model.temperature": "t temp tau kdt",
    "model.kd_weight": "alpha kdalpha lambda distillweight",
    "model.ce_weight": "alpha hardweight",
    "ckpt_path": "resume ckpt checkpoint load resumefrom restore",
}
"""For each field, further names that people use for it, without `_` and `-`."""


def unknown_field(message: str, field: str, options: set[str], class_path: str) -> str:
    """Return the message about a field that does not exist; '' if a message of jsonargparse is about anything else.

    Args:
        message: Message of jsonargparse (4.53).
        field: Field in which the unknown field was given, or ''.
        options: Names of the fields that the parser defines.
        class_path: Import path of the class whose argument was given, or ''.
    """
    if match := re.search(r"unrecognized arguments: --?([A-Za-z][^\s=]*)", message):
        return _at_top(match[1], options, "--")
    if match := re.search(r"^Subcommand .+ does not accept option '([^']+)'", message):
        return _at_top(match[1], options, "")
    if match := re.search(r"unrecognized arguments: (.+)", message):
        problem = f"{match[1]} is given without the name of a field"
        if "config" in options and match[1].endswith((".yaml", ".yml")):
            return f"{problem}; give a config as --config {match[1]}"
        if hint := _of_path(match[1], options):
            return f"{problem}; {hint}"
        return f"{problem}; choices: {', '.join(f'--{group}' for group in sorted(_groups(options)))}"
    match = re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([^']+)'(?: is not accepted)?", message)
    if not match:
        return ""
    group, name = match[1], match[2]
    is_network = bool(group) and group.split(".")[-1] in _NETWORKS
    choices = arguments_of(_NETWORK) if is_network else arguments_of(class_path)
    full_name = ".".join(filter(None, [field, group, name]))
    if "parts: " in field:
        if (argument := name.split(".")[0]) in (shared := arguments_of("kd_lightning.distillation.Combined")):
            return f"{field}.{argument}: all parts share this argument; set model.{argument} instead"
        choices -= shared
    if not group and name in choices:  # an argument of a base class that the class itself sets
        owner = class_path.rpartition(".")[2]
        return f"{full_name} is not an argument of {owner}{nearest(name, choices - {name})}"
    if name in choices:
        return f"{full_name}: this value is not valid; correct it, or omit the field to use the default"
    if "." not in full_name:
        return f"{full_name} is not a field{_meant(name, options) or nearest(name, _groups(options))}"
    if field == "model" and choices and name.split(".")[0] == "teacher":
        owner = class_path.rpartition(".")[2]
        return f"{full_name} is not an argument of {owner}, which has no teacher; remove it, or choose another method"
    owner = "Network" if is_network else class_path.rpartition(".")[2] or "the class"
    has_own_fields = "parts: " in field or field.startswith("trainer.callbacks")
    hint = "" if has_own_fields else _meant(name, options, but=full_name.rpartition(".")[0])
    return f"{full_name} is not an argument of {owner}{hint or nearest(name, choices)}"


def _of_path(given: str, options: set[str]) -> str:
    """Return how a path is given that has no name of a field: images for `predict`, a run for `fit`; '' for others."""
    if "predictions.output" in options:
        paths = [given] if os.path.exists(given) else given.split(" ")  # the shell writes several for *.jpg
        return f"give images as --data.path {given}" if all(map(os.path.exists, paths)) else ""
    path = Path(given)
    folder = path if path.is_dir() else path.parent
    if not {"ckpt_path", "run.id"} <= options or not path.exists() or not (folder / "config.yaml").is_file():
        return ""
    resumes = f"--config {folder / 'config.yaml'} --run.id {folder.absolute().name} --ckpt_path last"
    return f"to resume this run, give fit {resumes}; to evaluate it, give test {given}"


def _at_top(name: str, options: set[str], dashes: str) -> str:
    """Return the message about a complete name that was given on the command line (`dashes` is `--`) or in a config."""
    first, last = name.split(".")[0], name.split(".")[-1]
    if first in _NETWORKS and "." in name and "model" in options:  # jsonargparse removes the prefix `model.`
        hint = _meant(last, options, but=f"model.{first}", dashes=dashes)
        return f"model.{name} is not an argument of Network{hint or nearest(last, arguments_of(_NETWORK))}"
    if in_group := {option for option in options if option.startswith(f"{first}.")}:
        return f"{name} is not a field{_meant(last, options, within=first, dashes=dashes) or nearest(name, in_group)}"
    hint = "" if "." in name else _meant(name, options, dashes=dashes)
    return f"{first} is not a field{hint or nearest(first, _groups(options))}"


def _meant(name: str, options: set[str], *, but: str = "", within: str = "", dashes: str = "") -> str:
    """Return the end of a message with the fields that are meant by a name; '' if there are none, or too many.

    Args:
        name: Name that was given.
        options: Names of the fields that the parser defines.
        but: Group of fields that are not meant.
        within: Group of fields that is preferred.
        dashes: Text before each name.
    """
    found = [each for each in fields_meant(name, known_fields(options)) if each.rpartition(".")[0] != but or not but]
    found = [each for each in found if within and each.startswith(f"{within}.")] or found
    if not 1 <= len(found) <= 4:
        return ""
    shown = ", ".join(f"{dashes}{each}" for each in found)
    return f"; use {shown}" if len(found) == 1 else f"; use one of {shown}"


def fields_meant(name: str, fields: set[str]) -> list[str]:
    """Return the fields that are meant by a name that is not a field (`epochs`, `lr`, `batch-size`, `teacher`).

    These are the fields with this alias, and the fields whose last parts are the name (`data_path` for `data.path`). If
    there are none, they are the fields whose last part ends with the name (`workers` for `data.num_workers`).
    """
    known, plain = sorted(fields, key=lambda each: (each.count("."), each)), _plain(name)
    aliased = [each for each, aliases in _ALIASES.items() if plain in aliases.split() and each in known]
    named = [each for each in known if each not in _NOT_MEANT or plain == _plain(each.replace(".", ""))]
    named = [each for each in named if plain in _endings(each) and not any(a.startswith(f"{each}.") for a in aliased)]
    if aliased or named:
        return list(dict.fromkeys([*aliased, *named]))
    return [each for each in known if len(plain) > 3 and _plain(each.split(".")[-1]).endswith(plain)]


def known_fields(options: set[str]) -> set[str]:
    """Return the names of all fields, with those of the objects in a config."""
    own = {option for option in options if not option.endswith(".help")}
    if not {"model", "data"} <= options:  # the command takes no config
        return own
    kinds = {field: [kind for path in paths for kind in _with_subclasses(path)] for field, paths in _NESTED.items()}
    nested = {f"{field}.{name}" for field, each in kinds.items() for kind in each for name in arguments_of(kind)}
    return (own | nested) - _LINKED


def _with_subclasses(class_path: str) -> Iterable[str]:
    kind = import_class(class_path)
    own = [one for one in subclasses(kind) if one.__module__.startswith("kd_lightning.")] if kind else []
    return [class_path, *(f"{one.__module__}.{one.__qualname__}" for one in own)]


def _groups(options: set[str]) -> set[str]:
    return {option.split(".")[0] for option in options}


def _endings(field: str) -> set[str]:
    parts = field.split(".")
    return {_plain("".join(parts[start:])) for start in range(len(parts))}


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
