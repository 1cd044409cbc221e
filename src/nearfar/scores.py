"""Scores of recordings, as detectors return them, and rows of tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nearfar.data.quality import Problem
from nearfar.errors import InputError, SilentChannelError

if TYPE_CHECKING:
    from nearfar.detector.departure import Departure
    from nearfar.detector.faults import Like
    from nearfar.explain.attribution import Contribution


@dataclass(frozen=True, slots=True)
class WindowScore:
    """One window of a recording.

    Attributes:
        begin_s, end_s: where it lies in the recording.
        score: higher is more anomalous.
        views: the score of every scored view, before fusion.
        nearest: the normal recording nearest in the first scored view, and ``nearest_begin_s`` where in it; None
            where the back-end compares with no single recording.
    """

    begin_s: float
    end_s: float
    score: float
    views: dict[str, float]
    nearest: str | None
    nearest_begin_s: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A recording that could not be scored, and why."""

    file: str
    error: InputError

    @property
    def quality(self) -> tuple[Problem, ...]:
        """The fault of a sensor that is the reason, if it is one."""
        return (Problem("dead", str(self.error)),) if isinstance(self.error, SilentChannelError) else ()

    def to_json(self) -> dict[str, Any]:
        """File, status, message and quality."""
        quality = [asdict(problem) for problem in self.quality]
        return {"file": self.file, "status": "error", "error": str(self.error), "quality": quality}


@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """The score of one recording.

    Attributes:
        file: the path, or ``array 0`` and so on.
        machine: the machine whose normal recordings it was compared with, with the section where there are
            several.
        score: of its most anomalous window; higher is more anomalous.
        threshold: above which a recording is called anomalous; None where there is no threshold.
        margin: ``score - threshold``.
        p_value: the fraction of normal recordings at least as anomalous, this one included; None where no normal
            recording could be scored against others.
        anomalous: whether ``margin`` is above 0; None where there is no threshold, and where ``margin`` is above 0
            and the recording cannot be compared with normal ones (see ``quality``): that is no alarm of the
            machine.
        domain: the domain whose threshold and p-value these are, where domains have thresholds of their own.
        nearest: the normal recording nearest to the most anomalous window, and ``nearest_begin_s`` where in it;
            ``nearest_file`` is its path when the detector was fitted. None where the back-end has no nearest one.
        views: that window's score by view, before fusion.
        departure: where the recording departs most from normal; None where it is too short.
        windows: every window, in order.
        quality: how the recording differs from normal ones by the microphones or the recorder.
        contributions: of views, bands and quantities to the score, largest first; their shares add up to it.
            Empty where the fusion of views is no sum.
        like: the known fault that an anomalous recording resembles.
        threshold_from: what the threshold is from: ``normal recordings left out`` of the bank in turn, ``normal
            recordings held out`` of bank and training, ``normal recordings in training`` of the model, so that new
            ones may give more false alarms, or ``given by a person``.
    """

    file: str
    machine: str
    score: float
    threshold: float | None
    margin: float | None
    p_value: float | None
    anomalous: bool | None
    domain: str | None
    nearest: str | None
    nearest_begin_s: float | None
    nearest_file: str | None
    views: dict[str, float]
    departure: Departure | None
    windows: tuple[WindowScore, ...]
    quality: tuple[Problem, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    like: Like | None = None
    threshold_from: str | None = None

    @property
    def status(self) -> str:
        """``normal``, ``anomalous``, ``not comparable`` or ``no threshold``."""
        if self.anomalous is not None:
            return "anomalous" if self.anomalous else "normal"
        return "no threshold" if self.threshold is None else "not comparable"

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in ("file", "machine", "score", "threshold", "anomalous")}
        texts = {name: f"{value:.4g}" if type(value) is float else repr(value) for name, value in shown.items()}
        return f"Score({', '.join(f'{name}={text}' for name, text in texts.items())})"

    def to_json(self) -> dict[str, Any]:
        """The same as dictionaries, lists, text, numbers and None."""
        tree = {key: [*value] if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"file": tree.pop("file"), "status": self.status, **tree}


_COLUMNS = (
    *("file", "machine", "begin_s", "end_s", "score", "threshold", "margin", "p_value", "anomalous"),
    *("nearest", "nearest_begin_s", "departs_begin_s", "departs_end_s", "departs_low_hz", "departs_high_hz"),
    *("departs", "status", "quality", "error", "like", "like_date", "like_distance"),
    "threshold_from",
)


def scored(entries: Iterable[Score | Failure]) -> list[Score]:
    """The scores among scores and failures."""
    return [entry for entry in entries if isinstance(entry, Score)]


def csv_header(views: Sequence[str]) -> list[object]:
    """The column names of :func:`csv_rows` for scores by these views."""
    return [*_COLUMNS, *(f"score_{view}" for view in views)]


def csv_rows(entry: Score | Failure, *, windows: bool = False) -> Iterator[list[object]]:
    """A row for a recording, followed by one for every window of a longer one if asked for.

    Missing numbers are empty; ``anomalous`` is 1, 0 or empty. Rows of windows have no threshold.
    """
    if isinstance(entry, Failure):
        quality = "; ".join(f"{problem.check}: {problem.message}" for problem in entry.quality) or None
        yield [entry.file, *[None] * (len(_COLUMNS) - 8), "error", quality, str(entry.error), *[None] * 4]
        return
    end = max(window.end_s for window in entry.windows)
    found = entry.departure
    departs: list[object] = [None] * 5
    if found is not None:
        departs = [found.begin_s, found.end_s, found.low_hz, found.high_hz, found.sentence]
    anomalous = None if entry.anomalous is None else int(entry.anomalous)
    decision = [entry.score, entry.threshold, entry.margin, entry.p_value, anomalous]
    quality = "; ".join(f"{problem.check}: {problem.message}" for problem in entry.quality)
    state: list[object] = [entry.status, quality or None, None, *[None] * 3]
    if entry.like is not None:
        state[-3:] = [entry.like.fault, entry.like.date, entry.like.distance]
    nearest = [entry.nearest, entry.nearest_begin_s]
    yield [
        entry.file,
        entry.machine,
        0.0,
        end,
        *decision,
        *nearest,
        *departs,
        *state,
        entry.threshold_from,
        *entry.views.values(),
    ]
    for window in entry.windows if windows and len(entry.windows) > 1 else ():
        span = [entry.file, entry.machine, window.begin_s, window.end_s]
        near = [window.nearest, window.nearest_begin_s]
        yield [*span, window.score, *[None] * 4, *near, *[None] * 12, *window.views.values()]
