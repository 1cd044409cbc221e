"""The log of a training run, a line of JSON per step, that goes on where a checkpoint does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

from nearfar.files import write_text


def open_step_log(path: Path, start: int, is_main: bool) -> TextIO:
    """The step log, cut back to the steps that the checkpoint holds; the other processes write to nowhere.

    Args:
        path: of the log.
        start: number of finished steps.
        is_main: whether this process writes it.
    """
    if not is_main:
        return Path(os.devnull).open("w", encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() and start else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < start]
    write_text(path, "".join(kept))
    return path.open("a", encoding="utf-8")
