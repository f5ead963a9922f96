"""Check that the arguments of a command name one run, and that this is a run and not a folder of images."""

from itertools import islice
from pathlib import Path

from kd_lightning.data.files import SUFFIXES
from kd_lightning.data.new_images import LISTS
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import expand
from kd_lightning.runs.resume import no_checkpoint
from kd_lightning.runs.selected import BEST, CONFIG, LAST, WEIGHTS, is_run, nearest_runs

_LIGHTNINGS_WORDS = ("best", "last", "hpc", "registry")
"""Values of ckpt_path that have a meaning in Lightning's own commands."""
_MOST_VISITED = 1000
"""Number of files and folders among which an image is searched."""


def check_run(run: str, following: list[str]) -> None:
    """Check the first argument of a command such as `predict`, and the argument that follows it.

    Raises:
        ConfigError: if the first argument is the path of images instead of a run, or if another run follows.
    """
    if following and not following[0].startswith("-") and _folder(following[0]):
        raise ConfigError(f"run: two runs are given, {run} and {following[0]}; give only one of them")
    path = expand(run)
    if _folder(run) is None and _has_images(path):
        raise ConfigError(
            f"run: {run} is not a run but images; the first argument is the folder of a run, and images are given "
            f"as --data.path {run}{nearest_runs(path.parent, 'newest runs')}"
        )


def check_checkpoint_of(run: str | None, checkpoint: str) -> None:
    """Check the value of `--ckpt_path`, together with the run that is the first argument of the command.

    Raises:
        ConfigError: if the value is a word such as `best`, or if it belongs to another run than the first argument.
    """
    if checkpoint in _LIGHTNINGS_WORDS and not Path(checkpoint).exists():
        folder = run and _folder(run)
        hint = f"give the folder of a run, whose selected checkpoint is used{nearest_runs(Path(), 'newest runs')}"
        if folder:
            files = [str(folder / name) for name in (BEST, LAST) if (folder / name).is_file()]
            others = f", or give --ckpt_path {' or '.join(files)}" if files else ""
            hint = f"omit it, because the selected checkpoint of {run} is used by default{others}"
        raise ConfigError(no_checkpoint(checkpoint, hint))
    if run is not None and (folder := _folder(run)):
        given = expand(checkpoint)
        if given.exists() and folder.resolve() not in (given.resolve(), *given.resolve().parents):
            raise ConfigError(
                f"ckpt_path: two runs are given, because {checkpoint} is not in {folder}; give only one of them"
            )


def _folder(run: str) -> Path | None:
    """Return the folder of the run that a path means; None if the path does not mean a run."""
    path = expand(run)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or path.name == CONFIG:
        return folder if is_run(folder) else None
    return folder if path.is_file() and path.suffix in WEIGHTS else None


def _has_images(path: Path) -> bool:
    """Return whether a path is an image, a list of images, or a folder with images and without a run."""
    if not path.is_dir():
        return path.is_file() and path.suffix.lower() in SUFFIXES | LISTS.keys()
    if (path / CONFIG).exists() or nearest_runs(path, "runs below it").startswith("; runs below it"):
        return False
    return any(each.suffix.lower() in SUFFIXES for each in islice(path.rglob("*"), _MOST_VISITED))
