"""Weights of the views near and cancelled for one machine, from its normal clips alone.

Cancellation subtracts from near what far predicts of it. What it removes is background noise, if far records
mostly noise, and the machine, if far is near it as well. The share that is removed indicates which: a little to
half of the power where noise is removed, most of it where both microphones record the machine. Without a limit of
the gain, the share that is removed is the coherence of the channels, weighted by power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.scoring.backends import Scores

NEAR, CANCELLED = "near", "cancelled"
EQUAL_DB, ALONE_DB = 0.0, 3.0
"""Removed power, in dB, from which the weight of cancelled rises from a half to 1."""
SAFE_DB, HARMFUL_DB = 5.0, 8.0
"""Removed power, in dB, between which the weight of cancelled falls from 1 to :data:`LEAST`."""
LEAST = 0.3


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of views, with sum 1, and the reason for them in words."""

    by_view: dict[str, float]
    reason: str

    def mean(self, scores: Mapping[str, Scores]) -> Scores:
        """The weighted mean of (clips,) float64 scores by view."""
        total: Scores = np.sum([weight * scores[view] for view, weight in self.by_view.items()], axis=0)
        return total


def cancelled_weight(removed_db: float) -> float:
    """The weight of cancelled beside near, from the power that cancellation removes of near, in dB."""
    points = (EQUAL_DB, ALONE_DB, SAFE_DB, HARMFUL_DB)
    return float(np.interp(removed_db, points, (0.5, 1.0, 1.0, LEAST)))


def view_weights(scorers: Mapping[str, Any]) -> Weights:
    """Weights of views from their scorers, which have the ``levels`` of the normal clips in dB.

    Views other than near and cancelled, and scorers without levels, have equal weights.
    """
    levels = [getattr(scorers.get(view), "levels", None) for view in (NEAR, CANCELLED)]
    if len(scorers) == 1:
        (view,) = scorers
        return Weights({view: 1.0}, f"{view} alone is scored")
    if set(scorers) != {NEAR, CANCELLED} or levels[0] is None or levels[1] is None:
        return Weights(dict.fromkeys(scorers, 1.0 / len(scorers)), "equal weights of the views")
    removed = float(np.median(levels[0] - levels[1]))
    weight = cancelled_weight(removed)
    if removed > SAFE_DB:
        why = "so far probably records the machine as well"
    elif removed >= ALONE_DB:
        why = "the share of strong background noise"
    else:
        why = "the share of weak background noise"
    percent = 100.0 * (1.0 - 10.0 ** (-max(removed, 0.0) / 10.0))
    reason = (
        f"near {1 - weight:.2f}, cancelled {weight:.2f}, as cancellation removes {removed:.1f} dB "
        f"({percent:.0f} %) of near, {why}"
    )
    return Weights({NEAR: 1.0 - weight, CANCELLED: weight}, reason)
