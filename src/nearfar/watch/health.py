"""The health of the instrument (microphones, source, processing), apart from that of the machine: NAMUR NE 107."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from nearfar.settings import Settings


class Health(StrEnum):
    """The status signals of NAMUR NE 107, the gravest last."""

    GOOD = "good"
    MAINTENANCE_REQUIRED = "maintenance required"
    """The signal is still valid, and will not be for long: a microphone drifts."""
    OUT_OF_SPECIFICATION = "out of specification"
    """The signal deviates from what the detector was fitted on: clipped, quiet, another rate, late."""
    FUNCTION_CHECK = "function check"
    """Work is done on the instrument: the machine is out of service."""
    FAILURE = "failure"
    """The signal is not valid: a dead or exchanged microphone, no data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an instrument.

    Attributes:
        check: a name in :data:`SEVERITY`.
        message: what was found, and what to do.
    """

    check: str
    message: str


SEVERITY: dict[str, Health] = {
    "drifting": Health.MAINTENANCE_REQUIRED,
    "quiet": Health.OUT_OF_SPECIFICATION,
    "clipped": Health.OUT_OF_SPECIFICATION,
    "chain": Health.OUT_OF_SPECIFICATION,
    "lost": Health.OUT_OF_SPECIFICATION,
    "short": Health.OUT_OF_SPECIFICATION,
    "late": Health.OUT_OF_SPECIFICATION,
    "service": Health.FUNCTION_CHECK,
    "dead": Health.FAILURE,
    "swapped": Health.FAILURE,
    "unusable": Health.FAILURE,
    "missing": Health.FAILURE,
    "source": Health.FAILURE,
}
"""The status signal of each finding. Other problems of recordings have no effect on health."""

COUNT, OF = 3, 5
"""A problem is a finding from ``COUNT`` of the last ``OF`` windows on, until none of the last ``OF`` has it."""

DRIFT_DB = 3.0
"""A microphone drifts where its mean level is so far outside the levels of all normal recordings."""
DRIFT_MEAN_S = 86_400.0
"""The time constant of that mean, in seconds of sound."""
DRIFT_AFTER_S = 6 * 3600.0
"""It is a finding after so many seconds of sound."""


class WindowHealth(Settings):
    """What the windows of a machine have shown of its microphones.

    ``recent`` are the checks that failed in each of the last windows, ``present`` those that are findings, with
    their last messages, ``mean_db`` the mean level of each channel, and ``sound_s`` over how many seconds.
    """

    recent: tuple[tuple[str, ...], ...] = ()
    present: dict[str, str] = Field(default_factory=dict)
    mean_db: dict[str, float] = Field(default_factory=dict)
    sound_s: float = 0.0

    def after(
        self,
        problems: Mapping[str, str],
        levels_db: Mapping[str, float],
        seconds: float,
        normal_db: Mapping[str, tuple[float, float]],
    ) -> WindowHealth:
        """The state after a window of a machine that is running.

        Args:
            problems: messages by check.
            levels_db: level of each channel, relative to full scale.
            seconds: length of the window.
            normal_db: lowest and highest level of each channel among the normal recordings.
        """
        known = {check: text for check, text in problems.items() if check in SEVERITY}
        recent = (*self.recent, tuple(known))[-OF:]
        counts = Counter(check for checks in recent for check in checks)
        present = {
            check: known.get(check, self.present.get(check, ""))
            for check, count in counts.items()
            if count >= COUNT or check in self.present
        }
        sound_s = self.sound_s + seconds
        share = min(1.0, max(seconds / DRIFT_MEAN_S, seconds / sound_s))
        mean_db = {
            name: level + (1 - share) * (self.mean_db.get(name, level) - level)
            for name, level in levels_db.items()
        }
        if sound_s >= DRIFT_AFTER_S and "dead" not in present and "quiet" not in present:
            found = [text for name, mean in mean_db.items() if (text := _drift(name, mean, normal_db.get(name)))]
            present |= {"drifting": "; ".join(found)} if found else {}
        return WindowHealth(recent=recent, present=present, mean_db=mean_db, sound_s=sound_s)

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(Finding(check, text) for check, text in self.present.items())


def _drift(name: str, mean_db: float, normal_db: tuple[float, float] | None) -> str | None:
    """The message about a channel whose mean level has left that of the normal recordings."""
    if normal_db is None:
        return None
    lowest, highest = normal_db
    away = max(lowest - mean_db, mean_db - highest)
    if away <= DRIFT_DB:
        return None
    side = "below" if mean_db < lowest else "above"
    return (
        f"the mean level of the {name} channel is {away:.0f} dB {side} all normal recordings: "
        "check the microphone, its position and its gain"
    )


def overall(findings: Iterable[Finding]) -> Health:
    """The gravest of the findings."""
    order = list(Health)
    return max((SEVERITY[finding.check] for finding in findings), key=order.index, default=Health.GOOD)
