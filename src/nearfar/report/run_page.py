"""The page about a run: results with intervals, charts and worst mistakes of every machine, how it was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.challenge.run import FEATURES
from nearfar.charts import Points, curve, exceedance, histogram, roc
from nearfar.config import Recipe, load_recipe
from nearfar.data import AudioHeader, Clip, Dataset, read_dataset
from nearfar.data.channel_check import ChannelWarning, check_channels
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores, decision_file, read_decisions, read_scores
from nearfar.evaluation.truth import ClipLabels, GroundTruth
from nearfar.evaluation.uncertainty import Interval, Intervals, Uncertainty, uncertainty
from nearfar.metrics import OfficialRule
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extractor import build_extractor
from nearfar.progress import Progress, silent
from nearfar.report.examples import PER_KIND, Candidate, Example, make_examples
from nearfar.report.machine_charts import (
    ClipMap,
    Numbers,
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
    ResultsRow,
    channel_notes,
    channel_table,
    machine_sections,
    write_page,
)

QUANTITIES = {"auc_source": "AUC (source)", "auc_target": "AUC (target)", "pauc": "pAUC", "score": "score"}
_MOST_POINTS = 300
"""Points of a training curve."""


@dataclass(frozen=True, slots=True, eq=False)
class MachineFacts:
    """One machine and section of a run.

    Attributes:
        scores: of the test clips.
        truth: labels and domains of the test clips, or None where they are hidden.
        rule: of the official score of the clips' year.
        views: (clips,) scores of every view before fusion.
        normal: leave-one-out scores of training clips.
        thresholds: (domain, value), the domain None where both have one threshold; empty where there is none.
        flagged: (clips,) bool, test clips classified as anomalous; None without a threshold.
        train, test: the clips, empty where the recordings cannot be found.
    """

    scores: MachineScores
    truth: ClipLabels | None
    rule: OfficialRule
    views: dict[str, Numbers]
    normal: Numbers
    thresholds: tuple[tuple[str | None, float], ...]
    flagged: NDArray[np.bool_] | None
    train: tuple[Clip, ...]
    test: tuple[Clip, ...]

    @property
    def name(self) -> str:
        """The machine, and its section unless it is 00."""
        section = "" if self.scores.section == "00" else f" {self.scores.section}"
        return self.scores.machine + section

    def groups(self) -> list[tuple[str, str, NDArray[np.bool_]]]:
        """(name, kind, mask (clips,)) of the test clips by domain and label, without empty groups."""
        if self.truth is None:
            return [("test clips", "source normal", np.ones(len(self.scores.names), dtype=bool))]
        masks = [
            (f"{domain}, {label}", f"{domain} {label}", (self.truth.domains == domain) & of_label)
            for label, of_label in (("normal", ~self.truth.anomalous), ("anomaly", self.truth.anomalous))
            for domain in ("source", "target")
        ]
        return [group for group in masks if group[2].any()]


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """A whole run: ``intervals`` is None where labels are hidden, ``training`` (steps, losses) where nothing was
    trained in this folder, ``warnings`` where no recording has two channels."""

    folder: Path
    recipe: Recipe
    environment: dict[str, Any]
    data: list[dict[str, Any]]
    notes: tuple[str, ...]
    intervals: Uncertainty | None
    machines: tuple[MachineFacts, ...]
    training: tuple[Numbers, Numbers] | None
    warnings: tuple[ChannelWarning, ...] | None


def report_run(run: Path, out: Path, *, data: Path | None = None, progress: Progress = silent) -> Path:
    """Write the page about a run, one HTML file that needs no network.

    Args:
        run: the folder of a finished run.
        out: the HTML file; it appears whole or not at all.
        data: the folder of recordings, if they have moved since the run.
        progress: called after each machine.

    Raises:
        InputError: if the folder holds no finished run, a file in it is damaged, or ``data`` holds no recordings.
        NearfarError: if the page cannot be written.
    """
    facts = read_run(run, data)
    sections = machine_sections(facts.machines, lambda machine, anchor: _section(machine, facts, anchor), progress)
    return write_page(out, "page.html.j2", _page(facts, sections))


# --- facts of a run ---------------------------------------------------------------------------------------------


def read_run(run: Path, data: Path | None = None) -> RunFacts:
    """Read the folder of a finished run; arguments and errors as for :func:`report_run`."""
    for name in ("recipe.toml", "view_scores.json", "scores"):
        if not (run / name).exists():
            raise InputError(
                run,
                found=f"no {name}",
                expected="the folder of a finished run",
                remedy="Give the output folder of nearfar run, or rerun its command to finish it",
            )
    recipe = load_recipe(run / "recipe.toml")
    by_view = _json(run / "view_scores.json")
    if not isinstance(by_view, dict) or not {"data", "machines"} <= by_view.keys():
        raise _unreadable(run / "view_scores.json", "the folder of the recordings is missing")
    thresholds: dict[tuple[str, str], list[tuple[str | None, float]]] = {}
    for row in _json(run / "thresholds.json"):
        if row["value"] is not None:
            pair = (row.get("domain"), float(row["value"]))
            thresholds.setdefault((row["machine"], row["section"]), []).append(pair)
    results = _json(run / "results.json") if (run / "results.json").is_file() else {}
    notes = [str(note) for note in results.get("notes", [])]
    dataset = _dataset(Path(by_view["data"]), data, notes)
    entries = read_scores(run / "scores")
    truth = GroundTruth.of_score_folder(run / "scores", entries)
    labelled = truth.evaluable(entries)
    flagged = _flagged(run / "scores", entries)
    views = {(row["machine"], row["section"]): row for row in by_view["machines"]}
    machines = []
    for entry in entries:
        key = (entry.machine, entry.section)
        clips = () if dataset is None else dataset.train(entry.machine) + dataset.test(entry.machine)
        own = [clip for clip in clips if clip.section == entry.section]
        row = views.get(key, {})
        machines.append(
            MachineFacts(
                entry,
                truth.labels(entry) if entry in labelled else None,
                truth.rule,
                {view: np.array(scores) for view, scores in row.get("views", {}).items()},
                np.array(row.get("normal", [])),
                tuple(thresholds.get(key, ())),
                flagged.get(key),
                tuple(clip for clip in own if clip.split == "train"),
                tuple(clip for clip in own if clip.split == "test"),
            )
        )
    return RunFacts(
        run,
        recipe,
        _json(run / "environment.json"),
        _json(run / "data.json"),
        tuple(notes),
        uncertainty(labelled, truth) if labelled else None,
        tuple(machines),
        _training_curve(run / "model" / "log.jsonl"),
        None if dataset is None else _channel_warnings(dataset, recipe),
    )


def _flagged(folder: Path, entries: list[MachineScores]) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Decisions of the run by machine and section, (clips,) each in the order of the scores."""
    names = {(entry.machine, entry.section): entry.names for entry in entries}
    if not any((folder / decision_file(*key)).is_file() for key in names):
        return {}
    return {
        (entry.machine, entry.section): entry.decisions == 1
        for entry in read_decisions(folder)
        if names.get((entry.machine, entry.section)) == entry.names
    }


