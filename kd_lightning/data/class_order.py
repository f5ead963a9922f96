"""Check that teacher and data have the classes in the same order."""

from typing import Protocol

from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.errors import ConfigError


class Teacher(Protocol):
    """Attributes of a teacher that this module uses. models.Network has them."""

    name: str
    class_names: list[str] | None

    def fingerprint(self) -> str: ...


class Classes(Protocol):
    """Attributes of a data set that this module uses."""

    class_names: list[str]
    class_ids: list[str]


def check_classes(teacher: Teacher, data: Classes) -> None:
    """Compare the class names of the teacher with the class names of the data, and warn about different names.

    Nothing is compared if the names of the teacher's classes are unknown.

    Raises:
        ConfigError: if the names are the same, but in another order.
    """
    teacher_names, data_names = teacher.class_names, data.class_names
    if not teacher_names or not data_names or teacher_names == data_names:
        return
    if data.class_ids and {*teacher_names} & {*data.class_ids}:
        data_names = data.class_ids
    if teacher_names == data_names:
        return
    same_names = {*teacher_names} == {*data_names}
    if not same_names and len(teacher_names) != len(data_names):
        return
    pairs = enumerate(zip(teacher_names, data_names, strict=True))
    number, teacher_name, data_name = next((number, a, b) for number, (a, b) in pairs if a != b)
    if same_names:
        raise ConfigError(
            f"teacher: {teacher.name} has the data's classes in another order: class {number} is {teacher_name} for "
            f"the teacher and {data_name} in the data; rename the folders, or train the teacher on these data"
        )
    rank_zero_warn(
        f"teacher {teacher.name} calls class {number} {teacher_name!r}, but the data call it {data_name!r}; check that "
        "both have the same classes in the same order"
    )
