"""What pages say, taken from their HTML."""

from __future__ import annotations

import re


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the third level, as HTML."""
    return body_rows(text.split(f"<h3>{heading}</h3>")[1])


def body_rows(text: str) -> list[list[str]]:
    """The cells of the rows in the body of the first table in a text."""
    body = re.split(r"<tbody[^>]*>", text)[1].split("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.split(r"<tr[^>]*>", body)[1:]]
