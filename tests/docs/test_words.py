"""Texts for people use the field's words, in plain English: words that readers had to read twice do not come back."""

import re

import pytest
from helpers.texts import docstrings, function_docstrings, messages, pages

AVOIDED = {
    r"\bours\b|\btheirs\b": "student, teacher",
    r"\bfor ever\b": "always, once",
    r"\b(?:goes|gone|went|go) on (?:with|from)\b": "resume, continue",
    r"\bbeside\b": "in addition to, next to, together with",
    r"\bbehind (?:a|the|it|that)\b": "after",
    r"\bjudged?\b": "evaluate, select",
    r"(?<!linear )(?<!Linear )\bprobes?\b": "evaluator",
    r"\ba (?:folder|line|row) a\b": "one ... per ...",
    r"\bknows no\b|\bsays no\b": "does not know, raises an error",
    r"\b(?:is|are|be) refused\b|\brefuses\b": "raises an error, does not accept",
    r"\b[Ww]e (?:chose|know|recall|remember|have not)\b|\bto us\b|\b[Oo]ur\b": "a sentence without we",
}
"""Patterns, and what to write in their place."""
TEXTS = [*messages(), *docstrings(), *pages()]


@pytest.mark.parametrize("pattern", AVOIDED)
def test_no_text_has_a_word_that_readers_stopped_at(pattern: str) -> None:
    found = [f"{text.place}: {hit[0]}" for text in TEXTS if (hit := re.search(pattern, " ".join(text.text.split())))]
    assert not found, f"write {AVOIDED[pattern]}: {found}"


def test_the_texts_are_found() -> None:
    kinds = [text.kind for text in TEXTS]
    assert all(kinds.count(kind) > 20 for kind in ("error", "warning", "docstring", "page"))


def test_an_error_is_one_line() -> None:
    wrong = [text for text in messages() if text.kind == "error" and "\n" in text.text]
    assert not wrong


def test_docstrings_of_functions_start_with_a_verb() -> None:
    """As in `Return the rows`; a property may be a noun."""
    nouns = re.compile(r"(?:The|A|An|How|What|Which|Whether|Who|Where|As|One|All|Each|This|Its)\b|[A-Z],")
    wrong = [text.place for text in function_docstrings() if nouns.match(text.text)]
    assert not wrong
