"""Limits on YAML are ours, whatever the limits of PyYAML's two parsers are."""

import pytest
import yaml
from helpers.messages import message_of

from kd_lightning.io import safe_yaml
from kd_lightning.io.safe_yaml import DEEPEST, MOST_VALUES, load_yaml

DEEP = f"nested more than {DEEPEST} levels deep"


class Shallow(yaml.SafeLoader):
    """A parser with a limit of its own, as PyYAML's has from 6.0.4 on, little above ours."""

    def fetch_flow_collection_start(self, token: type) -> None:
        if self.flow_level > DEEPEST + 5:
            raise yaml.scanner.ScannerError(None, None, "too deep for this parser", self.get_mark())
        super().fetch_flow_collection_start(token)


LOADERS = [yaml.SafeLoader, Shallow, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__, autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.setattr(safe_yaml, "_Loader", request.param)
    return request.param


def lists(count: int) -> str:
    return f"{'[' * count}{']' * count}"


CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 70))
DOUBLED = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 20))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lists(DEEPEST + 1), DEEP),
        (lists(100_000), DEEP),
        (lists(100_000)[:100_000], DEEP),
        (f"a:\n  {'- ' * 3000}x", DEEP),
        (f"{'- ' * (DEEPEST + 1)}x", DEEP),
        (f"{'? ' * 3000}x", DEEP),
        ("{a: " * 1100 + "}" * 1100, DEEP),
        ("".join(f"{' ' * n}k:\n" for n in range(DEEPEST + 2)), DEEP),
        (CHAIN, DEEP),
        (DOUBLED, f"more than {MOST_VALUES:,} values"),
        (f"[{'1,' * (MOST_VALUES + 1)}]", f"more than {MOST_VALUES:,} values"),
        ("#" * 1_000_001, "more than 1,000,000 characters"),
        ("b: 1\na: &x [*x]", "line 2: the value &x contains itself"),
        ("a: &x {b: [1, {c: *x}]}", "line 1: the value &x contains itself"),
        ("a: *x", r"line 1: there is no &x before \*x"),
        ("a: *x\nb: &x 1", r"line 1: there is no &x before \*x"),
        ("a: 1\nb: {c: 1, d: {c: 1}, c: 2}", "'c' is given twice in the table that begins in line 2"),
        ("{&a x: 1, *a : 2}", "'x' is given twice in the table that begins in line 1"),
        ("a: 1\n---\na: 1", "line 2: a second document begins"),
        ("a:\n  !!python/name:os.system x", "line 2: !!python/name:os.system asks for an object"),
        ("a: !mine {b: 1}", "line 1: !mine asks for an object"),
        ("a: !!timestamp x", "a value does not fit its type"),
        ("a: !!float ''", "a value does not fit its type"),
        ("a: !!bool x", "a value does not fit its type"),
        ("a: 0x_", "a value does not fit its type"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError, match=words):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        lists(DEEPEST),
        f"{'- ' * DEEPEST}x",
        f"[{'1,' * (MOST_VALUES - 1)}]",
        "base: &x {a: 1, b: [2, 3]}\none: {<<: *x, b: 4}\ntwo: [*x, *x]",
        "[{a: 1}, {a: 1}]",
        "a: !!str 1\nb: ! 2",
        f"a: '{'[' * 200}'\nb: \"{'{' * 200}\" # {'[' * 200}",
    ],
)
def test_what_passes_is_what_pyyaml_reads(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: b\n\tc: d",
        "a: {b",
        "a: b: c",
        "a\0",
        f"a: '{'[' * 200}'\nb: [",
        f"a: x{'[' * 60}\nb: c: d",
        f"a: |\n  {'[' * 60}\nb: [",
        f"a: '{'[' * 60}\n",
        f"a: 1\n{'-' * 60}: x: y",
        f"a: # {'[' * 60}\n  b: c: d",
    ],
)
def test_wrong_syntax_has_pyyamls_words(text: str, loader: type) -> None:
    assert message_of(lambda: load_yaml(text)) == message_of(lambda: yaml.load(text, Loader=loader))
