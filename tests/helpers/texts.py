"""All texts that people read, from the source: messages, docstrings and pages.

`python tests/helpers/texts.py` prints a table of the messages: the place, the kind, and the text with its fields.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
KINDS = {
    "ConfigError": "error",
    "RunError": "error",
    "rank_zero_warn": "warning",
    "warn": "warning",
    "warn_once": "warning",
    "rank_zero_info": "note",
}
"""The kind of message by the name of the function that is called with it."""


class Text(NamedTuple):
    """A text and its place."""

    place: str
    """File and line."""
    kind: str
    """`error`, `warning`, `note`, `docstring` or `page`."""
    text: str
    """With {fields}, as in the source."""


def messages() -> Iterator[Text]:
    """Yield every error, warning and note of the package whose text stands where it is raised."""
    for path, node in _nodes(ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in KINDS and node.args and (text := _written(node.args[0])):
            yield Text(f"{path.relative_to(ROOT)}:{node.lineno}", KINDS[name], text)


def docstrings() -> Iterator[Text]:
    """Yield every docstring of the package, those of attributes included."""
    for path, node in _nodes(ast.Expr):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield Text(f"{path.relative_to(ROOT)}:{node.lineno}", "docstring", node.value.value)


def function_docstrings() -> Iterator[Text]:
    """Yield the docstrings of functions and methods that are no properties."""
    for path, node in _nodes(ast.FunctionDef):
        text = ast.get_docstring(node)
        if text and not any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
            yield Text(f"{path.relative_to(ROOT)}:{node.lineno}", "docstring", text)


def pages() -> Iterator[Text]:
    """Yield the prose of README, CONTRIBUTING, CHANGELOG, docs/ and docker/, line by line, without code."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docker/*.md")]:
        in_code = False
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            in_code ^= line.lstrip().startswith("```")
            if not in_code:
                yield Text(f"{path.relative_to(ROOT)}:{number}", "page", re.sub(r"`[^`]*`", "``", line))


def _nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, Any]]:
    for path in sorted((ROOT / "kd_lightning").rglob("*.py")):
        yield from ((path, node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind))


def _written(node: ast.expr) -> str:
    """Return the text of a string in the source with its {fields}; an empty string for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}" for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _written(node.left) + _written(node.right)
    return ""


if __name__ == "__main__":
    for found in messages():
        print(f"{found.place:60} {found.kind:8} {found.text}")
