"""The commands for users' machines: fit a detector, score recordings, change thresholds, write a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from nearfar.cli import options
from nearfar.cli.encoders import DefaultEncoder
from nearfar.cli.messages import print_error, usage_error
from nearfar.cli.options import changed, sped_up
from nearfar.errors import InputError, printable
from nearfar.terminal import progress_bars, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nearfar.config import Recipe
    from nearfar.detector import Detector
    from nearfar.exported import ExportedDetector
    from nearfar.scores import Failure, Score
    from nearfar.thresholds import Calibration, Threshold

DetectorArgument = Annotated[
    Path, Argument(metavar="DETECTOR", help="Folder that nearfar fit or nearfar export wrote.")
]
RateOption = Annotated[
    float | None,
    Option(
        "--false-alarm-rate", metavar="RATE", help="Fraction of normal recordings that may be called anomalous."
    ),
]
RuleOption = Annotated[
    str | None,
    Option(
        "--rule",
        help="How thresholds are found: conformal (a bound on false alarms), gamma (a fitted distribution) or "
        "empirical (a quantile of the scores).",
    ),
]


def fit(
    folder: Annotated[
        Path,
        Argument(
            metavar="FOLDER",
            help="Normal recordings: <machine>/normal/*.wav, a folder of the challenge, or plain files.",
        ),
    ],
    out: Annotated[Path, Option("--out", metavar="DETECTOR", help="Output folder; must be new or empty.")],
    recipe: Annotated[
        str | None,
        Option(help="A recipe or a TOML file; default auto."),
    ] = None,
    encoder: options.Encoder = None,
    fast: options.Fast = False,
    machine: Annotated[
        str | None, Option(help="Fit only this machine; of plain files, the name to give the machine.")
    ] = None,
    seconds: Annotated[
        float | None,
        Option(help="Length of the windows that recordings are cut into; default: the recordings' length."),
    ] = None,
    false_alarm_rate: RateOption = None,
    rule: RuleOption = None,
    group_by: Annotated[
        str | None,
        Option(
            "--group-by",
            metavar="GROUPS",
            help="Which recordings are of one session: auto, session, time, folder, name, order, "
            "recording (each alone), the key of an attribute, or a regular expression for paths.",
        ),
    ] = None,
    model: Annotated[
        Path | None, Option(help="Model folder of a recipe that trains; may be that of a run on the same data.")
    ] = None,
    near: options.Near = None,
    far: options.Far = None,
    settings: options.Set = None,
    replace: Annotated[bool, Option("--replace", help="Overwrite an existing detector.")] = False,
    jobs: options.Jobs = None,
    ray: options.Ray = None,
    dask: options.Dask = None,
) -> None:
    """Fit a detector on recordings of machines running normally, and find its thresholds."""
    from nearfar.data import read_normals
    from nearfar.data.grouping import caution_of
    from nearfar.data.walk import log_left_out
    from nearfar.detector.detector import Detector, starting_recipe
    from nearfar.detector.store import require_free
    from nearfar.executors import default_executor

    require_free(out, replace=replace)
    dataset = read_normals(folder, machine)
    log_left_out(dataset.warnings, dataset.hidden, folder)
    chosen = sped_up(changed(starting_recipe(recipe), encoder, None, settings, near, far), fast)
    folders = (model, model.parent) if model else (_model_folder(chosen, out),)
    chosen = DefaultEncoder(encoder, settings, recipe)(chosen, *filter(None, folders))
    given = {
        "audio.clip_seconds": seconds,
        "threshold.false_alarm_rate": false_alarm_rate,
        "threshold.rule": rule,
        "calibration.group_by": group_by,
    }
    chosen = chosen.with_changes(**{key: value for key, value in given.items() if value is not None})
    executor = default_executor(ray=ray, dask=dask)
    # On a cluster, machines that are fitted are kept beside the detector until it is complete.
    parts = out.with_name(f"{out.name}-parts") if executor.is_cluster else None
    with progress_bars() as progress:
        detector = Detector.fit(
            dataset,
            chosen,
            model=model or _model_folder(chosen, out),
            progress=progress,
            executor=executor,
            parts=parts,
        )
        if not executor.is_main:
            return
        detector.save(out, replace=replace)
    if parts is not None:
        shutil.rmtree(parts, ignore_errors=True)
    _show_thresholds(detector.thresholds)
    for name, calibration in zip(detector.machines, detector.calibrations, strict=True):
        if calibration.recordings and calibration.grouped_by is not None:
            groups = len(set(calibration.groups().tolist()))
            how = f"by {calibration.grouped_by} (--group-by chooses otherwise)"
            recordings = f"{len(calibration.recordings)} normal recordings in {groups} independent groups, {how}"
            show("; ".join(filter(None, (f"{name}: {recordings}", caution_of(calibration.grouped_by)))))
    for name, reason in detector.reasons.items():
        show(f"{name}: {reason}")
    show(f"The detector is in {out}. Score recordings: nearfar score {out} FILES")


def _model_folder(recipe: Recipe, out: Path) -> Path | None:
    """The model folder of a recipe that trains: beside the detector, so that the same command resumes there."""
    return out.with_name(f"{out.name}-training") if recipe.trains or recipe.backend.trains else None


def score(
    detector: DetectorArgument,
    files: Annotated[list[Path], Argument(metavar="FILES", help="Recordings, or folders of them.")],
    machine: Annotated[
        str | None, Option(help="Machine of the recordings; default: the name of the folder they are in.")
    ] = None,
    domain: Annotated[str | None, Option(help="source or target, if each domain has its own threshold.")] = None,
    encoder: Annotated[str | None, Option(help="Path of the detector's encoder, if it has moved.")] = None,
    as_json: options.Json = False,
    as_csv: Annotated[bool, Option("--csv", help="Print CSV, a row per recording.")] = False,
    windows: Annotated[
        bool, Option("--windows", help="Add a row per window of recordings longer than one window.")
    ] = False,
    fail_on_anomaly: Annotated[
        bool, Option("--fail-on-anomaly", help="Exit with 1 if a recording is anomalous.")
    ] = False,
    strict: Annotated[bool, Option("--strict", help="Stop at the first recording that cannot be scored.")] = False,
    jobs: options.Jobs = None,
    ray: options.Ray = None,
    dask: options.Dask = None,
) -> None:
    """Score recordings: how far each is from normal, whether it is anomalous, and where it departs."""
    from nearfar.data.walk import recordings_in
    from nearfar.executors import default_executor
    from nearfar.scores import Failure, scored
    from nearfar.terminal import scores_table

    if as_json and as_csv:
        raise usage_error("nearfar score", "--json and --csv", "one of them", "Omit one")
    listed = recordings_in(files)
    executor = default_executor(ray=ray, dask=dask)
    loaded = opened(detector, encoder)
    scores: list[Score | Failure] = []
    with progress_bars() as progress:
        asked: dict[str, Any] = {"domain": domain, "keep_errors": not strict, "progress": progress}
        found: Iterable[Score | Failure] = (
            loaded.score_many(listed, machine, **asked)
            if executor.is_local
            else _score_elsewhere(detector, listed, executor, machine=machine, encoder=encoder, **asked)
        )
        if not executor.is_main:
            return
        write = _JsonWriter() if as_json else _CsvWriter(loaded.views, windows) if as_csv else None
        for entry in found:
            scores.append(entry)
            if write is not None:
                write.add(entry)
    if write is not None:
        write.end()
    else:
        show(scores_table(scores, windows=windows))
    changed = [drift for drift in loaded.drift(scored(scores)) if drift.changed]
    for drift in changed:
        print_error(drift.message)
    for entry in scores:
        if isinstance(entry, Failure):
            print_error(str(entry.error))
            continue
        explained = any(drift.machine == entry.machine for drift in changed)
        if write is None and entry.anomalous and entry.departure is not None and not explained:
            show(f"{printable(entry.file)}: {entry.departure.sentence}")
    _print_problems(scored(scores))
    _exit_code(scores, detector, fail_on_anomaly)


def opened(detector: Path, encoder: str | None = None) -> Detector | ExportedDetector:
    """A detector, or an export of one, from its folder."""
    from nearfar.exported import ExportedDetector, is_exported

    if is_exported(detector):
        return ExportedDetector(detector)
    from nearfar.detector.detector import Detector

    return Detector.load(detector, encoder=encoder)


def _score_elsewhere(detector: Path, *arguments: Any, **more: Any) -> Iterable[Score | Failure]:
    """Scores by an executor on other processes or hosts."""
    from nearfar.detector.shares import score_files

    return score_files(detector, *arguments, **more)


def _print_problems(scores: Sequence[Score]) -> None:
    """Print each kind of problem of the recordings once per machine, with the first recording that has it."""
    found: dict[tuple[str, str], list[tuple[Score, str]]] = {}
    for entry in scores:
        for problem in entry.quality:
            found.setdefault((entry.machine, problem.check), []).append((entry, problem.message))
    for (machine, check), cases in found.items():
        first, message = cases[0]
        several = f" (and {len(cases) - 1} more of {machine})" if len(cases) > 1 else ""
        print_error(f"{printable(first.file)}{several}: {check}: {message}")


class _CsvWriter:
    """Writes rows of CSV to standard output as scores come."""

    def __init__(self, views: Sequence[str], windows: bool) -> None:
        from nearfar.evaluation.scorefiles import csv_line
        from nearfar.scores import csv_header

        self._windows = windows
        print(csv_line(csv_header(views)), end="")

    def add(self, entry: Score | Failure) -> None:
        from nearfar.evaluation.scorefiles import csv_line
        from nearfar.scores import csv_rows

        for row in csv_rows(entry, windows=self._windows):
            print(csv_line(row), end="", flush=True)

    def end(self) -> None:
        pass


class _JsonWriter:
    """Writes a JSON list to standard output, an entry at a time."""

    def __init__(self) -> None:
        self._separator = "[\n"

    def add(self, entry: Score | Failure) -> None:
        print(self._separator + json.dumps(entry.to_json(), indent=1, ensure_ascii=False), end="", flush=True)
        self._separator = ",\n"

    def end(self) -> None:
        print("[]" if self._separator.startswith("[") else "\n]")


def _exit_code(scores: Sequence[Score | Failure], detector: Path, fail_on_anomaly: bool) -> None:
    """Exit with 2 if a recording could not be scored or judged; if asked to, with 1 if one is anomalous."""
    from nearfar.cli.messages import USAGE_ERROR
    from nearfar.scores import Failure, scored

    failed = sum(isinstance(entry, Failure) for entry in scores)
    if failed:
        print_error(f"{failed} of {len(scores)} recordings could not be scored")
        raise Exit(USAGE_ERROR)
    judged = scored(scores)
    if not fail_on_anomaly:
        return
    if any(entry.anomalous for entry in judged):
        raise Exit(1)
    without = [entry.machine for entry in judged if entry.threshold is None]
    if without:
        raise InputError(
            detector,
            found=f"no threshold for {without[0]}",
            expected="a threshold above which recordings are called anomalous",
            remedy="Fit it on more normal recordings, or set one with nearfar threshold --value",
        )
    if any(entry.anomalous is None for entry in judged):
        raise Exit(USAGE_ERROR)


def threshold(
    detector: DetectorArgument,
    false_alarm_rate: RateOption = None,
    machine: Annotated[str | None, Option(help="Change only this machine's thresholds.")] = None,
    rule: RuleOption = None,
    domains: Annotated[
        str | None, Option(help="pooled (one threshold for both domains) or separate (one for each).")
    ] = None,
    value: Annotated[
        float | None, Option(help="Set this number as the threshold of --machine, or of a single machine.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show a detector's thresholds, or find others from its normal scores without fitting it again."""
    from nearfar.detector.store import read_calibrations, read_card, read_thresholds
    from nearfar.pipeline.preparation import DETECTOR
    from nearfar.thresholds import changed_thresholds
    from nearfar.thresholds.file import write_thresholds

    card = read_card(detector)
    fitted = card.recipe.threshold
    calibrations = read_calibrations(detector, card)
    replaced = false_alarm_rate is not None or value is not None  # thresholds of a damaged file need not be read
    left = machine if replaced else None
    thresholds = () if replaced and machine is None else read_thresholds(detector, calibrations, without=left)
    several = machine is None and len(calibrations) > 1
    change = _change(false_alarm_rate, rule or fitted.rule or DETECTOR.rule, value, several)
    if change is not None:
        thresholds = changed_thresholds(
            calibrations, thresholds, change, machine=machine, domains=domains or fitted.domains
        )
        write_thresholds(detector, thresholds)
    elif rule is not None or domains is not None or machine is not None:
        expected = "the false-alarm rate of the new thresholds, such as --false-alarm-rate 0.01"
        raise usage_error("nearfar threshold", "neither --false-alarm-rate nor --value", expected, "Add it")
    if as_json:
        print(json.dumps([entry.model_dump(mode="json") for entry in thresholds], indent=1, ensure_ascii=False))
    else:
        _show_thresholds(thresholds)


