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
_CHECKPOINT = {"fit": "Checkpoint of a run, from which training resumes."}
_FIRST = ("model", "data", "run", "protocol", "speed", "guard")
"""Groups of fields in the order of the help; the fields of Lightning's Trainer and all others are below."""
_TEXTS = {
    "seed_everything": "Seed of all random numbers; true draws a seed.",
    "weights_only": "Always true, so that a checkpoint cannot run code; omit it.",
}


def improve(parser: ArgumentParser, name: str) -> None:
    """Change the help of a subcommand's parser."""
    commands = {command.format(name=name): what for command, what in _COMMANDS.items()}
    width = max(map(len, commands))
    lines = "\n".join(f"  python -m kd_lightning {command:<{width}}  {what}" for command, what in commands.items())
    # argparse would join the lines of the description
    parser.usage = f"python -m kd_lightning {name} [--config FILE] [--FIELD VALUE] ...\n\nTo find arguments:\n{lines}"
    parser.description = f"{COMMANDS[name].description} {_TEXT}"
    texts = {**_TEXTS, "ckpt_path": _CHECKPOINT.get(name, "Checkpoint of a trained student.")}
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
