"""The page about a detector: thresholds, scores of its normal recordings, and how it was fitted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.challenge.run import data_note
from nearfar.charts import exceedance, histogram
from nearfar.data import Clip, Dataset, read_normals
from nearfar.data.channel_check import ChannelWarning
from nearfar.detector.departure import contributions_of
from nearfar.detector.encoder import loaded_extractor
from nearfar.detector.history import Change
from nearfar.detector.machine import FittedMachine
from nearfar.detector.routing import machine_names
from nearfar.detector.store import Card, read_banks, read_calibrations, read_card, read_history, read_thresholds
from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import Extractor, scored_dimensions
from nearfar.pipeline.windows import Recording
from nearfar.progress import Progress, silent
from nearfar.report.examples import PER_KIND, Example, make_examples
from nearfar.report.machine_charts import (
    percent_above,
    recording_map,
    score_table,
    threshold_name,
    view_chart,
)
from nearfar.report.page import MachineSection, Page, PageChart, PageTable, channel_table, track, write_page
from nearfar.report.verdict import NEAR_ALONE, counted, problems_clause, verdict
from nearfar.scoring import MachineScorer
from nearfar.thresholds import Calibration, Threshold, threshold_of
from nearfar.views import combined_features


@dataclass(frozen=True, slots=True, eq=False)
class DetectorMachine:
    """One machine and section of a detector; ``recordings`` is empty if no data is given."""

    name: str
    fitted: FittedMachine
    calibration: Calibration
    thresholds: tuple[Threshold, ...]
    recordings: tuple[Clip, ...]

    @property
    def fitted_on(self) -> set[str]:
        """Names of the normal recordings in the bank or held out of it for the threshold."""
        return {*self.fitted.recordings, *(entry.file for entry in self.calibration.recordings)}

    def named_thresholds(self) -> list[tuple[str, float]]:
        """(name, score) of the thresholds that have a value."""
        values = [(entry.domain, entry.value) for entry in self.thresholds]
        return [(threshold_name(domain), value) for domain, value in values if value is not None]

    def scores_and_percentage(self, domain: str | None) -> tuple[NDArray[np.float64], str | None]:
        """(recordings,) scores of a domain, or of both for None, and the percentage above its threshold."""
        values: dict[str | None, float | None] = {entry.domain: entry.value for entry in self.thresholds}
        scores = self.calibration.scores(domain)
        return scores, percent_above(scores, values.get(domain, values.get(None)))

    def is_above(self, score: float, domain: str) -> bool | None:
        """Whether a score is above the threshold of its domain; None without one."""
        found = threshold_of(self.thresholds, self.fitted.machine, self.fitted.section, domain)
        return None if found is None or found.value is None else score > found.value

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
        InputError: if the folder holds no complete detector, or ``data`` none of its recordings.
        NearfarError: if the page cannot be written.
    """
    require_extras("a report", "report")
    card = read_card(folder)
    machines = _read_machines(folder, card, data)
    note = (
        "A detector holds no audio. nearfar report DETECTOR --data FOLDER, with its normal recordings, adds "
        "spectrograms and audio of some of them."
        if data is None
        else data_note(data)
    )
    warnings = card.channel_warnings
    page = Page(
        kind="Detector",
        title=folder.resolve().name,
        verdict=_verdict(machines, warnings, card),
        examples_heading="Normal recordings with the highest scores",
        description=card.recipe.description,
        notes=(
            *([note] if note else []),
            *(f"Channels of {warning}" for warning in warnings),
        ),
        summary=(_thresholds_table(machines), _changes_table(read_history(folder, card)[0])),
        machines=tuple(_section(machine, card, folder) for machine in track(machines, progress)),
        tables=(
            specification_table(card),
            channel_table(warnings, "There was no warning when the detector was fitted."),
        ),
        texts=(("Recipe", card.recipe.to_toml()), ("Environment", json.dumps(card.made_with, indent=1))),
    )
    return write_page(out, "page.html.j2", page)


def specification_table(card: Card) -> PageTable:
    """What a detector reads and compares."""
    clip, encoder = card.clip, card.encoder
    rows = (
        ("recipe", card.recipe.name),
        ("channels", ", ".join(f"{name} (channel {number})" for name, number in clip.channels.items())),
        ("windows", f"{clip.seconds:g} s, one every {clip.hop_seconds:g} s, {clip.sample_rate_hz} Hz"),
        ("encoder", "none" if encoder is None else f"{encoder.weights} ({encoder.hash[:12]})"),
        ("classes", ", ".join(card.classes) or "none: nothing was trained"),
        ("nearfar", card.nearfar),
    )
    return PageTable("Specification", ("property", "value"), rows, text=("value",))


