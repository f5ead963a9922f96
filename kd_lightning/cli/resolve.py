"""Check many command lines of `fit` in one process: `python -m kd_lightning.cli.resolve`, which `repeat` starts.

It reads a list of lists of arguments as JSON from stdin. It writes a list of answers as JSON to stdout. An answer has
the keys `config` (YAML, as `fit --print_config` prints it) and `notices` (lines), or the key `error`. The first error
is the last answer.
"""

import contextlib
import io
import json
import sys
from typing import Any

from kd_lightning.cli.app import CLI, run
from kd_lightning.cli.registry import COMMANDS
from kd_lightning.commands.running import exit_on_error


class SharedParserCLI(CLI):
    """The CLI of `fit`, whose parser is built once. Parsing does not change the parser."""

    _built: dict[str, Any] = {}

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        if not self._built:
            before = {*vars(self)}
            super().setup_parser(*args, **kwargs)
            self._built.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(self._built)


def resolve(arguments: list[str]) -> dict[str, Any]:
    """Return the config of a command line of `fit` with the notices about it, or its error."""
    printed, messages = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages), exit_on_error():
            run("fit", COMMANDS["fit"], ["fit", *arguments, "--print_config"], SharedParserCLI)
    except SystemExit as ended:
        lines = [line for line in messages.getvalue().splitlines() if line]
        if ended.code:
            errors = [line for line in lines if line.startswith("error: ")]
            return {"error": (errors or lines or [f"it ended with status {ended.code}"])[-1].removeprefix("error: ")}
    return {"config": printed.getvalue(), "notices": lines}


def main() -> None:
    """Answer the request on stdin."""
    answers: list[dict[str, Any]] = []
    for arguments in json.load(sys.stdin):
        answers.append(resolve(arguments))
        if "error" in answers[-1]:
            break
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
