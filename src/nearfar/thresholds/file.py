"""``thresholds.json`` of a detector or run: thresholds, each with the SHA-256 of its content.

A threshold that a rule finds can be checked against the scores of normal recordings, a number that a person gave
cannot: only its hash shows that a digit is not the one that was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nearfar.errors import InputError
from nearfar.files import SIGNATURE, require_signature, signed, without_signature, write_json
from nearfar.thresholds.calibration import Threshold

THRESHOLDS = "thresholds.json"


def write_thresholds(folder: Path, thresholds: Iterable[Threshold]) -> None:
    """Write ``thresholds.json``, whole or not at all.

    Raises:
        NearfarError: if it cannot be written.
    """
    write_json(folder / THRESHOLDS, [signed(entry.model_dump(mode="json")) for entry in thresholds])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of ``thresholds.json``, of any version; :func:`checked` checks each.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no list of JSON objects.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list of thresholds")
    return rows


def checked(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row without its hash; rows of earlier versions have none.

    Raises:
        InputError: if the row is not the one that was written.
    """
    try:
        require_signature(row)
    except ValueError:
        machine = row.get("machine", "a machine")
        raise InputError(
            path,
            found=f"a threshold of {machine} that is not the one that was written: {row.get('value')}",
            expected=f"the content that its {SIGNATURE} is of",
            remedy="Find it again, or set a number, with nearfar threshold; rerun the command of a run",
        ) from None
    return without_signature(row)
