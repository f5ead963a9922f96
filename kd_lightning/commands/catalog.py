"""Facts about the classes of the package, read from its source files without importing them."""

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
_PAPER = re.compile(r"\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)")
Row = dict[str, str]


def methods() -> list[Row]:
    """Return a row for each method: name, paper, whether its defaults need labels, and the features that it reads."""
    return [
        {"name": name, "paper": paper_of(name), "labels": _labels_of_method(name), "reads": ", ".join(reads_of(name))}
        for name in [*exported("methods"), "Combined"]
    ]


def data_sets() -> list[Row]:
    """Return a row for each data set: name, description, and arguments without a default."""
    names = [name for name in exported("data") if "ImageData" in ancestors(name)[1:]]
    return [{"name": name, "images": summary(name), "required": ", ".join(required(name))} for name in names]


def networks() -> list[Row]:
    """Return a row for each family of networks for 32-pixel images: names of its models, and description."""
    rows = []
    for path in sorted((PACKAGE / "models/cifar").glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node in body:
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                names = ", ".join(_keys(call.args[1], _constants(body)))
                rows.append({"name": names, "network": summary(call.args[0].id)})
    return rows


def _keys(node: ast.expr, constants: dict[str, Any]) -> Iterator[str]:
    """Yield the keys of a dict. It is a literal, a comprehension with f-strings as keys, or a combination of both."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield from _keys(value, constants) if key is None else [ast.literal_eval(key)]
    elif isinstance(node, ast.DictComp) and isinstance(node.key, ast.JoinedStr):
        (loop,) = node.generators
        names = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        for item in _values(loop.iter, constants):
            scope = dict(zip([name.id for name in names], item if len(names) > 1 else [item], strict=True))
            parts = (part.value if isinstance(part, ast.Constant) else scope[part.value.id] for part in node.key.values)
            yield "".join(map(str, parts))


def _values(node: ast.expr, constants: dict[str, Any]) -> Iterable[Any]:
    """Return the values of a loop's iterable: a literal, a constant of the module, or the items of such a constant."""
    if isinstance(node, ast.Call):
        return constants[node.func.value.id].items()
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _constants(body: list[ast.stmt]) -> dict[str, Any]:
    """Return the names in a module to which literals are assigned, with their values."""
    constants: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                constants[node.targets[0].id] = ast.literal_eval(node.value)
    return constants


def evaluators() -> list[Row]:
    """Return a row for each evaluator: name, description of its metrics, and whether it needs labels."""
    names = [name for name in exported("evaluation") if "Evaluator" in ancestors(name)[1:]]
    return [{"name": name, "logs": summary(name), "labels": _labels_of_evaluator(name)} for name in names]


def exported(package: str) -> list[str]:
    """Return the names in a package's `__all__`, sorted case-insensitively."""
    for node in ast.parse((PACKAGE / package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    return []


@cache
def _classes() -> dict[str, ast.ClassDef]:
    folders = ("methods", "distillation", "data", "evaluation", "models/cifar")
    return {node.name: node for f in folders for node in _statements(f) if isinstance(node, ast.ClassDef)}


def _statements(folder: str) -> Iterator[ast.stmt]:
    for path in sorted((PACKAGE / folder).glob("*.py")):
        yield from ast.parse(path.read_text(encoding="utf-8")).body


def ancestors(name: str) -> list[str]:
    """Return the names of a class and of its bases in the package, nearest first."""
    node = _classes().get(name)
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)] if node else []
    return [name, *(above for base in bases for above in ancestors(base))] if node else []


def summary(name: str) -> str:
    """Return the first paragraph of a class's docstring on one line, without backticks."""
    text = ast.get_docstring(_classes()[name]) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("`", "")


def paper_of(name: str) -> str:
    """Return authors, year and title of a method's paper; the first line of its docstring has them in parentheses."""
    match = _PAPER.search(summary(name))
    return match[1].replace('"', "") if match else ""


def reads_of(name: str) -> list[str]:
    """Return the features of the teacher that a method's `teacher_reads`, or else its `reads`, names.

    They are a set of strings or a call of `Reads(...)`.
    """
    for node in (*_attribute(name, "teacher_reads"), *_attribute(name, "reads")):
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        typed = [key.arg for call in calls if getattr(call.func, "id", "") == "Reads" for key in call.keywords]
        if features := [text for text in typed if text] or _texts(node):
            return sorted(set(features))
    return []


def required(name: str) -> list[str]:
    """Return those arguments of a class's constructor that have no default; the constructor may be inherited."""
    for above in ancestors(name):
        for node in _classes()[above].body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                arguments = node.args
                pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
                positional = arguments.args[1 : len(arguments.args) - len(arguments.defaults)]
                return [each.arg for each in positional] + [each.arg for each, default in pairs if default is None]
    return []


def default_of(name: str, argument: str) -> object:
    """Return the default of a keyword argument of a class, or of its nearest base that has it; otherwise None."""
    for above in ancestors(name):
        for node in _classes()[above].body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                    if each.arg == argument and isinstance(default, ast.Constant):
                        return default.value
    return None


def _labels_of_method(name: str) -> str:
    """Return `no` if the default weight of the cross-entropy with the labels is 0, otherwise `yes`."""
    return "no" if default_of(name, "ce_weight") == 0 else "yes"


def _labels_of_evaluator(name: str) -> str:
    node = next(_attribute(name, "needs_labels"))
    return "yes" if ast.literal_eval(node.value) else "no"


def _attribute(name: str, attribute: str) -> Iterator[ast.stmt]:
    """Yield the statements that define an attribute in a class or in its bases, nearest first."""
    for above in ancestors(name):
        for node in _classes()[above].body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", node)
            if getattr(target, "id", getattr(target, "name", "")) == attribute:
                yield node


def _texts(node: ast.stmt) -> list[str]:
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return []
    return [
        each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
