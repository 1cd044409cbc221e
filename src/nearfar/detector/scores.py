"""What a detector says of a recording."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a recording departs most from normal, in seconds of the recording and in hertz, and in words.

    ``notable`` is whether it departs further than 95 % of the normal recordings do from one another.
    """

    begin_s: float
    end_s: float
    low_hz: float
    high_hz: float
    notable: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class WindowScore:
    """One window of a recording.

    Attributes:
        begin_s, end_s: where it lies in the recording.
        score: higher is more anomalous.
        channels: the score of every scored view alone, before they are made one.
        nearest: the normal recording nearest in the first scored view, and ``nearest_begin_s`` where in it.
    """

    begin_s: float
    end_s: float
    score: float
    channels: dict[str, float]
    nearest: str
    nearest_begin_s: float


@dataclass(frozen=True, slots=True)
class Score:
    """What a detector says of one recording.

    Attributes:
        file: the file, or ``array 0`` and so on.
        machine: whose normal recordings it was compared with, with the section where there are several.
        score: of its most anomalous window; higher is more anomalous.
        threshold: above which a recording is called anomalous; None where there is no threshold.
        margin: ``score - threshold``.
        p_value: the share of normal recordings at least as anomalous, this one counted among them; None where no
            normal recording could be set against others.
        anomalous: whether ``margin`` is above 0.
        domain: the domain whose threshold and p-value these are, where domains have thresholds of their own.
        nearest: the normal recording nearest to the most anomalous window, and ``nearest_begin_s`` where in it.
        channels: that window's score by view, before fusion.
        departure: where the recording departs most from normal; None where it is too short to tell.
        windows: every window, in their order.
    """

    file: str
    machine: str
    score: float
    threshold: float | None
    margin: float | None
    p_value: float | None
    anomalous: bool | None
    domain: str | None
    nearest: str
    nearest_begin_s: float
    channels: dict[str, float]
    departure: Departure | None
    windows: tuple[WindowScore, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as dictionaries, lists, text, numbers and None."""
        return {key: [*value] if isinstance(value, tuple) else value for key, value in asdict(self).items()}
