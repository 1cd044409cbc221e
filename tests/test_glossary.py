"""Pages for people who run machines explain the words of the field, and the glossary has them all."""

from __future__ import annotations

import re

import pytest
from tests.documentation import page

GLOSSARY = "docs/glossary.md"
FIELD = [
    "ArcFace",
    "AUC",
    "attribute",
    "back-end",
    "calibration",
    "conformal",
    "domain",
    "embedding",
    "encoder",
    "fusion",
    "leave-one-out",
    "log-mel",
    "LoRA",
    "pAUC",
    "pooling",
    "token",
    "VarMin",
]
"""Words of the field that a maintainer need not know."""

PAGES = (
    *("README.md", "docs/index.md", "docs/tutorial.md", "docs/detector.md", "docs/export.md"),
    *("docs/layouts.md", "docs/watch.md", "docs/tutorial-watch.md", "docs/install.md", "docs/notebooks.md"),
)
ACCESS = ("docs/watch.md", "docs/tutorial-watch.md", "docs/install.md")
"""Pages on which a token is a password."""


def words_of(name: str) -> list[str]:
    """The words of the field in the text of a page, outside code and addresses."""
    text = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", page(name), flags=re.DOTALL)
    wanted = [word for word in FIELD if not (word == "token" and name in ACCESS)]
    return [word for word in wanted if re.search(rf"\b{word}s?\b", text, re.IGNORECASE)]


def explained() -> list[str]:
    """The entries of the glossary."""
    rows = re.findall(r"^\| ([^|]+) \|", page(GLOSSARY), re.MULTILINE)
    return [row for row in rows if row != "word"]


def test_every_word_of_the_field_is_in_the_glossary_in_order() -> None:
    words = explained()
    assert words == sorted(words, key=str.casefold)
    assert {word.casefold() for word in FIELD} <= {word.casefold() for word in words}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_uses_a_word_of_the_field_leads_to_the_glossary(name: str) -> None:
    if words := words_of(name):
        assert "glossary.md" in page(name), f"{name} says {', '.join(words)} without a link to the glossary"


def test_words_are_found_in_pages() -> None:
    assert {"domain", "conformal"} <= set(words_of("docs/detector.md"))
