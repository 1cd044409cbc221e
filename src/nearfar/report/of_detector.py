"""The page about a detector: what it takes for normal, where its thresholds lie and what they cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from nearfar.detector.bank import Bank
from nearfar.detector.calibration import Calibration
from nearfar.detector.detector import Detector
from nearfar.detector.folder import read_card
from nearfar.detector.thresholds import Threshold
from nearfar.files import write_text
from nearfar.report.drawing import Axis, Series, axis_of, histogram, legend, lines, scatter
from nearfar.report.page import Page, render
from nearfar.report.sections import Chart, MachineSection, share_above


def report_detector(folder: Path, out: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the page about a detector.

    Args:
        folder: what ``nearfar fit`` wrote.
        out: the HTML file; it appears whole or not at all.
        progress: called after each machine.

    Raises:
        InputError: if the folder holds no whole detector, or its encoder is not to be had.
        NearfarError: if the page cannot be written.
    """
    detector, card = Detector.load(folder), read_card(folder)
    sections = []
    for number, (bank, calibration) in enumerate(zip(detector.banks, detector.calibrations, strict=True), start=1):
        own = [
            entry
            for entry in detector.thresholds
            if (entry.machine, entry.section) == (bank.machine, bank.section)
        ]
        sections.append(_section(detector.machines[number - 1], number, bank, calibration, own))
        if progress is not None:
            progress(number, len(detector.banks))
    page = Page(
        title=f"Detector {folder.resolve().name}",
        description=detector.recipe.description,
        notes=tuple(f"{w.machine}: {w.message} {w.remedy}" for w in detector.channel_warnings),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        quantities=(),
        rows=(),
        resamples=0,
        machines=tuple(sections),
        tables=(
            _thresholds_table(detector),
            (
                "What it hears",
                ("of a recording", "value"),
                (
                    ("sample rate", f"{card.clip.sample_rate_hz} Hz"),
                    ("window", f"{card.clip.seconds:g} s, every {card.clip.hop_seconds:g} s"),
                    ("channels", ", ".join(f"{name} is channel {n}" for name, n in card.clip.channels.items())),
                    ("encoder", "none" if card.encoder is None else card.encoder.weights),
                ),
            ),
        ),
        texts=(
            ("Recipe", detector.recipe.to_toml()),
            ("Environment", json.dumps(card.made_with, indent=1)),
        ),
    )
    write_text(out, render(page))
    return out


def _thresholds_table(detector: Detector) -> tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    rows = [
        (
            entry.machine if entry.section == "00" else f"{entry.machine} {entry.section}",
            entry.domain or "both",
            entry.method,
            "–" if entry.value is None else f"{entry.value:.4g}",
            "–" if entry.false_alarm_rate is None else f"{100 * entry.false_alarm_rate:.3g} %",
            "a bound" if entry.guaranteed else "an estimate",
            entry.remark or "–",
        )
        for entry in detector.thresholds
    ]
    columns = ("machine", "domain", "method", "threshold", "false alarms", "which is", "remark")
    return "Thresholds", columns, tuple(rows)


def _section(
    name: str, number: int, bank: Bank, calibration: Calibration, thresholds: list[Threshold]
) -> MachineSection:
    charts = []
    values = [entry.value for entry in thresholds if entry.value is not None]
    if len(calibration.recordings) > 1:
        charts = [_histogram(name, calibration, values), _false_alarms(name, calibration, values)]
        charts += _channels(name, calibration)
    charts += _map(name, bank)
    counts = (
        f"{len(bank.recordings)} normal recordings in the bank, {len(calibration.recordings)} scored by a bank "
        f"without them ({calibration.method})"
    )
    return MachineSection(name, f"machine-{number}", counts, tuple(charts), ())


def _histogram(name: str, calibration: Calibration, thresholds: list[float]) -> Chart:
    groups = [
        (f"{domain}, normal", f"{domain} normal", calibration.scores(domain)) for domain in calibration.domains
    ]
    return Chart(
        "Scores of normal recordings",
        histogram(groups, f"Histogram of normal scores of {name}", max(thresholds, default=None)),
        legend([(group, kind) for group, kind, _ in groups]),
        "How anomalous normal recordings are to a bank that does not hold them. Few should lie beyond the line.",
    )


def _false_alarms(name: str, calibration: Calibration, thresholds: list[float]) -> Chart:
    scores = calibration.scores()
    grid = np.quantile(scores, np.linspace(0.0, 1.0, 120))
    series = [Series("normal recordings", "source", grid, share_above(scores, grid))]
    for value in thresholds[:2]:
        series.append(Series("threshold", "threshold", np.array([value, value]), np.array([0.0, 1.0])))
    drawing = lines(
        series,
        f"False-alarm rate over the threshold, {name}",
        axis_of([*grid, *thresholds], "threshold"),
        Axis(0.0, 1.0, "share of normal recordings above"),
    )
    return Chart(
        "Threshold and false alarms",
        drawing,
        legend([(line.name, f"{line.kind} line") for line in series[:2]]),
        "What another threshold costs; nearfar threshold DETECTOR --target-far RATE sets it without fitting.",
    )


def _channels(name: str, calibration: Calibration) -> list[Chart]:
    views = list(calibration.recordings[0].channels)
    if len(views) < 2:
        return []
    first, second = views[:2]
    series = []
    for domain in calibration.domains:
        own = [entry.channels for entry in calibration.recordings if entry.domain == domain]
        x, y = (np.array([scores[view] for scores in own]) for view in (first, second))
        series.append(Series(f"{domain}, normal", f"{domain} normal", x, y))
    return [
        Chart(
            f"{first.capitalize()} against {second}",
            scatter(series, f"Normal scores of {name} by channel", f"score, {first}", f"score, {second}"),
            legend([(entry.name, entry.kind) for entry in series]),
            "Where the two disagree, one of them hears something that the other does not.",
        )
    ]


def _map(name: str, bank: Bank) -> list[Chart]:
    view, features = next(iter(bank.features.items()))
    rows = features.flatten(1).double().numpy()
    if len(rows) < 3:
        return []
    deviation = rows.std(axis=0)
    scaled = (rows - rows.mean(axis=0)) / np.where(deviation > 1e-9, deviation, np.inf)
    axes = np.linalg.svd(scaled, full_matrices=False)[2][:2]
    places = scaled @ axes.T
    target = bank.target[bank.recording]
    series = [
        Series(f"{domain}, normal", f"{domain} normal", places[mask, 0], places[mask, 1])
        for domain, mask in (("source", ~target), ("target", target))
        if mask.any()
    ]
    return [
        Chart(
            "Map of the bank",
            scatter(
                series, f"Two principal components of {name}, {view}", "component 1", "component 2", ticks=False
            ),
            legend([(entry.name, entry.kind) for entry in series]),
            "Recordings that sound alike lie together. Lone ones are worth a listen: are they normal?",
        )
    ]
