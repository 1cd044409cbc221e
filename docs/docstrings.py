"""Extension of griffe: what docstrings write in reStructuredText becomes Markdown, for docs/python.md."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`")
EXAMPLE = re.compile(r"(?:^ *(?:>>>|\.\.\.) .*\n?)+", re.MULTILINE)
LITERAL = re.compile(r"::\n\n((?: {4,}.*\n?|\n(?= {4}))+)")


def markdown(text: str) -> str:
    """A docstring with roles as code, and examples and literal blocks as fenced code.

    >>> markdown("Made by :meth:`fit`.")
    'Made by `fit`.'
    """
    text = ROLE.sub(r"`\1`", text)
    text = LITERAL.sub(lambda found: f":\n\n```text\n{dedent(found[1]).rstrip()}\n```\n", text)
    return EXAMPLE.sub(lambda found: f"```python\n{_plain(found[0])}\n```\n", text)


def _plain(example: str) -> str:
    return re.sub(r"^ *(?:>>>|\.\.\.) ", "", example.rstrip("\n"), flags=re.MULTILINE)


class Markdown(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