def _change(
    rate: float | None, rule: str, value: float | None, several: bool
) -> Callable[[Calibration, str | None], Threshold] | None:
    """The function that finds a new threshold for a machine and domain; None to change nothing."""
    from nearfar.thresholds import find_threshold, given_threshold

    if value is None:
        return None if rate is None else lambda entry, domain: find_threshold(entry, rule, rate, domain)
    expected = "a threshold for one machine"
    if rate is not None:
        raise usage_error("--value", "--false-alarm-rate as well", expected, "Omit one")
    if several:
        raise usage_error("--value", "several machines", expected, "Name the machine with --machine")
    return lambda entry, domain: given_threshold(entry, value, domain)


def _show_thresholds(thresholds: Iterable[Threshold]) -> None:
    from nearfar.terminal import thresholds_table

    show(thresholds_table(thresholds))
    for entry in thresholds:
        if entry.remark is not None:
            print_error(f"{entry.machine}: {entry.remark}")
        if entry.rests_on is not None:
            message = f"the threshold would be much lower without {entry.rests_on}: listen to that recording"
            print_error(f"{entry.machine}: {message}")


def report(
    source: Annotated[Path, Argument(metavar="RUN|DETECTOR", help="Folder of a finished run or of a detector.")],
    score: Annotated[
        Path | None,
        Option("--score", metavar="FOLDER", help="New recordings, scored by the detector, for a page on them."),
    ] = None,
    out: Annotated[Path, Option("--out", help="HTML file to write.")] = Path("report.html"),
    data: Annotated[
        Path | None,
        Option(
            "--data",
            help="Folder of recordings: of a run, if they have moved; of a detector, those it was fitted on.",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        Option(help="With --score: machine of the recordings; default: the name of their folder."),
    ] = None,
    encoder: Annotated[
        str | None, Option(help="With --score: path of the detector's encoder, if it has moved.")
    ] = None,
    jobs: options.Jobs = None,
) -> None:
    """Write a self-contained HTML page about a run, a detector or new recordings, with charts and sounds."""
    from nearfar.detector.store import is_detector
    from nearfar.report.detector_page import report_detector
    from nearfar.report.run_page import report_run

    if score is not None:
        if data is not None:
            raise usage_error("nearfar report", "--score and --data", "one of them", "Omit one")
        _report_scores(source, score, out, machine, encoder)
        return
    if machine is not None or encoder is not None:
        raise usage_error("nearfar report", "--machine or --encoder without --score", "--score FOLDER", "Add it")
    with progress_bars() as progress:
        write = report_detector if is_detector(source) else report_run
        write(source, out, data=data, progress=progress)
    _show_page(out)


def _report_scores(detector: Path, folder: Path, out: Path, machine: str | None, encoder: str | None) -> None:
    """Write the page about new recordings; exit with 2 if some could not be scored."""
    from nearfar.cli.messages import USAGE_ERROR
    from nearfar.report.scores_page import report_scores

    with progress_bars() as progress:
        page = report_scores(detector, folder, out, machine=machine, encoder=encoder, progress=progress)
    _show_page(out)
    if page.failed:
        print_error(f"{page.failed} of {page.recordings} recordings could not be scored")
        raise Exit(USAGE_ERROR)


def _show_page(out: Path) -> None:
    show(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
