"""``log.jsonl`` of a training: a line of JSON per step.

Nothing is decided by it, so that a damaged line costs its step's numbers and not the training.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"

logger = logging.getLogger(__name__)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The steps of a log, by their order; lines that are none are left out with a warning.

    A line without an end, which was being written when the process was killed, is left out without one.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    records = [_record(line) for line in whole]
    if damaged := records.count(None):
        logger.warning("%s: lines that are no steps of a training are left out (%d)", path, damaged)
    return [record for record in records if record is not None]


def log_text(records: list[dict[str, Any]]) -> str:
    """The text of a log."""
    return "".join(json.dumps(record) + "\n" for record in records)


def logged_total(folder: Path, key: str) -> float:
    """The sum of a key over all steps of a folder's log, those before an interruption included."""
    values = [record.get(key) for record in read_log(folder / LOG_FILE)]
    return round(sum(float(value) for value in values if isinstance(value, int | float)), 3)


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
