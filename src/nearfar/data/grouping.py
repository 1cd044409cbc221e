"""Groups of normal recordings that are not independent of each other, and the table of ways to find them.

Recordings of one session (a day, a position of the microphone, one long recording that was cut) are more alike
than recordings of different sessions. A threshold that holds for new sessions leaves out whole groups; see
:mod:`nearfar.thresholds.rules`. Groups come from attributes, sub-folders, time stamps in names, numbered names
such as ``rec03_007``, or, where names say nothing, from runs of successive recordings with like features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.data.clips import Clip
from nearfar.errors import InputError
from nearfar.files import as_text
from nearfar.registry import Entry, Registry
from nearfar.threads import libraries_on_one_thread

Features = NDArray[np.float64]
Labels = list[str]

AUTO = "auto"
SESSION_KEYS = ("session", "recording", "day", "date", "take", "source_file", "source", "file")
"""Attributes that name a session, in the order in which they are tried."""

_SESSION_WORDS = "|".join(
    ("recordings?", "rec", "records?", "sessions?", "sess", "ses", "days?", "takes?", "tracks?", "files?", "shift")
)
_PART = re.compile(
    rf"(?P<group>.*?(?:(?:{_SESSION_WORDS})[-_ ]?\d+|\d{{4}}-?\d{{2}}-?\d{{2}}).*?)[-_ .]+\D{{0,8}}\d+",
    re.IGNORECASE,
)
"""A name of a session with its number or date, followed by the number of a part."""
_TIME = re.compile(
    r"(?<!\d)(20\d{2})[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])[-_ T.]+([01]\d|2[0-3])[-_.:h]?([0-5]\d)"
    r"(?:[-_.:m]?([0-5]\d))?(?!\d)"
)
_LONG_GAP = 6.0
"""A pause so many times the median time between recordings begins a new session."""
_FEWEST = 3
"""Fewer groups cannot calibrate a threshold, so that another way to find groups is tried."""
_COMPONENTS = 10
"""Principal components of the features in which runs are found."""
_LIKE, _APART = 5, 0.2
"""Recordings are compared with this many that are most like them and at least this fraction of all away."""
_ALIKE = 0.98
"""Successive recordings of a run are as far apart as any two of it where the means have at least this ratio."""
_RUNS, _SIGNIFICANT = 0.95, 0.01
"""Successive recordings form runs where they are at most this fraction as far apart as others, and by chance with
at most this probability."""
_TOGETHER = 1 << 22
"""Distances in memory at a time, 32 MB: up to 2,048 recordings are compared in one block."""


@dataclass(frozen=True, kw_only=True)
class Grouping(Entry):
    """A way to find groups.

    Attributes:
        find: from clips and their features (clips, dim), or None where there are none yet, to the name of each
            clip's group; None where it finds nothing.
        lasting: whether a name is of the session itself, so that recordings that are added later with the same
            name are of the same group; numbers of groups are not.
        caution: what the groups do not show, in words.
    """

    find: Callable[[Sequence[Clip], Features | None], Labels | None]
    lasting: bool = False
    caution: str | None = None


@dataclass(frozen=True, slots=True)
class Groups:
    """The group of each clip, a phrase that says how they were found, and what limits what they can promise."""

    labels: tuple[str, ...]
    found_by: str
    remark: str | None = None

    def __post_init__(self) -> None:
        """Labels are parts of names, which need not be UTF-8; those in files of results are."""
        object.__setattr__(self, "labels", tuple(map(as_text, self.labels)))

    @property
    def count(self) -> int:
        """The number of different groups."""
        return len(set(self.labels))


GROUPINGS: Registry[Grouping] = Registry("grouping")
"""In the order in which ``auto`` tries them; an attribute's key or a regular expression is accepted as well."""


