"""The page about a detector: thresholds, scores of its normal recordings, and how it was fitted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.challenge.run import data_note
from nearfar.charts import Points, exceedance, histogram
from nearfar.data import Clip, Dataset, read_normals
from nearfar.detector.machine import FittedMachine
from nearfar.detector.routing import machine_names
from nearfar.detector.store import Card, read_banks, read_calibrations, read_card, read_thresholds
from nearfar.errors import InputError
from nearfar.progress import Progress, silent
from nearfar.report.examples import PER_KIND, Candidate, Example, make_examples
from nearfar.report.machine_charts import (
    map_chart,
    named_thresholds,
    percent,
    percent_above,
    principal_components,
    score_row,
    score_table,
    views_chart,
)
from nearfar.report.page import (
    MachineSection,
    Page,
    PageChart,
    PageTable,
    channel_notes,
    channel_table,
    machine_sections,
    write_page,
)
from nearfar.thresholds import Calibration, Threshold


@dataclass(frozen=True, slots=True, eq=False)
class UnitFacts:
    """One machine and section of a detector; ``recordings`` is empty where no data is given."""

    name: str
    fitted: FittedMachine
    calibration: Calibration
    thresholds: tuple[Threshold, ...]
    recordings: tuple[Clip, ...]

    def named_thresholds(self) -> list[tuple[str, float]]:
        """(name, score) of the thresholds that have a value."""
        return named_thresholds((entry.domain, entry.value) for entry in self.thresholds)

    def threshold(self, domain: str | None) -> float | None:
        """The threshold of a domain, or that of both domains."""
        values: dict[str | None, float | None] = {entry.domain: entry.value for entry in self.thresholds}
        return values.get(domain, values.get(None))

    def groups(self) -> list[tuple[str, str, NDArray[np.bool_]]]:
        """(name, kind, mask) of the scored recordings by domain."""
        domains = np.array([entry.domain for entry in self.calibration.recordings])
        return [
            (f"{domain}, normal", f"{domain} normal", domains == domain) for domain in self.calibration.domains
        ]


def report_detector(folder: Path, out: Path, *, data: Path | None = None, progress: Progress = silent) -> Path:
    """Write the page about a detector, one HTML file that needs no network.

    Args:
        folder: a detector as ``nearfar fit`` writes it.
        out: the HTML file; it appears whole or not at all.
        data: the normal recordings it was fitted on, for spectrograms and audio of some of them.
        progress: called after each machine.

    Raises:
        InputError: if the folder holds no complete detector, or ``data`` not its recordings.
        NearfarError: if the page cannot be written.
    """
    card = read_card(folder)
    units = _read_units(folder, card, data)
    sections = machine_sections(units, lambda unit, anchor: _section(unit, card, anchor), progress)
    note = (
        "A detector holds no audio. nearfar report DETECTOR --data FOLDER, with its normal recordings, adds "
        "spectrograms and audio of some of them."
        if data is None
        else data_note(data)
    )
    page = _page(folder.resolve().name, card, units, sections, () if note is None else (note,))
    return write_page(out, "page.html.j2", page)


def _read_units(folder: Path, card: Card, data: Path | None) -> list[UnitFacts]:
    banks, thresholds = read_banks(folder, card), read_thresholds(folder)
    calibrations = {(entry.machine, entry.section): entry for entry in read_calibrations(folder)}
    dataset = None if data is None else _recordings(data, banks)
    units = []
    for name, bank in zip(machine_names(banks), banks, strict=True):
        unit = (bank.machine, bank.section)
        if unit not in calibrations:
            raise InputError(
                folder,
                found=f"no scores of {name} in calibration.json",
                expected="scores of every machine",
                remedy="Restore the file, or fit the detector again",
            )
        clips = () if dataset is None else dataset.train(bank.machine)
        units.append(
            UnitFacts(
                name,
                bank,
                calibrations[unit],
                tuple(entry for entry in thresholds if (entry.machine, entry.section) == unit),
                tuple(clip for clip in clips if clip.section == bank.section),
            )
        )
    return units


def _recordings(data: Path, banks: tuple[FittedMachine, ...]) -> Dataset:
    machines = {bank.machine for bank in banks}
    dataset = read_normals(data, next(iter(machines)) if len(machines) == 1 else None)
    fitted = {(bank.machine, name) for bank in banks for name in bank.recordings}
    if not any((clip.machine, clip.name) in fitted for clip in dataset.clips):
        raise InputError(
            data,
            found="none of the detector's recordings",
            expected=f"the normal recordings of {', '.join(sorted(machines))} that it was fitted on",
            remedy="Give the folder that it was fitted on, or none",
        )
    return dataset


# --- the page ---------------------------------------------------------------------------------------------------


def _page(
    name: str, card: Card, units: list[UnitFacts], sections: tuple[MachineSection, ...], notes: tuple[str, ...]
) -> Page:
    clip, encoder = card.clip, card.encoder
    rows = [
        ("recipe", card.recipe.name),
        ("channels", ", ".join(f"{name} (channel {number})" for name, number in clip.channels.items())),
        ("windows", f"{clip.seconds:g} s, one every {clip.hop_seconds:g} s, {clip.sample_rate_hz} Hz"),
        ("encoder", "none" if encoder is None else f"{encoder.weights} ({encoder.hash[:12]})"),
        ("classes", ", ".join(card.classes) or "none: nothing was trained"),
        ("nearfar", card.nearfar),
    ]
    return Page(
        kind="Detector",
        title=name,
        description=card.recipe.description,
        notes=(*notes, *channel_notes(card.channel_warnings)),
        summary=(_thresholds_table(units),),
        machines=sections,
        tables=(
            PageTable("Specification", ("property", "value"), tuple(rows), ends_in_text=True),
            channel_table(card.channel_warnings, "There was no warning when the detector was fitted."),
        ),
        texts=(("Recipe", card.recipe.to_toml()), ("Environment", json.dumps(card.made_with, indent=1))),
    )


def _thresholds_table(units: list[UnitFacts]) -> PageTable:
    rows = []
    for unit in units:
        for entry in unit.thresholds:
            rate = entry.false_alarm_rate
            rows.append(
                (
                    unit.name,
                    entry.domain or "both",
                    "–" if entry.value is None else f"{entry.value:.4g}",
                    "–" if rate is None else f"{'at most' if entry.guaranteed else 'about'} {percent(rate)}",
                    entry.rule,
                    str(entry.recordings),
                    entry.remark or "–",
                )
            )
    columns = ("machine", "domain", "threshold", "false alarms", "rule", "normal scores", "remark")
    caption = "A recording with a higher score is classified as anomalous. False alarms: the requested rate."
    return PageTable("Thresholds", columns, tuple(rows), caption, ends_in_text=True)


def _section(facts: UnitFacts, card: Card, anchor: str) -> MachineSection:
    """Charts and examples of one machine of a detector."""
    calibration, bank = facts.calibration, facts.fitted
    charts = [_histogram(facts), _false_alarms(facts)] if calibration.recordings else []
    views = tuple(calibration.recordings[0].channels) if calibration.recordings else ()
    if len(views) > 1:
        scores = np.array([[entry.channels[view] for view in views[:2]] for entry in calibration.recordings])
        points = [Points(name, kind, scores[mask, 0], scores[mask, 1]) for name, kind, mask in facts.groups()]
        charts.append(views_chart(facts.name, (views[0], views[1]), points))
    if len(bank.recording) > 1:
        features = {
            view: table.reshape(len(table), -1).numpy().astype(np.float64) for view, table in bank.features.items()
        }
        clip_map = principal_components({view: (rows, rows[:0]) for view, rows in features.items()})
        charts.append(map_chart(facts.name, clip_map, bank.target[bank.recording], []))
    counts = f"{len(bank.recordings)} normal recordings in {len(bank.recording)} windows"
    rows = []
    for domain in calibration.domains:
        scores, value = calibration.scores(domain), facts.threshold(domain)
        above = None if value is None else percent_above(scores, value)
        rows.append(score_row(f"{domain}, normal", scores, above))
    return MachineSection(
        facts.name,
        anchor,
        f"{counts}; scores for thresholds: {calibration.method}",
        tuple(charts),
        score_table(rows, facts.named_thresholds()),
        tuple(_examples(facts, card)),
    )


def _histogram(facts: UnitFacts) -> PageChart:
    scores = facts.calibration.scores()
    drawing = histogram(
        [(name, kind, scores[mask]) for name, kind, mask in facts.groups()],
        f"Histogram of scores of normal recordings of {facts.name}",
        facts.named_thresholds(),
    )
    caption = "Every recording is scored against normal recordings without itself."
    return PageChart("Scores of normal recordings", drawing.svg(), caption)


def _false_alarms(facts: UnitFacts) -> PageChart:
    """Normal recordings above every possible threshold; by domain where domains have thresholds of their own."""
    groups, above = [], []
    own: list[str | None] = [entry.domain for entry in facts.thresholds if entry.domain is not None]
    for domain in own or [None]:
        name = "normal recordings" if domain is None else f"normal recordings, {domain}"
        scores, value = facts.calibration.scores(domain), facts.threshold(domain)
        groups.append((name, "normal" if domain is None else f"{domain} normal", scores))
        if value is not None:
            above.append(f"{percent_above(scores, value)} of {name}")
    title = f"Fraction of normal recordings of {facts.name} above a threshold"
    drawing = exceedance(groups, facts.named_thresholds(), title)
    sentences = [f"Above the threshold: {', '.join(above)}."] if above else []
    rates = {entry.false_alarm_rate for entry in facts.thresholds if entry.false_alarm_rate is not None}
    if rates:
        sentences.append(f"Requested: {', '.join(percent(rate) for rate in sorted(rates))}.")
    sentences.append("To change it: nearfar threshold DETECTOR --false-alarm-rate RATE.")
    return PageChart("Threshold and false alarms", drawing.svg(), " ".join(sentences))


def _examples(facts: UnitFacts, card: Card) -> list[Example]:
    """The normal recordings with the highest scores, compared with the others."""
    by_name = {clip.name: clip for clip in facts.recordings}
    highest = sorted(facts.calibration.recordings, key=lambda entry: -entry.score)[: 2 * PER_KIND]
    candidates = [
        Candidate("highest normal", by_name[entry.file], entry.domain, entry.score)
        for entry in highest
        if entry.file in by_name
    ]
    names = {candidate.clip.name for candidate in candidates}
    others = [clip for clip in facts.recordings if clip.name not in names]
    return make_examples(candidates, others, card.recipe)
