"""What a page says of a detector: thresholds, scores of its normal recordings, and how it was fitted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.challenge.run import data_note
from nearfar.data.channel_check import ChannelWarning
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, read_normals
from nearfar.detector.bank import Bank
from nearfar.detector.routing import labels
from nearfar.detector.store import Card, read_banks, read_calibrations, read_card, read_thresholds
from nearfar.errors import InputError
from nearfar.files import write_text
from nearfar.report.drawing import Axis, Series, axis_of, histogram, legend, lines
from nearfar.report.examples import EACH, Example, shown
from nearfar.report.gather import principal_plane
from nearfar.report.page import Page, Progress, channels_table, now, render, sections_of, warned
from nearfar.report.sections import (
    Chart,
    MachineSection,
    Table,
    map_chart,
    percent,
    score_row,
    score_table,
    views_chart,
)
from nearfar.thresholds.calibration import Calibration
from nearfar.thresholds.detectors import Threshold


@dataclass(frozen=True, slots=True, eq=False)
class UnitFacts:
    """One machine and section of a detector; ``recordings`` is empty where they are not at hand."""

    name: str
    bank: Bank
    calibration: Calibration
    thresholds: tuple[Threshold, ...]
    recordings: tuple[Clip, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DetectorFacts:
    """A whole detector."""

    card: Card
    units: tuple[UnitFacts, ...]
    notes: tuple[str, ...]
    warnings: tuple[ChannelWarning, ...]


def report_detector(
    folder: Path, out: Path, *, data: Path | None = None, progress: Progress | None = None
) -> Path:
    """Write the page about a detector.

    Args:
        folder: what ``nearfar fit`` wrote.
        out: the HTML file; it appears whole or not at all.
        data: the normal recordings it was fitted on, to see and hear some of them.
        progress: called after each machine.

    Raises:
        InputError: if the folder holds no whole detector, or ``data`` not its recordings.
        NearfarError: if the page cannot be written.
    """
    facts = gather_detector(folder, data)
    sections = sections_of(facts.units, lambda unit, number: _section(unit, number, facts.card), progress)
    write_text(out, render(_page(folder.resolve().name, facts, sections)))
    return out


def gather_detector(folder: Path, data: Path | None = None) -> DetectorFacts:
    """Read a detector's folder.

    Args:
        folder: what ``nearfar fit`` wrote.
        data: the normal recordings it was fitted on, to see and hear some of them.

    Raises:
        InputError: if the folder holds no whole detector, or ``data`` not its recordings.
    """
    card = read_card(folder)
    banks, calibrations, thresholds = read_banks(folder, card), read_calibrations(folder), read_thresholds(folder)
    dataset = None if data is None else _recordings(data, banks)
    by_unit = {(entry.machine, entry.section): entry for entry in calibrations}
    units = []
    for name, bank in zip(labels(banks), banks, strict=True):
        unit = (bank.machine, bank.section)
        if unit not in by_unit:
            raise InputError(
                folder,
                found=f"no scores of {name} in calibration.json",
                expected="scores of every machine",
                remedy="Restore the file, or fit the detector again",
            )
        of_unit = tuple(entry for entry in thresholds if (entry.machine, entry.section) == unit)
        clips = () if dataset is None else dataset.train(bank.machine)
        own = tuple(clip for clip in clips if clip.section == bank.section)
        units.append(UnitFacts(name, bank, by_unit[unit], of_unit, own))
    missing = "A detector keeps no sound. Give --data FOLDER, its normal recordings, to see and hear some of them."
    return DetectorFacts(
        card,
        tuple(units),
        (missing,) if data is None else tuple(filter(None, [data_note(data)])),
        card.channel_warnings,
    )


def _recordings(data: Path, banks: tuple[Bank, ...]) -> Dataset:
    machines = {bank.machine for bank in banks}
    dataset = read_normals(data, next(iter(machines)) if len(machines) == 1 else None)
    known = {(bank.machine, name) for bank in banks for name in bank.recordings}
    if not any((clip.machine, clip.name) in known for clip in dataset.clips):
        raise InputError(
            data,
            found="none of the detector's recordings",
            expected=f"the normal recordings of {', '.join(sorted(machines))} that it was fitted on",
            remedy="Correct --data, or leave it out",
        )
    return dataset


def _page(name: str, facts: DetectorFacts, sections: tuple[MachineSection, ...]) -> Page:
    card = facts.card
    clip, encoder = card.clip, card.encoder
    heard = ", ".join(f"{name} (channel {number})" for name, number in clip.channels.items())
    rows = [
        ("recipe", card.recipe.name),
        ("channels", heard),
        ("windows", f"{clip.seconds:g} s, one every {clip.hop_seconds:g} s, {clip.sample_rate_hz} Hz"),
        ("encoder", "none" if encoder is None else f"{encoder.weights} ({encoder.hash[:12]})"),
        ("classes", ", ".join(card.classes) or "none: nothing was trained"),
        ("nearfar", card.nearfar),
    ]
    return Page(
        kind="Detector",
        title=name,
        description=card.recipe.description,
        notes=(*facts.notes, *warned(facts.warnings)),
        made=now(),
        quantities=(),
        rows=(),
        resamples=0,
        summary=(_thresholds_table(facts),),
        machines=sections,
        charts=(),
        tables=(
            Table("Specification", ("", "value"), tuple(rows), sentences=True),
            *channels_table(facts.warnings, "Nothing was warned of when it was fitted."),
        ),
        texts=(
            ("Recipe", card.recipe.to_toml()),
            ("Environment", json.dumps(card.made_with, indent=1)),
        ),
    )


def _thresholds_table(facts: DetectorFacts) -> Table:
    """The detector's thresholds, as they are now."""
    rows = []
    for unit in facts.units:
        for entry in unit.thresholds:
            rate = entry.false_alarm_rate
            rows.append(
                (
                    unit.name,
                    entry.domain or "both",
                    "–" if entry.value is None else f"{entry.value:.4g}",
                    "–" if rate is None else f"{'at most' if entry.guaranteed else 'about'} {percent(rate)}",
                    entry.method,
                    str(entry.recordings),
                    entry.remark or "–",
                )
            )
    columns = ("machine", "domain", "threshold", "false alarms", "method", "normal scores", "remark")
    caption = "A recording above the threshold is called anomalous. False alarms are as asked for."
    return Table("Thresholds", columns, tuple(rows), caption, sentences=True)