def find_groups(clips: Sequence[Clip], by: str = AUTO, features: Features | None = None) -> Groups:
    """The groups of the normal recordings of one machine.

    Args:
        clips: in any order.
        by: ``auto``, a name in :data:`GROUPINGS`, the key of an attribute, or a regular expression whose first
            parenthesis matches the group in the file's path.
        features: (clips, dim), for groups of successive recordings.

    Raises:
        InputError: if ``by`` is none of these, or does not apply to every clip.
    """
    if by == AUTO:
        remark = None
        for entry in GROUPINGS.values():
            labels = entry.find(clips, features)
            if labels is not None and len(set(labels)) >= _FEWEST:
                return Groups(tuple(labels), entry.description)
            if labels is not None and len(set(labels)) > 1:
                remark = (
                    f"only {len(set(labels))} sessions by {entry.description}: the false-alarm rate is promised "
                    "for new recordings of these sessions; record on more days for one that holds on other days"
                )
        return replace(_each(clips), remark=remark)
    if by in GROUPINGS:
        labels = GROUPINGS[by].find(clips, features)
        if labels is None:
            return _each(clips)
        return Groups(tuple(labels), GROUPINGS[by].description)
    if "(" in by:
        return Groups(tuple(_matched(clips, by)), f"the pattern {by}")
    found = _by_attribute(clips, by)
    if found is None:
        keys = sorted({key for clip in clips for key, _ in clip.attributes})
        raise InputError(
            clips[0].path if clips else "group_by",
            found=f"no attribute {by!r} of every recording" + (f" (but {', '.join(keys)})" if keys else ""),
            expected=f"{AUTO}, {', '.join(GROUPINGS)}, the key of an attribute, or a pattern like '(.*)_[0-9]+'",
            remedy="Correct calibration.group_by",
        )
    return Groups(tuple(found), f"the attribute {by}")


def caution_of(found_by: str) -> str | None:
    """What groups that were found in this way, as :class:`Groups` states it, do not show."""
    return next((entry.caution for entry in GROUPINGS.values() if entry.description == found_by), None)


def added_groups(
    clips: Sequence[Clip],
    known: Collection[str],
    found_by: str | None,
    by: str = AUTO,
    features: Features | None = None,
) -> tuple[str, ...]:
    """The groups of recordings that are added to others, found in the same way; the others keep theirs.

    Where that way finds nothing in them, all are one new group: recordings that are added together are mostly of
    one session.

    Args:
        clips: those that are added.
        known: names of the groups of the others.
        found_by: how these were found, as :class:`Groups` states it; None: each recording is a group.
        by: as for :func:`find_groups`, where ``found_by`` is an attribute or a pattern.
        features: (clips, dim) of those that are added.
    """
    way = next((entry for entry in GROUPINGS.values() if entry.description == found_by), None)
    labels: Sequence[str] | None
    if found_by is None or way is GROUPINGS["recording"]:
        labels, lasting = _each(clips).labels, False
    elif way is not None:
        labels, lasting = way.find(clips, features), way.lasting
    else:
        try:
            labels, lasting = find_groups(clips, by).labels, True
        except InputError:
            labels, lasting = None, False
    if labels is None:
        labels, lasting = ["added"] * len(clips), False
    names = {label: label if lasting else _unused(label, known) for label in labels}
    return tuple(names[label] for label in labels)


def _unused(label: str, known: Collection[str]) -> str:
    """The label, with a number where there is one of that name already."""
    number, name = 1, label
    while name in known:
        number += 1
        name = f"{label} ({number})"
    return name


def _each(clips: Sequence[Clip]) -> Groups:
    return Groups(tuple(str(clip.path) for clip in clips), GROUPINGS["recording"].description)


def _matched(clips: Sequence[Clip], pattern: str) -> Labels:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            "group_by", found=f"{pattern!r} ({error})", expected="a regular expression", remedy="Correct it"
        ) from None
    labels = []
    for clip in clips:
        match = compiled.search(clip.path.as_posix()) if compiled.groups else None
        if match is None or match[1] is None:
            raise InputError(
                clip.path,
                found=f"a path that the pattern {pattern!r} does not match",
                expected="a pattern with one parenthesis, which matches the group in every path",
                remedy="Correct calibration.group_by",
            )
        labels.append(match[1])
    return labels


def _by_attribute(clips: Sequence[Clip], key: str) -> Labels | None:
    values = [dict(clip.attributes).get(key) for clip in clips]
    return None if not values or None in values else [str(value) for value in values]


