"""The settings that a sweep varies: all combinations of lists of values, or a random sample of them."""

import hashlib
import json
import math
import random
import re
from itertools import product
from typing import Any, NamedTuple

import yaml

from kd_lightning.config.texts import load
from kd_lightning.errors import ConfigError, check_positive, nearest
from kd_lightning.runs.differences import short_names

MOST_RUNS = 10_000
SCALES = ("linear", "log")
_RANGE = ("min", "max", "scale")
_RESERVED = {
    "seed_everything": "use --seeds",
    "run": "repeat names the runs by their settings",
    "config": "use --configs",
    "ckpt_path": "repeat resumes each run from its own last.ckpt",
}
_LONGEST = 100
"""Largest number of characters of the part of a run's name that names its settings."""


class Range(NamedTuple):
    """Numbers from `low` to `high`, uniform or log-uniform. If both are integers, only integers are drawn."""

    low: float
    high: float
    scale: str

    def draw(self, generator: random.Random) -> float:
        """Return a random number of the range with three significant digits, or a random integer of the range."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            if self.scale == "linear":
                return generator.randint(self.low, self.high)
            # each integer has the share of the logarithmic axis from half below it to half above it
            number = round(math.exp(generator.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))))
            return min(max(number, self.low), self.high)
        if self.scale == "linear":
            number = generator.uniform(self.low, self.high)
        else:
            number = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return min(max(float(f"{number:.3g}"), self.low), self.high)


Values = list[Any] | Range


def combinations(sweep: list[str], sample: int | None, sample_seed: int) -> list[dict[str, Any]]:
    """Return the combinations of settings of a sweep, as dicts from fields to values; `[{}]` without a sweep.

    Args:
        sweep: texts `FIELD=VALUES`. VALUES is a list, or a range `{min: 1e-4, max: 1e-1, scale: log}`.
        sample: number of combinations to draw. Default: all combinations.
        sample_seed: seed of the random numbers. A larger sample with the same seed begins with the smaller sample.

    Raises:
        ConfigError: for invalid values, and for a sample that is larger than the number of combinations.
    """
    fields = dict(_parse(text) for text in sweep)
    if len(fields) < len(sweep):
        names = [_parse(text)[0] for text in sweep]
        raise ConfigError(f"sweep: {next(name for name in names if names.count(name) > 1)} is given twice")
    ranges = [name for name, values in fields.items() if isinstance(values, Range)]
    if sample is None:
        if ranges:
            raise ConfigError(f"sweep: {ranges[0]} is a range; give the number of random combinations as --sample")
        _check_count(math.prod(len(values) for values in fields.values()))
        return [dict(zip(fields, values, strict=True)) for values in product(*fields.values())]
    check_positive(sample=sample)
    if not fields:
        raise ConfigError("sample: there is nothing to sample; give fields and their values as --sweep")
    _check_count(sample)
    count = math.inf if ranges else math.prod(len(values) for values in fields.values())
    if sample > count:
        raise ConfigError(f"sample: {sample} is more than the {count} combinations of --sweep")
    return _draw(fields, sample, random.Random(sample_seed))


def with_settings(settings: dict[str, Any], arguments: list[str]) -> list[str]:
    """Return the arguments of `fit` for some settings, together with further arguments.

    The settings precede the further arguments. If a further argument replaces a class, the settings of this class
    follow it: `--model RKD --model.angle_weight=1`.
    """
    line = [*arguments]
    before = []
    for field, value in settings.items():
        text = f"--{field}={value if isinstance(value, str) else json.dumps(value)}"
        if place := _end_of_class(field, line):
            line.insert(place, text)
        else:
            before.append(text)
    return [*before, *line]


def _end_of_class(field: str, arguments: list[str]) -> int:
    """Return the place after the last argument that replaces a class with this field; 0 if there is none."""
    place = 0
    for number, argument in enumerate(arguments):
        name, sign, _ = argument.partition("=")
        if name.startswith("--") and field.startswith(f"{name.removeprefix('--')}."):
            place = number + 1 if sign else number + 2
    return min(place, len(arguments))


def in_words(settings: dict[str, Any]) -> str:
    """Return settings as a short text without spaces, such as `sp_weight=300,lr=0.1`, for the name of a run."""
    names = short_names(settings)
    text = ",".join(f"{names[field]}={_value(value)}" for field, value in settings.items())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 9]}-{_digest(settings)}"


def _parse(text: str) -> tuple[str, Values]:
    field, sign, values = text.partition("=")
    if not sign or not re.fullmatch(r"\w+(\.\w+)*", field):
        raise ConfigError(f"sweep: {text!r} is not FIELD=VALUES; an example is model.optimizer.lr='[0.05, 0.1]'")
    if reason := next((why for name, why in _RESERVED.items() if field == name or field.startswith(f"{name}.")), ""):
        raise ConfigError(f"sweep: {field} cannot be varied; {reason}")
    try:
        content = load(values)
    except yaml.YAMLError as error:
        raise ConfigError(f"sweep: {field}: {values!r} is not valid YAML; give a list such as [1, 2]") from error
    if isinstance(content, dict):
        return field, _range(field, content)
    if not isinstance(content, list) or not content:
        raise ConfigError(f"sweep: {field}: {values!r} is not a list of values; write [{values}]")
    for number, value in enumerate(content):
        if any(value == other and type(value) is type(other) for other in content[:number]):
            raise ConfigError(f"sweep: {field}: {value} is given twice")
    return field, content


def _range(field: str, content: dict[str, Any]) -> Range:
    if unknown := [key for key in content if key not in _RANGE]:
        raise ConfigError(f"sweep: {field}: {unknown[0]} is not a field of a range{nearest(str(unknown[0]), _RANGE)}")
    low, high, scale = content.get("min"), content.get("max"), content.get("scale", "linear")
    for name, bound in (("min", low), ("max", high)):
        if type(bound) not in (int, float) or not math.isfinite(bound):
            raise ConfigError(f"sweep: {field}: {name} of a range is {bound}, not a number")
    if not low < high:
        raise ConfigError(f"sweep: {field}: min {low} is not below max {high}")
    if scale not in SCALES:
        raise ConfigError(f"sweep: {field}: {scale!r} is not a valid scale{nearest(str(scale), SCALES)}")
    if scale == "log" and low <= 0:
        raise ConfigError(f"sweep: {field}: min {low} is not above 0, which the scale log needs")
    return Range(low, high, scale)


def _draw(fields: dict[str, Values], sample: int, generator: random.Random) -> list[dict[str, Any]]:
    drawn: dict[str, dict[str, Any]] = {}
    for _ in range(1000 * sample):
        settings = {
            name: values.draw(generator) if isinstance(values, Range) else generator.choice(values)
            for name, values in fields.items()
        }
        drawn.setdefault(json.dumps(settings), settings)
        if len(drawn) == sample:
            return [*drawn.values()]
    raise ConfigError(f"sample: only {len(drawn)} of {sample} different combinations were found; give a smaller number")


def _check_count(count: int) -> None:
    if count > MOST_RUNS:
        raise ConfigError(f"sweep: {count:,} combinations are more than {MOST_RUNS:,}; give fewer values, or --sample")


def _value(value: Any) -> str:
    """Return a value as text with only letters, digits and `._+-`; a text that lost characters ends in its hash."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("_.")[:24]
    return plain if plain == text else f"{plain}-{_digest(value)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def insert(name: str, settings: dict[str, Any]) -> str:
    """Return the name of a run with its settings, before the seed if the name ends in it."""
    if not settings:
        return name
    start, seed, end = name.rpartition("-s{seed}")
    return f"{start}-{in_words(settings)}{seed}{end}" if seed else f"{name}-{in_words(settings)}"
