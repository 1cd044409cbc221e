"""The page about a run: results with intervals, charts and worst mistakes of every machine, how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearfar.challenge.run import CHOICES, FEATURES, QUALITY
from nearfar.charts import curve, exceedance, histogram, roc
from nearfar.config import Recipe, load_recipe
from nearfar.data import AudioHeader, Clip, Dataset, read_dataset
from nearfar.data.channel_check import ChannelWarning, check_channels
from nearfar.detector.departure import contributions_of
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores, decision_file, read_decisions, read_scores
from nearfar.evaluation.truth import ClipLabels, GroundTruth
from nearfar.evaluation.uncertainty import Interval, Intervals, Uncertainty, uncertainty
from nearfar.extras import require_extras
from nearfar.metrics import DOMAINS, OfficialRule, Quantity
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extractor import build_extractor, scored_dimensions
from nearfar.pipeline.scoring import target_mask
from nearfar.progress import Progress, silent
from nearfar.report.examples import PER_KIND, Example, make_examples
from nearfar.report.machine_charts import (
    Scores,
    percent_above,
    recording_map,
    score_table,
    threshold_name,
    view_chart,
)
from nearfar.report.page import MachineSection, Page, PageChart, PageTable, channel_table, track, write_page
from nearfar.report.verdict import NEAR_ALONE, NOT_CHECKED, counted, problems_clause, verdict
from nearfar.scoring import MachineScorer, Workspace
from nearfar.thresholds import Threshold
from nearfar.thresholds.calibration import IN_TRAINING
from nearfar.thresholds.file import THRESHOLDS, checked
from nearfar.training.log import read_log

QUANTITIES: dict[Quantity, str] = {
    "auc_source": "AUC (source)",
    "auc_target": "AUC (target)",
    "pauc": "pAUC",
    "score": "score",
}
_MOST_POINTS = 300
"""Points of a training curve."""


@dataclass(frozen=True, slots=True, eq=False)
class RunMachine:
    """One machine and section of a run.

    Attributes:
        scores: of the test clips.
        truth: labels and domains of the test clips, or None if they are hidden.
        rule: of the official score of the clips' year.
        views: (clips,) scores of every view before fusion.
        normal: leave-one-out scores of training clips.
        thresholds: scores by :func:`nearfar.report.machine_charts.threshold_name`; empty if there are none.
        flagged: (clips,) bool, test clips classified as anomalous; None without a threshold.
        train, test: the clips, empty if the recordings are missing.
        reason: the choices that the recipe made for this machine, and why; None without any.
    """

    scores: MachineScores
    truth: ClipLabels | None
    rule: OfficialRule
    views: dict[str, Scores]
    normal: Scores
    thresholds: dict[str, float]
    flagged: NDArray[np.bool_] | None
    train: tuple[Clip, ...]
    test: tuple[Clip, ...]
    reason: str | None = None

    @property
    def name(self) -> str:
        """The machine, and its section unless it is 00."""
        section = "" if self.scores.section == "00" else f" {self.scores.section}"
        return self.scores.machine + section

    def groups(self) -> list[tuple[str, str, NDArray[np.bool_]]]:
        """(name, kind, mask (clips,)) of the test clips by domain and label, without empty groups."""
        if self.truth is None:
            return [("test recordings", "source normal", np.ones(len(self.scores.names), dtype=bool))]
        masks = [
            (f"{domain}, {label}", f"{domain} {label}", (self.truth.domains == domain) & has_label)
            for label, has_label in (("normal", ~self.truth.anomalous), ("anomaly", self.truth.anomalous))
            for domain in DOMAINS
        ]
        return [group for group in masks if group[2].any()]

    def percent_flagged(self, mask: NDArray[np.bool_]) -> str | None:
        """The percentage of the masked test clips that are classified as anomalous; None without a threshold."""
        return None if self.flagged is None else percent_above(self.flagged[mask].astype(np.float64), 0.0)

    def percent_of_training(self) -> str | None:
        """The percentage of training clips above the threshold; None if domains have their own thresholds."""
        return percent_above(self.normal, self.thresholds.get(threshold_name(None)))


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
    require_extras("a report", "report")
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
    results = _json(run / "results.json") if (run / "results.json").is_file() else {}
    notes = [str(note) for note in results.get("notes", [])]
    thresholds = _thresholds(run)
    notes += _training_notes(thresholds)
    dataset = _dataset(Path(by_view["data"]), data, notes)
    entries = read_scores(run / "scores")
    truth = GroundTruth.of_score_folder(run / "scores", entries)
    labelled = truth.evaluable(entries)
    machines = _read_machines(run, by_view["machines"], thresholds, dataset, entries, truth)
    intervals = uncertainty(labelled, truth) if labelled else None
    rows = [*intervals.machines.items(), ("all machines", intervals.all_machines)] if intervals else []
    environment = json.dumps(_json(run / "environment.json"), indent=1)
    checks = _check(run, dataset, recipe)
    notes += checks.notes
    page = Page(
        kind="Run",
        title=recipe.name,
        verdict=_verdict(machines, intervals, thresholds, checks.clause),
        examples_heading="Worst false alarms and misses",
        description=recipe.description,
        notes=tuple(notes),
        quantities=tuple(QUANTITIES.values()),
        results=[(name, _finite(row)) for name, row in rows],
        resamples=intervals.resamples if intervals else 0,
        machines=tuple(_section(machine, recipe, run / "model") for machine in track(machines, progress)),
        charts=_training_charts(run / "model" / "log.jsonl"),
        tables=(_data_table(_json(run / "data.json")), *checks.tables),
        texts=(("Recipe", (run / "recipe.toml").read_text(encoding="utf-8")), ("Environment", environment)),
    )
    return write_page(out, "page.html.j2", page)


# --- reading a run ----------------------------------------------------------------------------------------------


def _thresholds(run: Path) -> tuple[Threshold, ...]:
    rows = [checked(run / THRESHOLDS, row) for row in _json(run / THRESHOLDS)]
    try:
        return tuple(Threshold.model_validate(row) for row in rows)
    except ValueError as error:
        raise _unreadable(run / THRESHOLDS, error) from None


def _reasons(run: Path) -> dict[tuple[str, str], str]:
    """The choices that the recipe made by machine and section, and why."""
    rows = _json(run / CHOICES) if (run / CHOICES).is_file() else []
    return {(row["machine"], row["section"]): row["reason"] for row in rows}


def _read_machines(
    run: Path,
    rows: list[dict[str, Any]],
    every: Sequence[Threshold],
    data: Dataset | None,
    entries: list[MachineScores],
    truth: GroundTruth,
) -> list[RunMachine]:
    thresholds: dict[tuple[str, str], dict[str, float]] = {}
    for found in every:
        if found.value is not None:
            thresholds.setdefault((found.machine, found.section), {})[threshold_name(found.domain)] = found.value
    reasons = _reasons(run)
    views = {(row["machine"], row["section"]): row for row in rows}
    labelled, flagged = truth.evaluable(entries), _flagged(run / "scores", entries)
    clips = {} if data is None else data.groups()
    machines = []
    for entry in entries:
        key = (entry.machine, entry.section)
        row, (train, test) = views.get(key, {}), clips.get(key, ((), ()))
        machine = RunMachine(
            entry,
            truth.labels(entry) if entry in labelled else None,
            truth.rule,
            {view: np.array(scores) for view, scores in row.get("views", {}).items()},
            np.array(row.get("normal", [])),
            thresholds.get(key, {}),
            flagged.get(key),
            train,
            test,
            reasons.get(key),
        )
        machines.append(machine)
    return machines


def _training_notes(thresholds: Sequence[Threshold]) -> list[str]:
    """A note about the machines whose thresholds are from recordings that the model was trained on."""
    names = list(dict.fromkeys(entry.machine for entry in thresholds if entry.normals == "in training"))
    if not names:
        return []
    return [
        f"Thresholds of {', '.join(names)}: {IN_TRAINING}. Decisions and the percentages above a threshold "
        "promise no rate of false alarms."
    ]


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
    """The recordings; a note is added if those of the run are missing."""
    if given is not None:
        return read_dataset(given)
    try:
        return read_dataset(recorded)
    except InputError:
        notes.append(
            f"The recordings are no longer in {recorded}: this page has no audio, spectrograms or maps. "
            "nearfar report RUN --data FOLDER adds them."
        )
        return None


def _has_both_channels(dataset: Dataset, recipe: Recipe) -> bool:
    """Whether any training recording has the near and the far channel."""
    last = max(recipe.audio.near_channel, recipe.audio.far_channel)
    headers = dataset.select(split="train").headers().values()
    return any(isinstance(header, AudioHeader) and header.channels > last for header in headers)


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


class _Checks(NamedTuple):
    """What is known of the microphones: the clause of the verdict, tables, and notes on top."""

    clause: str
    tables: list[PageTable]
    notes: list[str]


def _check(run: Path, dataset: Dataset | None, recipe: Recipe) -> _Checks:
    """What is wrong with the microphones, by the run's ``quality.json`` and by a sample of the recordings."""
    quality = _json(run / QUALITY) if (run / QUALITY).is_file() else []
    tables = [_quality_table(quality)] if quality else []
    warnings: list[ChannelWarning] = []
    both = dataset is not None and _has_both_channels(dataset, recipe)
    if dataset is not None and both:
        warnings = check_channels(dataset, near=recipe.audio.near_channel, far=recipe.audio.far_channel)
        tables.append(channel_table(warnings, "No problem was found in a sample of the normal recordings."))
    found = [(entry.machine, entry.message) for entry in warnings]
    found += [
        (machine["machine"], f"{entry['message']}, in {entry['recordings']} of {machine['recordings']} recordings")
        for machine in quality
        for entry in machine["problems"]
    ]
    without = NOT_CHECKED if dataset is None else NEAR_ALONE
    clause = problems_clause(found) if found or both else without
    return _Checks(clause, tables, [f"Channels of {warning}" for warning in warnings])


