"""Check many command lines of `fit` in one process: `python -m kd_lightning.cli.resolve`, which `repeat` starts.

It reads a list of lists of arguments as JSON from stdin. It writes a list of answers as JSON to stdout. An answer has
the keys `config` (YAML, as `fit --print_config` prints it) and `notices` (lines), or the key `error`. The first error
is the last answer. With the argument `--build`, an answer with a config also has the key `refusal`: the error with
which `fit` would end before it creates the folder of the run, or ''.
"""

import contextlib
import copy
import io
import json
import sys
from typing import Any

from kd_lightning.cli.app import CLI, run
from kd_lightning.cli.registry import COMMANDS
from kd_lightning.commands.repeat.plan import last_error
from kd_lightning.commands.running import exit_on_error
from kd_lightning.data import ImageData
from kd_lightning.models import Network

_MOST_PARTS = 8
"""Largest number of data sets and networks in memory."""


class SharedParserCLI(CLI):
    """The CLI of `fit`, whose parser is built once. Parsing does not change the parser."""

    _built: dict[str, Any] = {}

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        if not self._built:
            before = {*vars(self)}
            super().setup_parser(*args, **kwargs)
            self._built.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(self._built)


class BuildingCLI(SharedParserCLI):
    """The CLI of `fit`, which builds the method, the data and the callbacks of a config, and then ends.

    It builds no loggers, because some of them connect to a server. Data sets and networks with equal arguments are
    built once for all configs.
    """

    _parts: dict[str, Any] = {}

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        self.config.fit.trainer.logger = False
        self.parser.add_instantiator(self._shared, ImageData)
        self.parser.add_instantiator(self._network, Network)

    def instantiate_trainer(self, **kwargs: Any) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def _shared(self, kind: type, **kwargs: Any) -> Any:
        try:
            key = json.dumps([kind.__qualname__, kwargs], sort_keys=True)
        except TypeError:  # an argument is an object
            return kind(**kwargs)
        if key not in self._parts:
            if len(self._parts) >= _MOST_PARTS:
                self._parts.clear()  # in place, because all instances share it
            self._parts[key] = kind(**kwargs)
        return self._parts[key]

    def _network(self, kind: type, **kwargs: Any) -> Any:
        return copy.deepcopy(self._shared(kind, **kwargs))  # a method freezes its teacher


def resolve(arguments: list[str]) -> dict[str, Any]:
    """Return the config of a command line of `fit` with the notices about it, or its error."""
    printed, lines, error = _run([*arguments, "--print_config"], SharedParserCLI)
    return {"error": error} if error else {"config": printed, "notices": lines}


def refusal(arguments: list[str]) -> str:
    """Return the error about an object that a command line of `fit` builds; '' if all objects can be built."""
    return _run(arguments, BuildingCLI)[2]


def _run(arguments: list[str], cli: type[CLI]) -> tuple[str, list[str], str]:
    """Run `fit` with another CLI. Return its output, the lines of its messages, and its error or ''."""
    printed, messages = io.StringIO(), io.StringIO()
    error = ""
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages), exit_on_error():
            run("fit", COMMANDS["fit"], ["fit", *arguments], cli)
    except SystemExit as ended:
        if ended.code:
            error = last_error(messages.getvalue(), ended.code)
    return printed.getvalue(), [line for line in messages.getvalue().splitlines() if line], error


def main() -> None:
    """Answer the request on stdin."""
    answers: list[dict[str, Any]] = []
    for arguments in json.load(sys.stdin):
        answers.append(resolve(arguments))
        if "error" in answers[-1]:
            break
        if "--build" in sys.argv[1:]:
            answers[-1]["refusal"] = refusal(arguments)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