def _read_machines(folder: Path, card: Card, data: Path | None) -> list[DetectorMachine]:
    banks, read = read_banks(folder, card), read_calibrations(folder, card)
    thresholds = read_thresholds(folder, read)
    calibrations = {(entry.machine, entry.section): entry for entry in read}
    recordings = {} if data is None else _recordings(data, banks).groups()
    machines = []
    for name, bank in zip(machine_names(banks), banks, strict=True):
        key = (bank.machine, bank.section)
        if key not in calibrations:
            raise InputError(
                folder,
                found=f"no scores of {name} in calibration.json",
                expected="scores of every machine",
                remedy="Restore the file, or fit the detector again",
            )
        own = tuple(entry for entry in thresholds if (entry.machine, entry.section) == key)
        train, _ = recordings.get(key, ((), ()))
        machines.append(DetectorMachine(name, bank, calibrations[key], own, train))
    return machines


def _recordings(data: Path, banks: tuple[FittedMachine, ...]) -> Dataset:
    """The normal recordings in a folder, at least one of which the detector was fitted on."""
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


def _verdict(machines: list[DetectorMachine], warnings: Sequence[ChannelWarning], card: Card) -> str:
    """How much it was fitted on, what its thresholds promise, and what is wrong with the microphones."""
    recordings = sum(len(machine.fitted_on) for machine in machines)
    opening = f"Fitted on {counted(recordings, 'normal recording')} of {counted(len(machines), 'machine')}"
    thresholds = [entry for machine in machines for entry in machine.thresholds]
    microphones = problems_clause([(entry.machine, entry.message) for entry in warnings])
    alone = not warnings and "far" not in card.clip.channels
    return verdict(opening, thresholds, NEAR_ALONE if alone else microphones)


def _thresholds_table(machines: list[DetectorMachine]) -> PageTable:
    rows = []
    for name, entry in ((machine.name, entry) for machine in machines for entry in machine.thresholds):
        row = (
            name,
            entry.domain or "both",
            "–" if entry.value is None else f"{entry.value:.4g}",
            entry.promise.replace(" %", "\N{NO-BREAK SPACE}%"),
            entry.found_from,
            entry.rule,
            str(entry.recordings),
            "–" if entry.groups is None else str(entry.groups),
            _remarks(entry),
        )
        rows.append(row)
    columns = (
        "machine",
        "domain",
        "threshold",
        "false alarms",
        "from",
        "rule",
        "normal scores",
        "groups",
        "remark",
    )
    caption = (
        "A recording with a higher score is classified as anomalous. False alarms: the fraction of new normal "
        "recordings, made as these were, that the threshold promises: at most, on average over detectors; about, "
        "without a bound; in training, only of recordings that the model has seen. Groups: independent recordings "
        "or sessions, by which rates hold."
    )
    return PageTable(
        "Thresholds", columns, tuple(rows), caption, ("domain", "false alarms", "from", "rule", "remark")
    )


def _remarks(threshold: Threshold) -> str:
    rests_on = threshold.rests_on
    much = None if rests_on is None else f"would be much lower without {rests_on}: listen to that recording"
    return "; ".join(filter(None, (threshold.remark, much))) or "–"


def _changes_table(changes: Sequence[Change]) -> PageTable:
    """What was added since the detector was fitted, and what was undone."""
    rows = []
    for entry in changes:
        kind = "normal" if entry.fault is None else f"known fault {entry.fault}"
        unit = entry.machine if entry.section == "00" else f"{entry.machine}/{entry.section}"
        before, after = (
            ", ".join("–" if one.value is None else f"{one.value:.4g}" for one in thresholds)
            for thresholds in (entry.thresholds_before, entry.thresholds_after)
        )
        row = (
            entry.date.removesuffix("+00:00").replace("T", " "),
            unit,
            f"{len(entry.files)} {kind}",
            before if before == after else f"{before} → {after}",
            f"{entry.alarms_before} → {entry.alarms_after}",
            "–" if entry.undone is None else entry.undone.removesuffix("+00:00").replace("T", " "),
            entry.note or "–",
        )
        rows.append(row)
    columns = ("date (UTC)", "machine", "added", "threshold", "of these above it", "undone", "note")
    caption = (
        "nearfar undo DETECTOR takes the last change back." if rows else "It was not changed since it was fitted."
    )
    return PageTable("Changes", columns, tuple(rows), caption, ("machine", "added", "undone", "note"))


def _section(machine: DetectorMachine, card: Card, folder: Path) -> MachineSection:
    """Charts and examples of one machine of a detector."""
    calibration, bank = machine.calibration, machine.fitted
    recordings, groups = calibration.recordings, machine.groups()
    charts = []
    if recordings:
        scores = calibration.scores()
        scores_of_groups = [(name, kind, scores[mask]) for name, kind, mask in groups]
        title = f"Histogram of scores of normal recordings of {machine.name}"
        drawing = histogram(scores_of_groups, title, machine.named_thresholds())
        caption = "Every recording is scored against normal recordings without itself."
        charts = [PageChart("Scores of normal recordings", drawing.svg(), caption), _false_alarms(machine)]
        views = {view: np.array([entry.channels[view] for entry in recordings]) for view in recordings[0].channels}
        if len(views) > 1:
            charts.append(view_chart(machine.name, views, groups))
    if len(bank.recording) > 1:
        flat = {view: table.flatten(start_dim=1).double().numpy() for view, table in bank.features.items()}
        features = {view: (rows, rows[:0]) for view, rows in flat.items()}
        charts.append(recording_map(machine.name, features, bank.target[bank.recording]))
    counts = f"{len(bank.recordings)} normal recordings in {len(bank.recording)} windows"
    rows = [(f"{domain}, normal", *machine.scores_and_percentage(domain)) for domain in calibration.domains]
    return MachineSection(
        machine.name,
        f"{counts}; {_groups_text(calibration)}scores for thresholds: {calibration.method}",
        tuple(charts),
        score_table(rows, machine.named_thresholds()),
        tuple(_examples(machine, card, folder)),
        () if bank.reason is None else (f"{bank.reason[:1].upper()}{bank.reason[1:]}.",),
    )


