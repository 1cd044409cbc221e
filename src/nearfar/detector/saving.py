"""Saving a changed detector over the one that it was made of."""

from __future__ import annotations

from pathlib import Path

from nearfar.detector.detector import Detector
from nearfar.detector.store import read_calibrations, read_card, read_history, read_thresholds
from nearfar.errors import InputError


def save_changed(before: Detector, after: Detector, folder: Path) -> None:
    """Replace a detector by a changed one.

    Args:
        before: as it was read from the folder.
        after: changed.
        folder: of the detector.

    Raises:
        InputError: if another program has changed it since it was read.
    """
    card = read_card(folder)
    now = read_history(folder, card)[0], read_thresholds(folder, read_calibrations(folder, card))
    if now != (before.history, before.thresholds):
        raise InputError(
            folder,
            found="a detector that another program has changed meanwhile",
            expected="the one that was read",
            remedy="Run the same command again",
        )
    after.save(folder, replace=True)
