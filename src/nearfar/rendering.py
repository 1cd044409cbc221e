"""Tables of text as plain data, and as Markdown, CSV and JSON. :mod:`nearfar.terminal` prints them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Emphasis = Literal["", "strong", "alarm", "faint"]


class TextRow(NamedTuple):
    """A row: one text per column, how to set it off, and whether a group of rows ends with it."""

    cells: tuple[str, ...]
    emphasis: Emphasis = ""
    ends_group: bool = False


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table for people.

    Attributes:
        headings: one per column; text columns are aligned to the left, others (numbers) to the right.
        rows: the body.
        text_columns: indices of the text columns.
        title: a line above; empty for none.
        notes: lines beneath.
        unwrapped: how many columns, from the first, are never broken over lines.
    """

    headings: tuple[str, ...]
    rows: tuple[TextRow, ...]
    text_columns: tuple[int, ...] = (0,)
    title: str = ""
    notes: tuple[str, ...] = ()
    unwrapped: int = 0


def markdown(table: TextTable) -> str:
    """A table in Markdown: title, table, notes as paragraphs; numbers of strong rows are bold."""
    numbers = [column not in table.text_columns for column in range(len(table.headings))]
    lines = [table.headings, ["---:" if is_number else "---" for is_number in numbers]]
    for row in table.rows:
        bold = "**" if row.emphasis == "strong" else ""
        lines.append(
            [
                f"{bold}{cell}{bold}" if is_number else cell
                for cell, is_number in zip(row.cells, numbers, strict=True)
            ]
        )
    body = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return "\n".join(
        [*([f"{table.title}\n"] if table.title else []), body, *(f"{note}\n" for note in table.notes)]
    )


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return out.getvalue()


def json_text(tree: Any) -> str:
    """Indented JSON that ends with a line break."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