def _by_session(clips: Sequence[Clip], features: Features | None) -> Labels | None:
    found = (_by_attribute(clips, key) for key in SESSION_KEYS)
    return next((labels for labels in found if labels is not None and len(set(labels)) > 1), None)


def _by_folder(clips: Sequence[Clip], features: Features | None) -> Labels | None:
    folders = [str(clip.path.parent) for clip in clips]
    return folders if len(set(folders)) > 1 else None


def _by_name(clips: Sequence[Clip], features: Features | None) -> Labels | None:
    matches = [_PART.fullmatch(clip.path.stem) for clip in clips]
    if any(match is None for match in matches):
        return None
    labels = [match["group"] for match in matches if match is not None]
    sizes = Counter(labels)
    return labels if 1 < len(sizes) < len(labels) else None


def _by_time(clips: Sequence[Clip], features: Features | None) -> Labels | None:
    found = [_TIME.search(clip.path.stem) for clip in clips]
    if len(clips) < _FEWEST or any(match is None for match in found):
        return None
    parts = [[int(part or 0) for part in match.groups()] for match in found if match is not None]
    try:
        times = [datetime(part[0], part[1], part[2], part[3], part[4], part[5]) for part in parts]
    except ValueError:  # such as 30 February
        return None
    seconds = np.array([(time - times[0]).total_seconds() for time in times])
    order = np.argsort(seconds, kind="stable")
    gaps = np.diff(seconds[order])
    begins = np.concatenate([[False], gaps > _LONG_GAP * max(float(np.median(gaps)), 1.0)])
    labels: Labels = [""] * len(clips)
    for index, session in zip(order, np.cumsum(begins), strict=True):
        labels[index] = f"session {session + 1}"
    days = [str(time.date()) for time in times]
    return labels if len(set(labels)) >= _FEWEST or len(set(days)) < _FEWEST else days


def _by_order(clips: Sequence[Clip], features: Features | None) -> Labels | None:
    """Runs of recordings, in the order of their names, whose features are alike.

    Operating conditions are taken out first: known ones by their means, others by the difference of each recording
    from the recordings that are most like it and far from it in the order, so that conditions that alternate do
    not hide sessions. The number of runs is the smallest at which successive recordings of a run are as far apart
    as any two of it.
    """
    if features is None or len(clips) < 4 * _FEWEST:
        return None
    import sklearn.cluster  # noqa: F401 - its libraries are there then

    with libraries_on_one_thread():
        return _runs_in_order(clips, features)


