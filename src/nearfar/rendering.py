"""Tables of text and their conversion to Markdown; CSV and JSON. :mod:`nearfar.terminal` prints tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

Emphasis = Literal["", "strong", "alarm", "faint"]


class TextRow(NamedTuple):
    """A row: one text per column, its emphasis, and whether it is the last of a group of rows."""

    cells: tuple[str, ...]
    emphasis: Emphasis = ""
    ends_group: bool = False


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table for people.

    Attributes:
        headings: one per column.
        rows: the body.
        text_columns: indices of the columns aligned to the left; the others, of numbers, are aligned to the right.
        title: a line above the table; empty for none.
        notes: lines below the table.
        unwrapped: number of columns, from the first, without line breaks in cells.
        droppable: indices of columns that may be left out where there is no room, the first one first.
    """

    headings: tuple[str, ...]
    rows: tuple[TextRow, ...]
    text_columns: tuple[int, ...] = (0,)
    title: str = ""
    notes: tuple[str, ...] = ()
    unwrapped: int = 0
    droppable: tuple[int, ...] = ()

    def fitted(self, width: int) -> TextTable:
        """The table without as many droppable columns as it takes to fit a width, and a note that names them.

        Cells stay whole: without room for those that may not be left out, they are broken.
        """
        kept = list(range(len(self.headings)))
        for column in self.droppable:
            if 1 + sum(map(self._column_width, kept)) <= width:
                break
            kept.remove(column)
        if len(kept) == len(self.headings):
            return self
        number = {column: new for new, column in enumerate(kept)}
        left_out = [name for column, name in enumerate(self.headings) if column not in number]
        return replace(
            self,
            headings=tuple(self.headings[column] for column in kept),
            rows=tuple(row._replace(cells=tuple(row.cells[column] for column in kept)) for row in self.rows),
            text_columns=tuple(number[column] for column in self.text_columns if column in number),
            notes=(f"Left out at this width: {', '.join(left_out)}.", *self.notes),
            unwrapped=sum(column < self.unwrapped for column in kept),
            droppable=(),
        )

    def _column_width(self, column: int) -> int:
        """Characters of a column with the space around it."""
        return max(len(text) for text in (self.headings[column], *(row.cells[column] for row in self.rows))) + 3


def markdown(table: TextTable) -> str:
    """A table in Markdown: title, table, notes as paragraphs; numbers of strong rows are bold."""
    numbers = [column not in table.text_columns for column in range(len(table.headings))]
    lines = [table.headings, ["---:" if is_number else "---" for is_number in numbers]]
    for row in table.rows:
        bold = "**" if row.emphasis == "strong" else ""
        cells = zip(row.cells, numbers, strict=True)
        lines.append([f"{bold}{cell}{bold}" if is_number else cell for cell, is_number in cells])
    body = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    title = [f"{table.title}\n"] if table.title else []
    return "\n".join([*title, body, *(f"{note}\n" for note in table.notes)])


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a header row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return out.getvalue()


def json_text(tree: Any) -> str:
    """Indented JSON that ends with a line break."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