def _dataset(recorded: Path, given: Path | None, notes: list[str]) -> Dataset | None:
    """The recordings; if those of the run have gone, a note says so."""
    if given is not None:
        return read_dataset(given)
    try:
        return read_dataset(recorded)
    except InputError:
        notes.append(
            f"The recordings are no longer in {recorded}: this page has no audio, spectrograms or map of clips. "
            "nearfar report RUN --data FOLDER adds them."
        )
        return None


def _channel_warnings(dataset: Dataset, recipe: Recipe) -> tuple[ChannelWarning, ...] | None:
    near, far = recipe.audio.near_channel, recipe.audio.far_channel
    headers = dataset.select(split="train").headers().values()
    if not any(isinstance(header, AudioHeader) and header.channels > max(near, far) for header in headers):
        return None
    return tuple(check_channels(dataset, near=near, far=far))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(
        path,
        found=f"a file that cannot be read ({' '.join(str(why).split())})",
        expected="a file as nearfar run writes it",
        remedy="Rerun the same command",
    )


def _training_curve(log: Path) -> tuple[Numbers, Numbers] | None:
    """Steps and losses, (points,) each, averaged over stretches of steps."""
    if not log.is_file():
        return None
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if len(rows) < 2:
        return None
    stretch = -(-len(rows) // _MOST_POINTS)
    whole = len(rows) // stretch * stretch
    table = np.array([(row["step"] + 1, row["loss"]) for row in rows[:whole]], dtype=np.float64)
    steps, losses = table.reshape(-1, stretch, 2).mean(axis=1).T
    return steps, losses


def _clip_map(facts: MachineFacts, run: RunFacts) -> ClipMap | None:
    """Principal components of the features of every scored view, from the run's cache or computed.

    None without recordings, without the model, and for features that are not cached because they are too many.
    """
    folder = run.folder / "model"
    if not facts.train or not facts.test or (run.recipe.trains and not (folder / "model.json").is_file()):
        return None
    extractor, cache = build_extractor(run.recipe, folder), FeatureCache(folder / FEATURES)
    if not extractor.source.cached:
        return None
    train, test = (
        {view: rows.reshape(len(clips), -1).double().numpy() for view, rows in cache.get(extractor, clips).items()}
        for clips in (facts.train, facts.test)
    )
    return principal_components({view: (train[view], test[view]) for view in train})


# --- the page ---------------------------------------------------------------------------------------------------


def _page(facts: RunFacts, sections: tuple[MachineSection, ...]) -> Page:
    charts: tuple[PageChart, ...] = ()
    if facts.training is not None:
        drawing = curve(*facts.training, "Training loss", "step", "loss")
        charts = (PageChart("Training", drawing.svg(), "Mean loss over short stretches of steps."),)
    tables = [_data_table(facts.data)]
    if facts.warnings is not None:
        tables.append(channel_table(facts.warnings, "No problem was found in a sample of the normal recordings."))
    return Page(
        kind="Run",
        title=facts.recipe.name,
        description=facts.recipe.description,
        notes=(*facts.notes, *channel_notes(facts.warnings or ())),
        quantities=tuple(QUANTITIES.values()),
        results=tuple(_results(facts.intervals)),
        resamples=facts.intervals.resamples if facts.intervals else 0,
        machines=sections,
        charts=charts,
        tables=tuple(tables),
        texts=(
            ("Recipe", (facts.folder / "recipe.toml").read_text(encoding="utf-8")),
            ("Environment", json.dumps(facts.environment, indent=1)),
        ),
    )


def _results(intervals: Uncertainty | None) -> list[ResultsRow]:
    """A row per machine and one over all; none where labels are hidden."""
    if intervals is None:
        return []
    rows = [*intervals.machines.items(), ("all machines", intervals.all_machines)]
    return [ResultsRow(name, _cells(row)) for name, row in rows]


def _cells(intervals: Intervals) -> tuple[tuple[float, float, float] | None, ...]:
    found: dict[str, Interval] = {str(quantity): interval for quantity, interval in intervals.items()}
    cells = []
    for quantity in QUANTITIES:
        interval = found.get(quantity)
        finite = interval is not None and np.isfinite(interval.value)
        cells.append(
            (100 * interval.value, 100 * interval.low, 100 * interval.high) if interval and finite else None
        )
    return tuple(cells)


def _data_table(data: list[dict[str, Any]]) -> PageTable:
    """Clips by machine at the time of the run."""
    rows = []
    for machine in data:
        count = {"train": 0, "test": 0}
        for entry in machine["clips"]:
            count[entry["split"]] += entry["clips"]
        rows.append(
            (
                str(machine["machine"]),
                str(count["train"]),
                str(count["test"]),
                f"{machine['longest_seconds']:g} s",
                ", ".join(map(str, machine["channels"])),
                "; ".join(machine.get("warnings") or machine.get("oddities", ())) or "–",
            )
        )
    columns = ("machine", "training clips", "test clips", "length", "channels", "remarks")
    return PageTable("Data", columns, tuple(rows), ends_in_text=True)


def _section(facts: MachineFacts, run: RunFacts, anchor: str) -> MachineSection:
    """Charts and examples of one machine, as far as the run has data for them."""
    charts = [_histogram(facts)]
    if facts.truth is not None:
        charts.append(_roc(facts, facts.truth))
    if facts.normal.size > 1:
        charts.append(_false_alarms(facts))
    if len(facts.views) > 1:
        first, second = list(facts.views)[:2]
        points = [
            Points(name, kind, facts.views[first][mask], facts.views[second][mask])
            for name, kind, mask in facts.groups()
        ]
        charts.append(views_chart(facts.name, (first, second), points))
    clip_map = _clip_map(facts, run)
    if clip_map is not None:
        charts.append(_map(facts, clip_map))
    return MachineSection(
        facts.name,
        anchor,
        f"{facts.normal.size or len(facts.train)} normal training clips, {len(facts.scores.names)} test clips",
        tuple(charts),
        _numbers(facts),
        tuple(_examples(facts, run.recipe)),
    )


def _above(facts: MachineFacts, mask: NDArray[np.bool_]) -> str | None:
    """How many of a group of test clips are classified as anomalous, in percent."""
    return None if facts.flagged is None or not mask.any() else percent(float(facts.flagged[mask].mean()))


def _training_above(facts: MachineFacts) -> str | None:
    """How many training clips are above a threshold that both domains have, in percent."""
    common = [value for domain, value in facts.thresholds if domain is None]
    return percent_above(facts.normal, common[0]) if common and facts.normal.size else None


def _numbers(facts: MachineFacts) -> PageTable:
    rows = [score_row(name, facts.scores.scores[mask], _above(facts, mask)) for name, _, mask in facts.groups()]
    if facts.normal.size:
        rows.insert(0, score_row("training, normal", facts.normal, _training_above(facts)))
    return score_table(rows, named_thresholds(facts.thresholds))


def _histogram(facts: MachineFacts) -> PageChart:
    groups = [(name, kind, facts.scores.scores[mask]) for name, kind, mask in facts.groups()]
    drawing = histogram(groups, f"Histogram of anomaly scores of {facts.name}", named_thresholds(facts.thresholds))
    caption = "Anomalies should lie to the right of the threshold, normal clips of both domains to the left."
    return PageChart("Scores by domain and label", drawing.svg(), caption)


def _roc(facts: MachineFacts, truth: ClipLabels) -> PageChart:
    drawing = roc(truth.anomalous, truth.domains, facts.scores.scores, f"ROC curves of {facts.name}", facts.rule)
    caption = "pAUC covers the shaded strip, false-alarm rates up to 10 %. The dotted diagonal is chance."
    return PageChart("ROC", drawing.svg(), caption)


def _false_alarms(facts: MachineFacts) -> PageChart:
    """How often training clips, normal test clips and anomalies are above every possible threshold."""
    groups = [("training clips, leave-one-out", "training", facts.normal)]
    above = [("training clips", _training_above(facts))]
    if facts.truth is not None:
        anomalous = facts.truth.anomalous
        for name, kind, mask in (("normal test clips", "normal", ~anomalous), ("anomalies", "anomaly", anomalous)):
            if mask.any():
                groups.append((name, kind, facts.scores.scores[mask]))
                above.append((name, _above(facts, mask)))
    title = f"Fraction of clips above a threshold, {facts.name}"
    drawing = exceedance(groups, named_thresholds(facts.thresholds), title)
    parts = [f"{fraction} of {name}" for name, fraction in above if fraction is not None]
    caption = f"Above the threshold: {', '.join(parts)}." if facts.thresholds else "No threshold is set."
    caption += " If more normal test clips than training clips are above it, conditions have changed."
    return PageChart("Threshold and false alarms", drawing.svg(), caption)


def _map(facts: MachineFacts, clip_map: ClipMap) -> PageChart:
    target = np.array([clip.domain == "target" for clip in facts.train])
    position = {clip.name: number for number, clip in enumerate(facts.test)}
    groups: list[tuple[str, str, NDArray[np.int64]]] = []
    if position.keys() >= set(facts.scores.names):
        order = np.array([position[name] for name in facts.scores.names])
        groups = [(name, kind, order[mask]) for name, kind, mask in facts.groups()]
    return map_chart(facts.name, clip_map, target, groups)


def _examples(facts: MachineFacts, recipe: Recipe) -> list[Example]:
    """The highest-scoring normal clips and the lowest-scoring anomalies of one machine, worst first.

    None without labels or recordings; clips that were classified correctly are left out.
    """
    if facts.truth is None or not facts.test or not facts.train:
        return []
    by_name = {clip.name: clip for clip in facts.test}
    scores, anomalous = facts.scores.scores, facts.truth.anomalous
    order = np.argsort(scores, kind="stable")
    alarms = [int(row) for row in order[::-1] if not anomalous[row]][:PER_KIND]
    misses = [int(row) for row in order if anomalous[row]][:PER_KIND]
    candidates = []
    for kind, rows in (("false alarm", alarms), ("miss", misses)):
        for row in rows:
            clip = by_name.get(facts.scores.names[row])
            wrong = facts.flagged is None or facts.flagged[row] == (kind == "false alarm")
            if clip is not None and wrong:
                candidates.append(Candidate(kind, clip, str(facts.truth.domains[row]), float(scores[row])))
    return make_examples(candidates, facts.train, recipe)
