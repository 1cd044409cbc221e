"""What a detector says of a recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        nearest: the normal recording nearest to the most anomalous window, and ``nearest_begin_s`` where in it;
            ``nearest_file`` is where it was when the detector was fitted, to listen to.
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
    nearest_file: str
    channels: dict[str, float]
    departure: Departure | None
    windows: tuple[WindowScore, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as dictionaries, lists, text, numbers and None."""
        return {key: [*value] if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def csv_rows(scores: Sequence[Score], *, windows: bool = False) -> Iterator[list[object]]:
    """A header and a row per recording, with one behind it for every window of longer ones where asked for.

    Numbers are as they are, unknown ones empty; ``anomalous`` is 1, 0 or empty. Rows of windows have no threshold.
    """
    views = list(scores[0].channels) if scores else []
    yield [*_COLUMNS, *(f"score_{view}" for view in views)]
    for entry in scores:
        end = max(window.end_s for window in entry.windows)
        departure = entry.departure
        told: list[object] = [None] * 5
        if departure is not None:
            told = [departure.begin_s, departure.end_s, departure.low_hz, departure.high_hz, departure.sentence]
        anomalous = None if entry.anomalous is None else int(entry.anomalous)
        judged = [entry.score, entry.threshold, entry.margin, entry.p_value, anomalous]
        nearest = [entry.nearest, entry.nearest_begin_s]
        yield [entry.file, entry.machine, 0.0, end, *judged, *nearest, *told, *(entry.channels[v] for v in views)]
        for window in entry.windows if windows and len(entry.windows) > 1 else ():
            place = [entry.file, entry.machine, window.begin_s, window.end_s]
            near = [window.nearest, window.nearest_begin_s]
            empty = [None] * 4
            yield [*place, window.score, *empty, *near, *[None] * 5, *(window.channels[v] for v in views)]


_COLUMNS = (
    *("file", "machine", "begin_s", "end_s", "score", "threshold", "margin", "p_value", "anomalous"),
    *("nearest", "nearest_begin_s", "departs_begin_s", "departs_end_s", "departs_low_hz", "departs_high_hz"),
    "departs",
)
