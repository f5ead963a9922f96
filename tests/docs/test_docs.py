"""The pages: they build without a warning, their links lead somewhere, and what they say is what the code says."""

import ast
import csv
import re
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from helpers.factories import METHODS
from sphinx.cmd.build import build_main
from test_docs_commands import PAGES, ROOT

DOCS = ROOT / "docs"
TEXTS = {page: page.read_text() for page in PAGES}
README = TEXTS[ROOT / "README.md"]


@pytest.fixture(scope="module")
def tables() -> object:
    """docs/tables.py."""
    sys.path.insert(0, str(DOCS))
    import tables

    yield tables
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    before, folder = [*sys.path], tmp_path_factory.mktemp("site")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Sphinx's own extensions about each other
            status = build_main(
                ["-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees"), str(DOCS), str(folder)]
            )
    finally:
        sys.path[:] = before
    assert status == 0, "a warning of Sphinx; it is on stderr"
    return folder


@pytest.mark.e2e
def test_every_page_is_built_and_reached_from_the_first(site: Path) -> None:
    first = (site / "index.html").read_text()
    for page in DOCS.rglob("*.md"):
        address = page.relative_to(DOCS).with_suffix(".html")
        if "_build" not in page.parts:
            assert (site / address).exists()
            assert f'href="{address}"' in first or page.stem == "index", address


@pytest.mark.e2e
def test_tables_and_docstrings_are_on_the_pages(site: Path) -> None:
    choosing = re.sub(r"<[^>]+>", "", (site / "methods.html").read_text())
    api = re.sub(r"<[^>]+>", "", (site / "api/generated/kd_lightning.methods.html").read_text())
    for kind in METHODS:
        assert kind.__name__ in choosing
        assert f"{kind.__module__}.{kind.__name__}" in api
    assert "sp_weight=3000" in choosing  # a default, from the signature
    assert "gamma). 3000 is meant for batches of about 128" in api  # an argument's line
    row = choosing[choosing.index("SEED: Self-supervised") :].partition("embedding")[0]
    assert row.split()[-1] == "none"  # its labels
    assert "at 0x" not in api  # a function's address
    results = (site / "results.html").read_text()
    assert "69.67 %" in results
    assert "78.8 ± 0.4 %" in results


def anchors(text: str) -> set[str]:
    """The headings of a page as GitHub and MyST name them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = address.partition("#")
        if path.startswith("http"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), address
        if anchor:
            assert anchor in anchors(target.read_text()), address


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_paths_and_code_that_are_shown_exist(page: Path) -> None:
    text = TEXTS[page]
    for path in re.findall(r"(?:configs|tests|notebooks|kd_lightning)/[\w./-]+?\.(?:yaml|py|ipynb)\b", text):
        assert (ROOT / path).exists(), path
    for folder in re.findall(r"`(\w+/(?:\w+/)*)`", text):
        if folder.split("/")[0] in ("kd_lightning", "configs", "tests", "notebooks"):
            assert (ROOT / folder).is_dir(), folder
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
        if "onnxruntime" not in code:  # an extra
            exec(compile(ast.Module(imports, []), str(page), "exec"), {})
    for code in re.findall(r"```yaml\n(.*?)```", text, re.S):
        assert yaml.safe_load(code)


def test_readme_names_each_method_once_with_its_paper(tables: object) -> None:
    section = README.partition("## Methods")[2].partition("\n## ")[0]
    for kind in METHODS:
        facts = tables.facts(kind.__name__)
        author, year = (re.search(pattern, facts.paper) for pattern in (r"^\w+", r"\d{4}"))
        row = f"`{facts.name}` ({author[0]} {year[0]})" if year else f"`{facts.name}`"
        assert section.count(row) == 1, f"add {row} to the table of methods in README.md"


def test_costs_are_of_methods_that_exist(tables: object) -> None:
    assert {*tables.costs()} <= {kind.__name__ for kind in METHODS}
    lines = (DOCS / "method-costs.csv").read_text().splitlines()
    assert [*csv.reader(lines[2:3])] == [["method", "times_kd"]]
    assert "benchmarks.methods --steps 1" in lines[0]


def test_facts_of_some_methods(tables: object) -> None:
    fitnet, seed, tintem = (tables.facts(name) for name in ("FitNet", "SEED", "TinTeM"))
    assert fitnet.labels == "optional, with another `layer`"
    assert "Conv2d" in fitnet.trains
    assert not fitnet.relates
    assert "65,536 embeddings" in seed.trains
    assert seed.relates
    assert tintem.reads == "embedding, tokens"
    assert tintem.arguments["ce_weight"] == 0
    assert tables.facts("KD").arguments == {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}
    assert not tables.facts("KD").relates


def said() -> list[re.Pattern[str]]:
    """All that the program may say, as patterns: strings of its source, what is filled in left open."""
    found = []
    for path in (ROOT / "kd_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
                texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
                if sum(len(text) for text in texts if isinstance(text, str)) > 12:
                    found.append([text if isinstance(text, str) else None for text in texts])
    return [re.compile(".*?".join("" if t is None else re.escape(t) for t in texts), re.S) for texts in found]


def test_troubleshooting_quotes_what_the_program_says() -> None:
    """Each part of a quoted line between two `...` stands in a string of the source."""
    text = "\x00".join(
        pattern.pattern.replace(".*?", "\x01").replace("\\", "") for pattern in said() if len(pattern.pattern) > 12
    )
    rows = re.findall(r"^\| `(.+?)` \|", TEXTS[DOCS / "troubleshooting.md"], re.M)
    assert len(rows) > 25
    for row in rows:
        for part in re.split(r"\.\.\.", row.replace("nearest: ...", "...").removesuffix("; ")):
            words = part.strip(" ;:'(),")
            assert len(words) < 6 or words in text, f"{row}: {words!r}"


def test_citation_is_whole() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license", "references"} <= {*cited}
    assert cited["authors"] == [{"name": "The kd_lightning founders"}]
    assert f"version = {cited['version']}\n" in (ROOT / "setup.cfg").read_text()
    numbers = {}
    for paper in cited["references"]:
        assert {"type", "title", "authors", "year"} <= {*paper}
        assert "doi" not in paper
        (identifier,) = paper["identifiers"]
        numbers[paper["title"]] = identifier["value"]
    sources = " ".join(path.read_text() for path in (ROOT / "kd_lightning/methods").glob("*.py"))
    for title, number in numbers.items():
        assert f'"{title}"' in sources, title
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", number)
    assert len(numbers) == 4
