"""What a teacher says of itself against the data: the order of its classes."""

from typing import Protocol

from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.errors import ConfigError


class Teacher(Protocol):
    """What is asked of a teacher; models.Network has it."""

    name: str
    class_names: list[str] | None

    def fingerprint(self) -> str: ...


class Classes(Protocol):
    """What is asked of a data set."""

    class_names: list[str]
    class_ids: list[str]


def check_classes(teacher: Teacher, data: Classes) -> None:
    """Compares the teacher's class names, where it knows them, with the data's.

    Raises:
        ConfigError: if they are the same in another order; other names are warned of.
    """
    theirs, ours = teacher.class_names, data.class_names
    if not theirs or not ours or theirs == ours:
        return
    if data.class_ids and {*theirs} & {*data.class_ids}:
        ours = data.class_ids
    if theirs == ours:
        return
    if {*theirs} == {*ours}:
        place = next(number for number, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        raise ConfigError(
            f"teacher: {teacher.name} has the data's classes in another order: class {place} is {theirs[place]} to it "
            f"and {ours[place]} in the data; rename the folders, or train the teacher on these data"
        )
    if len(theirs) == len(ours):
        odd = next(number for number, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        rank_zero_warn(f"teacher {teacher.name} calls class {odd} {theirs[odd]!r}, the data call it {ours[odd]!r}")