def _section(facts: UnitFacts, number: int, card: Card) -> MachineSection:
    """Charts and examples of one machine of a detector."""
    calibration = facts.calibration
    scored = bool(calibration.recordings)
    charts = [_histogram(facts), _false_alarms(facts)] if scored else []
    views = tuple(calibration.recordings[0].channels) if scored else ()
    if len(views) > 1:
        first, second = (
            np.array([entry.channels[view] for entry in calibration.recordings]) for view in views[:2]
        )
        groups = [(name, kind, first[mask], second[mask]) for name, kind, mask in _groups(facts)]
        charts.append(views_chart(facts.name, (views[0], views[1]), groups))
    if len(facts.bank.recording) > 1:
        charts.append(_map(facts))
    counts = f"{len(facts.bank.recordings)} normal recordings, heard in {len(facts.bank.recording)} windows"
    return MachineSection(
        facts.name,
        f"machine-{number}",
        f"{counts}; scored by {calibration.method}",
        tuple(charts),
        _numbers(facts),
        tuple(_examples(facts, card)),
    )


def _groups(facts: UnitFacts) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """(name, kind, mask) of the scored recordings by domain."""
    domains = np.array([entry.domain for entry in facts.calibration.recordings])
    return [(f"{domain}, normal", f"{domain} normal", domains == domain) for domain in facts.calibration.domains]


