"""The health of the instrument (microphones, source, processing), apart from that of the machine: NAMUR NE 107."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """The status signals of NAMUR NE 107, the gravest last."""

    GOOD = "good"
    MAINTENANCE_REQUIRED = "maintenance required"
    """The signal is still valid, and will not be for long: a microphone drifts."""
    OUT_OF_SPECIFICATION = "out of specification"
    """The signal deviates from what the detector was fitted on: clipped, quiet, another rate, late."""
    FUNCTION_CHECK = "function check"
    """Work goes on at the instrument: the machine is out of service."""
    FAILURE = "failure"
    """The signal is not valid: a dead or exchanged microphone, no data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an instrument.

    Attributes:
        check: ``dead``, ``quiet``, ``clipped``, ``swapped``, ``chain``, ``short``, ``drifting``, ``missing``,
            ``source``, ``late`` or ``service``.
        message: what was found, and what to do.
    """

    check: str
    message: str
