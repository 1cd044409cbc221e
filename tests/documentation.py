"""Code blocks of the pages of docs/, to be run by tests."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Block = tuple[str, str]
"""Heading and code."""


def page(name: str) -> str:
    """The text of a page: ``README.md``, ``docs/api.md``..."""
    return (ROOT / name).read_text(encoding="utf-8")


def python_blocks(name: str) -> list[Block]:
    """The Python blocks of a page, each with the heading above it."""
    heading, blocks = "", []
    for found in re.finditer(r"^(#+ [^\n]*)$|^```python\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL):
        if found[1] is not None:
            heading = found[1].lstrip("# ")
        else:
            blocks.append((heading, found[2]))
    return blocks


def output_and_comments(code: str, name: str) -> tuple[list[str], list[str]]:
    """What a block prints, by line, and what the comments behind its ``print`` calls say that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec", dont_inherit=True), {"__name__": "example"})
    return printed.getvalue().splitlines(), re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
