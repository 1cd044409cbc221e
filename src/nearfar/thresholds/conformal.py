"""Thresholds with a stated false-alarm rate, from the scores of normal clips: split-conformal prediction.

Let n scores of normal clips be set aside (the bank does not hold these clips), and a new normal clip be drawn like
them. Then its rank among them is uniform, so that with the p-value

    p = (1 + #{i : s_i >= s}) / (n + 1)

the chance of p <= a is at most a, whatever the distribution (Vovk, Gammerman, Shafer, "Algorithmic Learning in a
Random World", 2005; Bates et al., "Testing for Outliers with Conformal p-values", Annals of Statistics 2023). The
threshold for a false-alarm rate a is the ceil((n + 1) (1 - a))-th smallest score; where that is more than n, n
scores do not support so small a rate.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import InputError


def p_values(scores: ArrayLike, calibration: ArrayLike) -> NDArray[np.float64]:
    """Share of normal clips at least as anomalous as each score, the score itself counted among them.

    Args:
        scores: (clips,).
        calibration: (normals,) scores of normal clips.

    Returns:
        (clips,) float64 in (0, 1].
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    values: NDArray[np.float64] = np.asarray((1.0 + at_least) / (len(ordered) + 1.0), dtype=np.float64)
    return values


def conformal_threshold(calibration: ArrayLike, false_alarm_rate: float) -> float:
    """The score above which a clip's p-value is at most the false-alarm rate.

    Args:
        calibration: (normals,) scores of normal clips.
        false_alarm_rate: in (0, 1).

    Raises:
        InputError: if the rate is not in (0, 1), the scores are none or not finite, or too few for the rate.
    """
    scores = np.sort(np.asarray(calibration, dtype=np.float64))
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            "false-alarm rate",
            found=f"{false_alarm_rate:g}",
            expected="a number between 0 and 1",
            remedy="Give for instance 0.05",
        )
    if not scores.size or not np.isfinite(scores).all():
        raise InputError(
            "calibration scores",
            found="none" if not scores.size else "scores that are not finite",
            expected="finite scores of normal clips",
            remedy="Fit the detector again on more normal recordings",
        )
    # In exact arithmetic (n + 1)(1 - a) is whole for many usual rates; a rounding error must not raise the rank.
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9)
    if rank > len(scores):
        raise InputError(
            "false-alarm rate",
            found=f"{false_alarm_rate:g} with {len(scores)} normal clips to calibrate on",
            expected=f"at least 1 / (normal clips + 1) = {1 / (len(scores) + 1):.3g}",
            remedy=f"Ask for a larger rate, or give {math.ceil(1 / false_alarm_rate - 1e-9) - 1} normal clips",
        )
    return float(scores[rank - 1])