# --- the page ---------------------------------------------------------------------------------------------------


def _verdict(
    machines: Sequence[RunMachine],
    intervals: Uncertainty | None,
    thresholds: Sequence[Threshold],
    microphones: str,
) -> str:
    """How well it detects, what its thresholds promise, and what is wrong with the microphones."""
    recordings = sum(len(machine.scores.names) for machine in machines)
    opening = f"{counted(recordings, 'test recording')} of {counted(len(machines), 'machine')}"
    official = None if intervals is None else intervals.all_machines["score"]
    if official is not None and np.isfinite(official.value):
        value, low, high = (f"{100 * number:.1f}" for number in (official.value, official.low, official.high))
        opening = f"Official score {value} % (95 % interval {low} to {high}) on {opening}"
    return verdict(opening, thresholds, microphones)


def _training_charts(log: Path) -> tuple[PageChart, ...]:
    """The training curve, averaged over stretches of steps; empty if nothing was trained in this folder."""
    if not log.is_file():
        return ()
    rows = [row for row in read_log(log) if isinstance(row.get("loss"), int | float)]
    if len(rows) < 2:
        return ()
    stretch = -(-len(rows) // _MOST_POINTS)
    whole = len(rows) // stretch * stretch
    table = np.array([(row["step"] + 1, row["loss"]) for row in rows[:whole]], dtype=np.float64)
    steps, losses = table.reshape(-1, stretch, 2).mean(axis=1).T
    drawing = curve(steps, losses, "Training loss", "step", "loss")
    return (PageChart("Training", drawing.svg(), "Mean loss over short stretches of steps."),)


def _finite(intervals: Intervals) -> list[Interval | None]:
    """The intervals by quantity; None for NaN, the value of a metric without clips."""
    row = [intervals[quantity] for quantity in QUANTITIES]
    return [interval if np.isfinite(interval.value) else None for interval in row]


def _data_table(data: list[dict[str, Any]]) -> PageTable:
    """Recordings by machine, as ``data.json`` of the run lists them."""
    rows = []
    for machine in data:
        count = {"train": 0, "test": 0}
        for entry in machine["clips"]:
            count[entry["split"]] += entry["clips"]
        row = (
            str(machine["machine"]),
            *map(str, count.values()),
            f"{machine['longest_seconds']:g} s",
            ", ".join(map(str, machine["channels"])),
            "; ".join(machine.get("warnings") or machine.get("oddities", ())) or "–",
        )
        rows.append(row)
    columns = ("machine", "training recordings", "test recordings", "length", "channels", "remarks")
    return PageTable("Data", columns, tuple(rows), text=("channels", "remarks"))


def _quality_table(machines: list[dict[str, Any]]) -> PageTable:
    """Problems of the microphones and the recorder, as ``quality.json`` of the run lists them."""
    rows = [
        (machine["machine"], entry["check"], f"{entry['recordings']} of {machine['recordings']}", entry["message"])
        for machine in machines
        for entry in machine["problems"]
    ]
    columns = ("machine", "problem", "recordings", "found in the first of them")
    caption = "Of all recordings that were read, compared with the training recordings of the machine."
    return PageTable(
        "Microphones and recorder", columns, tuple(rows), caption, ("problem", "found in the first of them")
    )


def _section(machine: RunMachine, recipe: Recipe, model: Path) -> MachineSection:
    """Charts and examples of one machine, without those that the run has no data for."""
    scores, truth, groups = machine.scores.scores, machine.truth, machine.groups()
    thresholds = list(machine.thresholds.items())
    scores_of_groups = [(name, kind, scores[mask]) for name, kind, mask in groups]
    drawing = histogram(scores_of_groups, f"Histogram of anomaly scores of {machine.name}", thresholds)
    caption = "Anomalies should lie to the right of the threshold, normal recordings of both domains to the left."
    charts = [PageChart("Scores by domain and label", drawing.svg(), caption)]
    if truth is not None:
        drawing = roc(truth.anomalous, truth.domains, scores, f"ROC curves of {machine.name}", machine.rule)
        caption = "pAUC covers the shaded strip, false-alarm rates up to 10 %. The dotted diagonal is chance."
        charts.append(PageChart("ROC", drawing.svg(), caption))
    if machine.normal.size > 1:
        charts.append(_false_alarms(machine))
    if len(machine.views) > 1:
        charts.append(view_chart(machine.name, machine.views, groups))
    charts += _feature_maps(machine, recipe, model)
    rows = [(name, scores[mask], machine.percent_flagged(mask)) for name, _, mask in groups]
    if machine.normal.size:
        rows.insert(0, ("training, normal", machine.normal, machine.percent_of_training()))
    return MachineSection(
        machine.name,
        f"{machine.normal.size or len(machine.train)} normal training recordings, {len(scores)} test recordings",
        tuple(charts),
        score_table(rows, thresholds),
        tuple(_examples(machine, recipe, model)),
        () if machine.reason is None else (f"{machine.reason[:1].upper()}{machine.reason[1:]}.",),
    )


def _false_alarms(machine: RunMachine) -> PageChart:
    """The fractions of training clips, normal test clips and anomalies above every possible threshold."""
    groups = [("training, leave-one-out", "training", machine.normal)]
    above = [("training recordings", machine.percent_of_training())]
    if machine.truth is not None:
        anomalous = machine.truth.anomalous
        for name, kind, mask in (
            ("normal test recordings", "normal", ~anomalous),
            ("anomalies", "anomaly", anomalous),
        ):
            if mask.any():
                groups.append((name, kind, machine.scores.scores[mask]))
                above.append((name, machine.percent_flagged(mask)))
    title = f"Fraction of recordings above a threshold, {machine.name}"
    drawing = exceedance(groups, list(machine.thresholds.items()), title)
    parts = [f"{percentage} of {name}" for name, percentage in above if percentage is not None]
    caption = f"Above the threshold: {', '.join(parts)}." if machine.thresholds else "No threshold is set."
    caption += " If more normal test recordings than training recordings are above it, conditions have changed."
    return PageChart("Threshold and false alarms", drawing.svg(), caption)


def _feature_maps(machine: RunMachine, recipe: Recipe, model: Path) -> list[PageChart]:
    """The map of recordings by the features of every scored view, from the run's cache or computed.

    Empty without recordings, without the model, and for features that are not cached because they are too many.
    """
    if not machine.train or not machine.test or (recipe.trains and not (model / "model.json").is_file()):
        return []
    extractor, cache = build_extractor(recipe, model), FeatureCache(model / FEATURES)
    if not extractor.source.cached:
        return []
    train, test = (
        {view: rows.reshape(len(clips), -1).double().numpy() for view, rows in cache.get(extractor, clips).items()}
        for clips in (machine.train, machine.test)
    )
    target = np.array([clip.domain == "target" for clip in machine.train])
    position = {clip.name: number for number, clip in enumerate(machine.test)}
    groups: list[tuple[str, str, NDArray[np.int64]]] = []
    if position.keys() >= set(machine.scores.names):
        order = np.array([position[name] for name in machine.scores.names])
        groups = [(name, kind, order[mask]) for name, kind, mask in machine.groups()]
    return [recording_map(machine.name, {view: (train[view], test[view]) for view in train}, target, groups)]


def _explaining(machine: RunMachine, recipe: Recipe, model: Path, examples: list[Example]) -> list[Example]:
    """Examples with what their scores are made of; as they are without the model of the run."""
    backend = recipe.backend
    space = Workspace(model, machine.scores.machine, None) if backend.trains else None
    missing = recipe.trains and not (model / "model.json").is_file()
    if not examples or missing or (space is not None and not (backend.is_fitted and backend.is_fitted(space))):
        return examples
    extractor = build_extractor(recipe, model)
    # A back-end that keeps its model needs no normal clips.
    normals = machine.train if space is None else machine.train[:1]
    values = FeatureCache(model / FEATURES).get(extractor, normals)
    scorer = MachineScorer(values, target_mask(normals), recipe.scoring_plan(), workspace=space)
    features = FeatureCache(None).get(extractor, [example.clip for example in examples])
    dimensions = scored_dimensions(recipe, values)
    scores = [example.score for example in examples]
    made_of = contributions_of(scorer, features, range(len(examples)), scores, dimensions)
    return [replace(example, parts=parts) for example, parts in zip(examples, made_of, strict=True)]


def _examples(machine: RunMachine, recipe: Recipe, model: Path) -> list[Example]:
    """The highest-scoring normal clips and the lowest-scoring anomalies of one machine, worst first.

    Empty without labels or recordings; clips that were classified correctly are left out.
    """
    if machine.truth is None or not machine.test or not machine.train:
        return []
    clips = {clip.name: clip for clip in machine.test}
    names, scores, anomalous = machine.scores.names, machine.scores.scores, machine.truth.anomalous
    order = np.argsort(scores, kind="stable")
    alarms = [int(row) for row in order[::-1] if not anomalous[row]][:PER_KIND]
    misses = [int(row) for row in order if anomalous[row]][:PER_KIND]
    examples = [
        Example(
            kind,
            clips[names[row]],
            str(machine.truth.domains[row]),
            float(scores[row]),
            None if machine.flagged is None else bool(machine.flagged[row]),
        )
        for kind, rows in (("false alarm", alarms), ("miss", misses))
        for row in rows
        if names[row] in clips and (machine.flagged is None or machine.flagged[row] == (kind == "false alarm"))
    ]
    return make_examples(_explaining(machine, recipe, model, examples), machine.train, recipe)
