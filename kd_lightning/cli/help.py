"""The help of Lightning's subcommands: a short usage, how to find arguments, and the fields of a run first."""

from jsonargparse import ArgumentParser

from kd_lightning.cli.registry import COMMANDS

_COMMANDS = {
    "list": "methods, data sets, networks and evaluators",
    "{name} --model.help KD": "arguments of a method",
    "{name} --model.help my_file.MyMethod": "arguments of a method of your own",
    "{name} --data.help ImageFolder": "arguments of a data set",
}
_TEXT = "The value of a field on the command line replaces that in a config. A later config replaces an earlier one."
_RESUMES = (
    "Path of the last.ckpt of an interrupted run, or `last`. With `last`, the run with the id run.id is resumed; if no "
    "run has this id, a new run begins. With the path of another run's checkpoint, a new run begins with this state."
)
_EVALUATES = (
    "Path of a run's folder, of its config.yaml, or of a .ckpt file in the folder. For the folder and its config.yaml, "
    "the selected checkpoint of the run is used. With `null`, the weights of model.student are used."
)
_RUN = " RUN is a run's folder, its config.yaml, or a .ckpt file in the folder."
_STUDENT = " RUN may also be a student.safetensors in any folder."
_IMAGES = " With --data.path, the images of other folders, single images or lists of images (.txt, .csv) are read."
_OTHER = {
    "predict": " The command embed writes only embeddings.",
    "embed": " Its arguments are those of predict, which also writes the classes.",
}
"""Sentences about the commands that read images of any folder."""
_FIRST = ("model", "data", "run", "protocol", "speed", "guard")
"""Groups of fields in the order of the help; the fields of Lightning's Trainer and all others are below."""
_TEXTS = {
    "seed_everything": "Seed of all random numbers; true draws a seed.",
    "weights_only": "Always true, so that a checkpoint cannot run code; omit it.",
}


def improve(parser: ArgumentParser, name: str) -> None:
    """Change the help of a subcommand's parser. `name` is the name of the command in the help."""
    commands = {command.format(name=name): what for command, what in _COMMANDS.items()}
    width = max(map(len, commands))
    lines = "\n".join(f"  python -m kd_lightning {command:<{width}}  {what}" for command, what in commands.items())
    # argparse would join the lines of the description
    given = "[--config FILE]" if name == "fit" else "[RUN]"
    parser.usage = f"python -m kd_lightning {name} {given} [--FIELD VALUE] ...\n\nTo find arguments:\n{lines}"
    run = _RUN * (name != "fit") + (f"{_STUDENT}{_IMAGES}{_OTHER[name]}" if name in _OTHER else "")
    parser.description = f"{COMMANDS[name].description} {_TEXT}{run}"
    texts = {**_TEXTS, "ckpt_path": _RESUMES if name == "fit" else _EVALUATES}
    for action in parser._actions:
        action.help = texts.get(action.dest, action.help)
    for group in parser._action_groups:
        dests = {action.dest.partition(".")[0] for action in group._group_actions}
        if "trainer" in dests:
            group.title = "Fields of Lightning's Trainer"
        elif "ckpt_path" in dests:
            group.title = f"Further fields of {name}"
    parser._action_groups.sort(key=_place)


def _place(group: object) -> int:
    dests = {action.dest.partition(".")[0] for action in group._group_actions}
    if not dests:  # the links between fields
        return len(_FIRST) + 3
    if "help" in dests:
        return 0
    found = next((place for place, name in enumerate(_FIRST, start=1) if name in dests), None)
    return found or (len(_FIRST) + 1 if "ckpt_path" in dests else len(_FIRST) + 2)