def _set(facts: UnitFacts) -> list[tuple[str, float]]:
    """Names and values of the thresholds that have one."""
    return [
        ("threshold" if entry.domain is None else f"threshold, {entry.domain}", entry.value)
        for entry in facts.thresholds
        if entry.value is not None
    ]


def _of_domain(facts: UnitFacts, domain: str | None) -> float | None:
    values: dict[str | None, float | None] = {entry.domain: entry.value for entry in facts.thresholds}
    return values.get(domain, values.get(None))


def _histogram(facts: UnitFacts) -> Chart:
    scores = facts.calibration.scores()
    groups = [(name, kind, scores[mask]) for name, kind, mask in _groups(facts)]
    return Chart(
        "Scores of normal recordings",
        histogram(groups, f"Histogram of scores of normal recordings of {facts.name}", _set(facts)),
        legend([(name, f"{kind} area") for name, kind, _ in groups]),
        "Every recording is scored by a bank that does not hold it.",
    )


def _false_alarms(facts: UnitFacts) -> Chart:
    """Normal recordings above every possible threshold; by domain where domains have their own."""
    own: list[str | None] = [entry.domain for entry in facts.thresholds if entry.domain is not None]
    x = axis_of([*facts.calibration.scores(), *(value for _, value in _set(facts))], "threshold")
    series, told = [], []
    for domain in own or [None]:
        scores = np.sort(facts.calibration.scores(domain))
        steps = np.concatenate([[x.low], np.repeat(scores, 2), [x.high]])
        above = np.repeat(1.0 - np.arange(len(scores) + 1) / len(scores), 2)
        name = "normal recordings" if domain is None else f"normal recordings, {domain}"
        series.append(Series(name, domain or "normal", steps, above))
        value = _of_domain(facts, domain)
        if value is not None:
            told.append(f"{percent(float(np.mean(scores > value)))} of {name}")
    series += [Series(name, "threshold", np.full(2, value), np.array([0.0, 1.0])) for name, value in _set(facts)]
    sentences = [f"Above the threshold: {', '.join(told)}."] if told else []
    asked = {entry.false_alarm_rate for entry in facts.thresholds if entry.false_alarm_rate is not None}
    if asked:
        sentences.append(f"Asked for: {', '.join(percent(rate) for rate in sorted(asked))}.")
    return Chart(
        "Threshold and false alarms",
        lines(
            series,
            f"Share of normal recordings of {facts.name} above a threshold",
            x,
            Axis(0.0, 1.0, "share above it"),
        ),
        legend([(line.name, f"{line.kind} line") for line in series]),
        " ".join([*sentences, "To change it: nearfar threshold DETECTOR --target-far RATE."]),
    )


def _map(facts: UnitFacts) -> Chart:
    bank = facts.bank
    table = {}
    for view, features in bank.features.items():
        rows = features.reshape(len(features), -1).numpy().astype(np.float64)
        table[view] = (rows, rows[:0])
    return map_chart(facts.name, principal_plane(table), bank.target[bank.recording], [])


def _numbers(facts: UnitFacts) -> Table:
    rows = [
        score_row(f"{domain}, normal", facts.calibration.scores(domain), _of_domain(facts, domain))
        for domain in facts.calibration.domains
    ]
    values = _set(facts)
    return score_table(rows, values[0][1] if len(values) == 1 else None)


def _examples(facts: UnitFacts, card: Card) -> list[Example]:
    """The normal recordings with the highest scores, beside the others."""
    by_name = {clip.name: clip for clip in facts.recordings}
    highest = sorted(facts.calibration.recordings, key=lambda entry: -entry.score)[: 2 * EACH]
    wanted = [
        ("highest normal", by_name[entry.file], entry.domain, entry.score)
        for entry in highest
        if entry.file in by_name
    ]
    names = {clip.name for _, clip, _, _ in wanted}
    others = [clip for clip in facts.recordings if clip.name not in names]
    return shown(wanted, others, card.recipe)
