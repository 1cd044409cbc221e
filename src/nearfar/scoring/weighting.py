"""Weights of the views near and cancelled for one machine, from its normal clips alone.

Cancellation subtracts from near what far predicts of it. That is background noise, if far records mostly noise,
and the machine, if far is near it as well. Two numbers of the normal clips show which:

* the power that cancellation removes. Without a limit of the gain, its share is the coherence of the channels,
  weighted by power. Where little is removed, the views differ little, and their mean is safe. Where most is
  removed, both microphones record the machine;
* how much more the spectra of normal clips differ from each other after cancellation. Without the noise, which
  changes from clip to clip, they are more alike; without the machine, which is the same in all, they are less so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.scoring.backends import Scores

NEAR, CANCELLED = "near", "cancelled"


@dataclass(frozen=True, slots=True)
class WeightRule:
    """How the weight of cancelled follows from the two numbers; see :func:`cancelled_weight`.

    Attributes:
        alone_db: removed power, in dB, from which cancelled is scored alone where it makes normal clips alike.
        doubtful_db: removed power from which it has the least weight where it makes them less so.
        alike, unlike: change of the deviation over normal clips, as a natural logarithm, up to which they count
            as more alike, and from which as less so.
        harmful_db: removed power between which the weight falls to the least even so.
        least: the least weight of cancelled.
    """

    alone_db: float = 3.0
    doubtful_db: float = 5.0
    alike: float = 0.0
    unlike: float = 0.1
    harmful_db: tuple[float, float] = (5.0, 8.0)
    least: float = 0.1


RULE = WeightRule()
"""Chosen on simulated machines and realmix; see docs/results/auto.md."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of views, with sum 1, and the reason for them in words."""

    by_view: dict[str, float]
    reason: str

    def mean(self, scores: Mapping[str, Scores]) -> Scores:
        """The weighted mean of (clips,) float64 scores by view."""
        total: Scores = np.sum([weight * scores[view] for view, weight in self.by_view.items()], axis=0)
        return total


def cancelled_weight(removed_db: float, change: float, rule: WeightRule = RULE) -> float:
    """The weight of cancelled beside near.

    It is a half where nothing is removed. With the removed power it rises to 1 where cancellation makes normal
    clips more alike, falls to the least where it makes them less so, and is in proportion in between.

    Args:
        removed_db: power that cancellation removes of near, in dB.
        change: of the deviation of normal spectra by cancellation, a natural logarithm.
        rule: the limits.
    """
    helpful = np.interp(removed_db, (0.0, rule.alone_db), (0.5, 1.0))
    doubtful = np.interp(removed_db, (0.0, rule.doubtful_db), (0.5, rule.least))
    weight = np.interp(change, (rule.alike, rule.unlike), (helpful, doubtful))
    return float(min(weight, np.interp(removed_db, rule.harmful_db, (1.0, rule.least))))


def removed_and_change(near: Any, cancelled: Any) -> tuple[float, float]:
    """The two numbers that :func:`cancelled_weight` uses, from the scorers of the views.

    The change is 0 where no mel bin varies in both views, as of a single normal clip.

    Args:
        near, cancelled: with ``levels``, (normals,) in dB, and ``variation``, (128,), as
            :class:`nearfar.scoring.tolerant.TolerantNeighbours`.
    """
    varies = (near.variation > 1e-6) & (cancelled.variation > 1e-6)
    change = float(np.log(cancelled.variation[varies] / near.variation[varies]).mean()) if varies.any() else 0.0
    return float(np.median(near.levels - cancelled.levels)), change


def view_weights(scorers: Mapping[str, Any]) -> Weights:
    """Weights of views from their scorers; see :func:`removed_and_change`.

    Views other than near and cancelled, and scorers without levels, have equal weights.
    """
    if len(scorers) == 1:
        (view,) = scorers
        return Weights({view: 1.0}, f"{view} alone is scored")
    comparable = all(hasattr(scorers.get(view), "variation") for view in (NEAR, CANCELLED))
    if set(scorers) != {NEAR, CANCELLED} or not comparable:
        return Weights(dict.fromkeys(scorers, 1.0 / len(scorers)), "equal weights of the views")
    removed, change = removed_and_change(scorers[NEAR], scorers[CANCELLED])
    weight = cancelled_weight(removed, change)
    percent = 100.0 * (1.0 - 10.0 ** (-max(removed, 0.0) / 10.0))
    by = f"{100 * abs(np.expm1(change)):.0f} % {'more' if change > 0 else 'less'}"
    reason = (
        f"near {1 - weight:.2f}, cancelled {weight:.2f}, as cancellation removes {removed:.1f} dB "
        f"({percent:.0f} %) of near in normal recordings and makes their spectra differ by {by}"
        f"{_meaning(removed, change)}"
    )
    return Weights({NEAR: 1.0 - weight, CANCELLED: weight}, reason)


def _meaning(removed_db: float, change: float) -> str:
    """What the two numbers mean, in words."""
    if removed_db > RULE.harmful_db[0] or (removed_db >= RULE.alone_db and change >= RULE.unlike):
        return ": far probably records the machine as well"
    if removed_db >= RULE.alone_db and change <= RULE.alike:
        return ": strong background noise"
    return ""
