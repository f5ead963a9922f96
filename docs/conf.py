"""Sphinx: Markdown pages, tables made from the code (tables.py), and the API from docstrings."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
os.environ.setdefault("WANDB_MODE", "disabled")

project = "kd_lightning"
author = copyright = "The kd_lightning founders"
version = release = re.search(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.M)[1]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "tables",
]
templates_path = ["_templates"]
autosummary_context = {  # packages within packages have pages of their own
    "packages": [".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("kd_lightning/**/__init__.py")]
}
exclude_patterns = ["_build", "_templates"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # Lightning's docstrings refer to labels of its own pages
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {
    "members": True,
    "ignore-module-all": True,  # a package's page documents its modules, not what it imports from them
    "show-inheritance": True,
    "exclude-members": "__init__, __new__",
}
maximum_signature_line_length = 70
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"

html_theme = "furo"
html_title = f"kd_lightning {version}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = "$ "


_COLON = "\ue000"


def spare_colons(app, what, name, obj, options, lines: list[str]) -> None:
    """Hide colons from napoleon, which would treat the text before a colon in an attribute's line as its type."""
    if what in ("attribute", "data", "property"):
        lines[:] = [] if lines and lines[0].startswith("Alias for field number") else lines
        lines[:] = [line.replace(":", _COLON) for line in lines]


def plain(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape characters that reStructuredText would treat as links or substitutions: docstrings are plain text."""
    special = r"\||(?<![*\w])\*(?=\w)|\*(?=\*)|(?<=\*)\*(?!\w)|(?<=\w)_(?=\W|$)"
    for number, line in enumerate(lines):
        parts = re.split(r"(``?[^`]+``?)", line.replace(_COLON, ":"))
        parts[::2] = [re.sub(special, r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def short(app, what, name, obj, options, signature: str | None, returns: str | None) -> tuple | None:
    """Omit defaults that are functions; the docstring describes them."""
    return (re.sub(r"<function .*? at 0x\w+>", "...", signature), returns) if signature else None


def setup(app) -> None:
    app.connect("autodoc-process-docstring", spare_colons, priority=100)
    app.connect("autodoc-process-docstring", plain, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", short)