def _groups_text(calibration: Calibration) -> str:
    count = len(set(calibration.groups().tolist()))
    if not count or calibration.grouped_by is None:  # of an earlier version
        return ""
    return f"{count} independent groups, by {calibration.grouped_by}; "


def _false_alarms(machine: DetectorMachine) -> PageChart:
    """Normal recordings above every possible threshold; by domain if domains have their own thresholds."""
    groups, above = [], []
    own: list[str | None] = [entry.domain for entry in machine.thresholds if entry.domain is not None]
    for domain in own or [None]:
        name = "normal recordings" if domain is None else f"normal recordings, {domain}"
        scores, percentage = machine.scores_and_percentage(domain)
        groups.append((name, "normal" if domain is None else f"{domain} normal", scores))
        if percentage is not None:
            above.append(f"{percentage} of {name}")
    title = f"Fraction of normal recordings of {machine.name} above a threshold"
    drawing = exceedance(groups, machine.named_thresholds(), title)
    sentences = [f"Above the threshold: {', '.join(above)}."] if above else []
    promises = {entry.promise: None for entry in machine.thresholds if entry.false_alarm_rate is not None}
    if promises:
        sentences.append(f"False alarms to expect: {', '.join(promises)}.".replace(" %", "\N{NO-BREAK SPACE}%"))
    sentences.append("To change it: nearfar threshold DETECTOR --false-alarm-rate RATE.")
    return PageChart("Threshold and false alarms", drawing.svg(), " ".join(sentences))


def _examples(machine: DetectorMachine, card: Card, folder: Path) -> list[Example]:
    """The normal recordings with the highest scores, compared with the others."""
    by_name = {clip.name: clip for clip in machine.recordings}
    highest = sorted(machine.calibration.recordings, key=lambda entry: -entry.score)[: 2 * PER_KIND]
    examples = [
        Example(
            "highest normal",
            by_name[entry.file],
            entry.domain,
            entry.score,
            machine.is_above(entry.score, entry.domain),
        )
        for entry in highest
        if entry.file in by_name
    ]
    names = {example.clip.name for example in examples}
    others = [clip for clip in machine.recordings if clip.name not in names]
    return make_examples(_explaining(machine, card, folder, examples), others, card.recipe)


def _explaining(machine: DetectorMachine, card: Card, folder: Path, examples: list[Example]) -> list[Example]:
    """Examples with their most anomalous window and what its score is made of, by a bank without all of them.

    Recordings that were held out of the bank stay as they are where their features cannot be computed.
    """
    bank, names = machine.fitted, [example.clip.name for example in examples]
    inside = torch.from_numpy(~np.isin(np.array(bank.recordings)[bank.recording], names))
    if not examples or not inside.any():
        return examples
    scorer = MachineScorer(
        {view: values[inside] for view, values in bank.features.items()},
        torch.from_numpy(bank.target[bank.recording])[inside],
        bank.plan,
        workspace=bank.workspace,
    )
    dimensions = scored_dimensions(card.recipe, bank.features)
    extractor = None if set(names) <= set(bank.recordings) else _extractor(card, folder)
    out = []
    for example in examples:
        features, begins_s = _windows(example.clip, bank, extractor)
        if not begins_s:
            out.append(example)
            continue
        scores = scorer.score(features).fused
        worst = int(scores.argmax())
        (parts,) = contributions_of(scorer, features, [worst], [float(scores[worst])], dimensions)
        window_s = (begins_s[worst], begins_s[worst] + card.clip.seconds) if len(begins_s) > 1 else None
        out.append(replace(example, parts=parts, window_s=window_s))
    return out


def _extractor(card: Card, folder: Path) -> Extractor | None:
    """The detector's extractor; None if its encoder is not here."""
    try:
        return loaded_extractor(card, folder, None)
    except InputError:
        return None


def _windows(
    clip: Clip, bank: FittedMachine, extractor: Extractor | None
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Features (windows, parts, dim) of a recording by view, of the bank or computed, and their begins."""
    rows = [row for row, number in enumerate(bank.recording) if bank.recordings[number] == clip.name]
    if rows:
        return {view: values[rows] for view, values in bank.features.items()}, bank.begins_s[rows].tolist()
    if extractor is None:
        return {}, []
    recipe = extractor.recipe
    found = extract(extractor, [Recording.of_clip(clip)], keep_errors=True)
    if found.errors:
        return {}, []
    features = {view: values[0] for view, values in found.features.items()}
    return combined_features(features, recipe.scoring.views, recipe.view_settings()), found.begins_s.tolist()
