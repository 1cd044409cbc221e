"""The page about new recordings: what a detector says about each, and the highest scores with their sounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.challenge.run import data_note
from nearfar.charts import Points, histogram, scatter
from nearfar.data import Clip
from nearfar.data.walk import recordings_in
from nearfar.detector.detector import Detector
from nearfar.detector.store import Card, read_card
from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.files import as_text
from nearfar.progress import Progress, silent
from nearfar.report.detector_page import specification_table
from nearfar.report.examples import PER_KIND, Example, view_of, with_media
from nearfar.report.machine_charts import percent_above, score_table, view_chart
from nearfar.report.page import MachineSection, Page, PageChart, PageTable, track, write_page
from nearfar.report.verdict import counted, listed, problems_clause, verdict
from nearfar.scores import Failure, Score, scored
from nearfar.thresholds import Calibration, Threshold

MOST_ROWS = 20
"""Rows of the tables of recordings, those with the highest scores against their thresholds."""
EXAMPLES = 2 * PER_KIND
"""Recordings of a machine with spectrogram and sounds."""


@dataclass(frozen=True, slots=True, eq=False)
class NewRecordings:
    """The scores of one machine, in the order of the files, and what they are compared with."""

    name: str
    scores: tuple[Score, ...]
    calibration: Calibration
    thresholds: tuple[Threshold, ...]

    def count(self, status: str) -> int:
        """How many recordings have a status of :attr:`nearfar.scores.Score.status`."""
        return sum(entry.status == status for entry in self.scores)

    def values(self) -> NDArray[np.float64]:
        """(recordings,)."""
        return np.array([entry.score for entry in self.scores])

    def lines(self) -> list[tuple[str, float]]:
        """(name, score) of the thresholds that the recordings were compared with."""
        used = {(entry.domain, entry.threshold) for entry in self.scores if entry.threshold is not None}
        return [
            (f"threshold, {domain}" if domain else "threshold", value)
            for domain, value in sorted(used, key=str)
            if value is not None
        ]


@dataclass(frozen=True, slots=True)
class ScoresPage:
    """A page that was written, with the numbers of recordings that it is about and that could not be scored."""

    out: Path
    recordings: int
    failed: int


def report_scores(
    folder: Path,
    recordings: Path,
    out: Path,
    *,
    machine: str | None = None,
    encoder: str | None = None,
    progress: Progress = silent,
) -> ScoresPage:
    """Score recordings and write the page about them, one HTML file that needs no network.

    Args:
        folder: a detector as ``nearfar fit`` writes it.
        recordings: a recording, or a folder of them.
        out: the HTML file; it appears whole or not at all.
        machine: of the recordings; None for the name of the folder they are in.
        encoder: path of the detector's encoder, if it has moved.
        progress: called as recordings are scored and after each machine.

    Raises:
        InputError: if the folder holds no complete detector, or ``recordings`` is missing or holds none.
        NearfarError: if the page cannot be written.
    """
    require_extras("a report", "report")
    card = read_card(folder)
    if not recordings.exists():
        raise InputError(
            recordings, found="no such file or folder", expected="recordings to score", remedy="Check the path"
        )
    files = recordings_in([recordings])
    detector = Detector.load(folder, encoder=encoder)
    entries = list(detector.score_many(files, machine, keep_errors=True, progress=progress))
    found, failures = scored(entries), [entry for entry in entries if isinstance(entry, Failure)]
    machines = _by_machine(detector, found)
    problems = _problems(machines, failures, len(entries), recordings)
    thresholds = [one for entry in machines for one in entry.thresholds] or detector.thresholds
    note = data_note(recordings)
    page = Page(
        kind="Scores",
        title=recordings.resolve().name,
        verdict=_verdict(machines, thresholds, problems, len(entries), len(failures)),
        examples_heading="Recordings with the highest scores",
        description=f"Scored by the detector {folder.resolve().name}. {card.recipe.description}",
        notes=(*filter(None, [note]), *(drift.message for drift in detector.drift(found) if drift.changed)),
        summary=(
            *([_machines_table(machines)] if len(machines) > 1 else []),
            _recordings_table(found, recordings),
            *([_failures_table(failures, recordings)] if failures else []),
            _problems_table(problems),
        ),
        machines=tuple(_section(entry, card, recordings) for entry in track(machines, progress)),
        tables=(specification_table(card),),
        texts=(("Recipe", card.recipe.to_toml()), ("Environment", json.dumps(card.made_with, indent=1))),
    )
    return ScoresPage(write_page(out, "page.html.j2", page), len(entries), len(failures))


def _by_machine(detector: Detector, found: Sequence[Score]) -> list[NewRecordings]:
    """The machines that recordings are of, in the order of the detector."""
    out = []
    for name, calibration in zip(detector.machines, detector.calibrations, strict=True):
        own = tuple(entry for entry in found if entry.machine == name)
        key = (calibration.machine, calibration.section)
        thresholds = tuple(entry for entry in detector.thresholds if (entry.machine, entry.section) == key)
        if own:
            out.append(NewRecordings(name, own, calibration, thresholds))
    return out


# --- in words ---------------------------------------------------------------------------------------------------


def _verdict(
    machines: Sequence[NewRecordings],
    thresholds: Sequence[Threshold],
    problems: Sequence[_Problems],
    recordings: int,
    failed: int,
) -> str:
    """How many recordings are anomalous, what the thresholds promise, and what is wrong with the microphones."""
    anomalous = [f"{entry.count('anomalous')} of {entry.name}" for entry in machines if entry.count("anomalous")]
    total, aside = (sum(entry.count(status) for entry in machines) for status in ("anomalous", "not comparable"))
    opening = f"{total or 'None'} of {counted(recordings, 'recording')} {'is' if total < 2 else 'are'} anomalous"
    if len(machines) > 1 and anomalous:
        opening += f" ({listed(anomalous)})"
    if aside:
        opening += f", {aside} cannot be compared with the normal ones"
    if failed:
        opening += f", {failed} could not be scored"
    said = [(entry.machine or entry.file, f"{entry.message}, in {entry.number}") for entry in problems]
    return verdict(opening, thresholds, problems_clause(said))


@dataclass(frozen=True, slots=True)
class _Problems:
    """Recordings that differ from the normal ones by microphone or recorder; those not scored have no machine."""

    machine: str
    check: str
    number: str
    file: str
    message: str


def _problems(
    machines: Sequence[NewRecordings], failures: Sequence[Failure], recordings: int, folder: Path
) -> list[_Problems]:
    """What is wrong with the microphones: dead ones first, then by machine the most frequent first."""
    cases: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for failure in failures:
        for problem in failure.quality:
            cases.setdefault(("", problem.check), []).append((failure.file, failure.error.found))
    for machine in machines:
        for entry in machine.scores:
            for problem in entry.quality:
                cases.setdefault((machine.name, problem.check), []).append((entry.file, problem.message))
    names = ["", *(machine.name for machine in machines)]
    of = {"": recordings} | {machine.name: len(machine.scores) for machine in machines}
    rows = sorted(cases.items(), key=lambda item: (names.index(item[0][0]), -len(item[1])))
    return [
        _Problems(
            machine,
            check,
            f"{len(found)} of {counted(of[machine], 'recording')}",
            short_name(found[0][0], folder),
            found[0][1],
        )
        for (machine, check), found in rows
    ]


# --- tables -----------------------------------------------------------------------------------------------------


def _machines_table(machines: Sequence[NewRecordings]) -> PageTable:
    rows = []
    for entry in machines:
        row = (
            entry.name,
            str(len(entry.scores)),
            str(entry.count("anomalous")),
            str(entry.count("not comparable")),
            f"{entry.values().max():.4g}",
            ", ".join(f"{value:.4g}" for _, value in entry.lines()) or "–",
            ", ".join(dict.fromkeys(one.promise.replace(" %", "\N{NO-BREAK SPACE}%") for one in entry.thresholds)),
        )
        rows.append(row)
    columns = (
        "machine",
        "recordings",
        "anomalous",
        "not comparable",
        "highest score",
        "threshold",
        "false alarms",
    )
    caption = (
        "A recording with a higher score than the threshold is anomalous, unless microphone or recorder make it "
        "impossible to compare. False alarms: the fraction of new normal recordings that the threshold promises."
    )
    return PageTable("Machines", columns, tuple(rows), caption, ("false alarms",))


def _recordings_table(found: Sequence[Score], folder: Path) -> PageTable:
    """The recordings with the highest scores against their thresholds."""
    ordered = sorted(found, key=_urgency)
    rows = []
    for entry in ordered[:MOST_ROWS]:
        remarks = [problem.check for problem in entry.quality]
        remarks += [] if entry.like is None else [f"like {entry.like.fault}"]
        row = (
            short_name(entry.file, folder),
            entry.machine,
            f"{entry.score:.4g}",
            "–" if entry.margin is None else f"{entry.margin:+.3g}".replace("-", "\N{MINUS SIGN}"),
            "–" if entry.p_value is None else f"{entry.p_value:.2g}",
            entry.status,
            "–" if entry.departure is None else _region(entry),
            ", ".join(remarks) or "–",
        )
        rows.append(row)
    columns = (
        "recording",
        "machine",
        "score",
        "above threshold",
        "p\N{NON-BREAKING HYPHEN}value",
        "status",
        "departs most",
        "remark",
    )
    caption = (
        "Highest scores against their thresholds first. p\N{NON-BREAKING HYPHEN}value: the fraction of normal "
        "recordings that score as high, this one included."
    )
    if len(ordered) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(ordered):,}; nearfar score --csv lists all."
    if not rows:
        caption = "No recording could be scored."
    return PageTable("Recordings", columns, tuple(rows), caption, ("machine", "status", "departs most", "remark"))


def _urgency(entry: Score) -> tuple[bool, float]:
    """The order of recordings: by score above the threshold; those without a threshold last, by score."""
    return entry.margin is None, -(entry.score if entry.margin is None else entry.margin)


def _region(entry: Score) -> str:
    assert entry.departure is not None
    found = entry.departure
    low, high = (f"{hertz / 1000:.1f}" for hertz in (found.low_hz, found.high_hz))
    return f"{found.begin_s:.1f} to {found.end_s:.1f} s, {low} to {high} kHz"


def _failures_table(failures: Sequence[Failure], folder: Path) -> PageTable:
    rows = tuple((short_name(entry.file, folder), str(entry.error)) for entry in failures[:MOST_ROWS])
    caption = f"The first {MOST_ROWS} of {len(failures):,}." if len(failures) > MOST_ROWS else ""
    return PageTable("Not scored", ("recording", "reason"), rows, caption, ("reason",))


def _problems_table(problems: Sequence[_Problems]) -> PageTable:
    rows = tuple(
        (entry.machine or "not scored", entry.check, entry.number, entry.file, entry.message) for entry in problems
    )
    columns = ("machine", "problem", "recordings", "first of them", "found in it")
    caption = "" if rows else "No recording differs from the normal ones by the microphones or the recorder."
    return PageTable("Microphones and recorder", columns, rows, caption, ("problem", *columns[3:]))


# --- machines ---------------------------------------------------------------------------------------------------


def _section(machine: NewRecordings, card: Card, folder: Path) -> MachineSection:
    """Charts and examples of one machine."""
    new, normal, lines = machine.values(), machine.calibration.scores(), machine.lines()
    groups = [("new recordings", "new", new)]
    if normal.size:
        groups.insert(0, ("normal recordings", "normal", normal))
    title = f"Histogram of scores of new and of normal recordings of {machine.name}"
    caption = "Normal recordings are those of the detector, each scored against the others."
    charts = [PageChart("Scores", histogram(groups, title, lines).svg(), caption)]
    if len(new) > 1:
        charts.append(_in_order(machine))
    views = {view: np.array([entry.views[view] for entry in machine.scores]) for view in machine.scores[0].views}
    every = np.ones(len(new), dtype=bool)
    if len(views) > 1 and len(new) > 1:
        charts.append(view_chart(machine.name, views, [("new recordings", "new", every)]))
    windows = sum(len(entry.windows) for entry in machine.scores)
    counts = f"{counted(len(new), 'new recording')} in {counted(windows, 'window')}"
    threshold = lines[0][1] if len(lines) == 1 else None
    rows = [(name, scores, percent_above(scores, threshold)) for name, _, scores in groups]
    return MachineSection(
        machine.name,
        f"{counts}; compared with {counted(len(normal), 'score')} of normal recordings",
        tuple(charts),
        score_table(rows, lines),
        tuple(_examples(machine, card, folder)),
    )


def _in_order(machine: NewRecordings) -> PageChart:
    """The scores in the order of the files."""
    above = np.array([entry.anomalous is True for entry in machine.scores])
    number, scores = np.arange(1.0, len(above) + 1), machine.values()
    points = [
        Points(name, kind, number[mask], scores[mask])
        for name, kind, mask in (("anomalous", "new", above), ("other", "normal", ~above))
        if mask.any()
    ]
    title = f"Scores of new recordings of {machine.name} in the order of their names"
    chart = scatter(points, title, "recording", "anomaly score", levels=machine.lines())
    return PageChart("Scores in order", chart.svg(), "In the order of the names of files and folders.")


def _examples(machine: NewRecordings, card: Card, folder: Path) -> list[Example]:
    """The recordings with the highest scores against their thresholds, as they were scored."""
    out = []
    for entry in sorted(machine.scores, key=_urgency)[:EXAMPLES]:
        worst = max(entry.windows, key=lambda window: window.score)
        clip = Clip(
            Path(entry.file),
            machine.name,
            "00",
            "test",
            None,
            None,
            None,
            listed_as=short_name(entry.file, folder),
        )
        example = Example(
            entry.status,
            clip,
            entry.domain or "",
            entry.score,
            entry.anomalous,
            window_s=(worst.begin_s, worst.end_s) if len(entry.windows) > 1 else None,
            departure=entry.departure,
        )
        view = view_of(None if entry.departure is None else entry.departure.view, card.recipe)
        shown = with_media(example, view, card.recipe)
        if shown is not None:
            out.append(shown)
    return out


def short_name(file: str, folder: Path) -> str:
    """A recording's path inside the folder that was given, with ``/``; its name where that is the file itself.

    Spaces do not break lines, as names are broken anywhere.
    """
    path = Path(file)
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) and path != folder else path.name
    return as_text(name).replace(" ", "\N{NO-BREAK SPACE}")