def _runs_in_order(clips: Sequence[Clip], features: Features) -> Labels | None:
    from scipy.sparse import diags_array
    from sklearn.cluster import AgglomerativeClustering

    count = len(clips)
    order = sorted(range(count), key=lambda index: natural_order(clips[index].path))
    values = _without_conditions(features, [(clip.domain, clip.attributes) for clip in clips])[order]
    spread = values.std(axis=0)
    values = _principal(values[:, spread > 0] / spread[spread > 0])
    if not values.shape[1] or not _has_runs(values):
        return None
    values = _without_like(values)
    chain = diags_array([1.0, 1.0], offsets=[-1, 1], shape=(count, count), format="csr")
    runs = np.arange(count)
    for number in np.unique(np.geomspace(_FEWEST, count // 2, 24).astype(int)):
        runs = AgglomerativeClustering(int(number), connectivity=chain, linkage="ward").fit_predict(values)
        if _ratio(values, runs) >= _ALIKE:
            break
    labels: Labels = [""] * count
    for index, run in zip(order, runs, strict=True):
        labels[index] = f"run {run + 1}"
    return labels


def _principal(values: Features) -> Features:
    """The leading principal components, in which sessions differ most."""
    u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    components: Features = (u * s)[:, :_COMPONENTS]
    return components


def _ratio(values: Features, runs: NDArray[np.int64]) -> float:
    """The mean distance of successive recordings of a run over that of all pairs in its run; 1 without pairs.

    Args:
        values: (recordings, dim), in order.
        runs: (recordings,), the number of each recording's run; a run is without gaps.
    """
    members = np.split(values, np.flatnonzero(np.diff(runs)) + 1)
    pairs = sum(len(own) * (len(own) - 1) // 2 for own in members)
    every = sum(_sum_of_pairs(own) for own in members)
    if every <= 0:
        return 1.0
    steps = np.concatenate([np.linalg.norm(np.diff(own, axis=0), axis=1) for own in members])
    return float(steps.mean() / (every / pairs))


def _without_conditions(features: Features, conditions: Sequence[Hashable]) -> Features:
    """Features with the mean of their operating condition subtracted, where it has several recordings."""
    out = features.astype(np.float64, copy=True)
    of_condition: dict[Hashable, list[int]] = {}
    for index, condition in enumerate(conditions):
        of_condition.setdefault(condition, []).append(index)
    for members in of_condition.values():
        out[members] -= out[members].mean(axis=0)
    return out


def _without_like(values: Features) -> Features:
    """Rows minus the mean of the rows that are most like them, of those that are far from them in the order.

    What rows share because of an unknown operating condition is gone; what a session has of its own stays.

    Args:
        values: (rows, dim), in order.
    """
    place, reach = np.arange(len(values)), int(_APART * len(values))
    out = np.empty_like(values)
    for rows, distances in _distances(values):
        distances[np.abs(place[rows, None] - place[None]) <= reach] = np.inf
        like = np.argpartition(distances, _LIKE, axis=1)[:, :_LIKE]
        out[rows] = values[rows] - values[like].mean(axis=1)
    return out


def _has_runs(values: Features, draws: int = 99) -> bool:
    """Whether successive rows differ alike from rows that are like them, more than in random orders.

    A permutation test: what is compared is computed anew in every random order.
    """
    count = len(values)
    if _sum_of_pairs(values) == 0:
        return False

    def apart(order: NDArray[np.int64]) -> float:
        """The mean distance of successive rows over that of all."""
        rest = _without_like(values[order])
        every = 2.0 * _sum_of_pairs(rest) / (count * (count - 1))
        return float(np.linalg.norm(np.diff(rest, axis=0), axis=1).mean() / every) if every else 1.0

    found = apart(np.arange(count))
    if found > _RUNS:
        return False
    random = np.random.default_rng(0)
    as_near = 0
    for _ in range(draws):
        as_near += apart(random.permutation(count)) <= found
        if (1 + as_near) / (1 + draws) > _SIGNIFICANT:
            return False
    return True


def _sum_of_pairs(values: Features) -> float:
    """The sum of the distances of all pairs of rows, each counted once."""
    return sum(float(distances.sum()) for _, distances in _distances(values)) / 2.0


def _distances(values: Features) -> Iterator[tuple[slice, Features]]:
    """The distances of all rows (rows, dim) to all rows, a block of rows at a time, to bound the memory.

    Yields:
        the rows of a block, and their distances (rows of the block, rows) float64, which may be changed.
    """
    squares = np.einsum("ij,ij->i", values, values)
    size = max(1, _TOGETHER // max(1, len(values)))
    for begin in range(0, len(values), size):
        rows = slice(begin, begin + size)
        distances = values[rows] @ values.T
        distances *= -2.0
        distances += squares[rows, None]
        distances += squares
        yield rows, np.sqrt(np.maximum(distances, 0.0, out=distances), out=distances)


def natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts ``2.wav`` before ``10.wav``."""
    parts = re.split(r"(\d+)", str(path))
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


GROUPINGS["session"] = Grouping(find=_by_session, description="an attribute that names sessions", lasting=True)
GROUPINGS["time"] = Grouping(find=_by_time, description="pauses between the time stamps in file names")
GROUPINGS["folder"] = Grouping(find=_by_folder, description="sub-folders", lasting=True)
GROUPINGS["name"] = Grouping(find=_by_name, description="numbered sessions in file names", lasting=True)
GROUPINGS["order"] = Grouping(
    find=_by_order,
    description="runs of successive recordings that are alike",
    caution="sessions that do not show in the features are not among them",
)
GROUPINGS["recording"] = Grouping(
    find=lambda clips, features: None,
    description="single recordings",
    caution="no sessions are known, so the rate holds for recordings made as these were, not for other days",
)
