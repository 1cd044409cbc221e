"""Drift: whether the scores of many recordings have shifted alike since a detector was fitted.

A fault is rare and shows in some recordings; a new microphone, position or operating point shifts all of them.
Where every normal recording is a group of its own, recent scores are compared with the normal ones by the
one-sided Mann-Whitney test. Where normal recordings are in sessions, recent ones may all be of one new session,
which differs from the others anyway: its median is then compared with the medians of the sessions, by the
conformal p-value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nearfar.thresholds.calibration import Calibration
from nearfar.thresholds.rules import p_values

FEWEST = 10
"""Fewer recordings are not tested."""

LEVEL = 0.01
"""The probability of a false report, or 1 / (sessions + 1) where sessions are too few for it."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparison of recent scores of one machine with its normal ones.

    Attributes:
        machine: its name.
        recordings: how many recent scores.
        anomalous: how many of them are above the threshold.
        p_value: of the shift, if nothing has changed.
        level: at or below which the p-value is a shift.
    """

    machine: str
    recordings: int
    anomalous: int
    p_value: float
    level: float

    @property
    def changed(self) -> bool:
        """Whether most recordings are anomalous alike, which suggests a change rather than a fault."""
        return self.p_value <= self.level and 2 * self.anomalous > self.recordings

    @property
    def message(self) -> str:
        """The finding in a sentence, and what to do."""
        return (
            f"{self.anomalous} of {self.recordings} recordings of {self.machine} score above the threshold alike "
            f"(p = {self.p_value:.2g}): the machine or a microphone has changed since the detector was fitted. "
            "If the machine is in order, fit a detector on recordings made since, or add them to this one"
        )


def find_drift(
    machine: str, calibration: Calibration, scores: Sequence[float], threshold: float | None
) -> Drift | None:
    """Compare recent scores with normal ones.

    Args:
        machine: its name.
        calibration: of the machine.
        scores: of recent recordings, by the same detector.
        threshold: above which a score is anomalous.

    Returns:
        None without a threshold, or with fewer than :data:`FEWEST` recent or normal scores.
    """
    normal, groups = calibration.scores(), calibration.groups()
    if threshold is None or len(scores) < FEWEST or len(normal) < FEWEST:
        return None
    recent, level = np.asarray(scores, dtype=np.float64), LEVEL
    names, sizes = np.unique(groups, return_counts=True)
    if (sizes == 1).all():
        from scipy.stats import mannwhitneyu  # half of the start-up time of nearfar score

        p_value = float(mannwhitneyu(recent, normal, alternative="greater").pvalue)
    else:
        medians = [float(np.median(normal[groups == name])) for name in names]
        p_value = float(p_values([np.median(recent)], medians)[0])
        level = max(LEVEL, 1.0 / (len(names) + 1))
    return Drift(machine, recent.size, int((recent > threshold).sum()), p_value, level)
