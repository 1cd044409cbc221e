"""Output in the terminal: tables on standard output, progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import progress as rich_progress
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from nearfar.errors import printable
from nearfar.progress import Pace, duration
from nearfar.rendering import TextRow, TextTable

if TYPE_CHECKING:
    from nearfar.benchmark import Benchmark
    from nearfar.data.summary import MachineSummary
    from nearfar.detector.counts import MachineCounts, Rate
    from nearfar.detector.history import Change
    from nearfar.scores import Failure, Score
    from nearfar.thresholds import Threshold

LONG_SECONDS = 3600.0
"""The time of a task that is worth a warning."""

_STYLES = {"": None, "strong": "bold", "alarm": "bold red", "faint": "dim"}


def show(content: str | Text | TextTable) -> None:
    """Print a text as it is, or a table and its notes, to standard output, 200 columns wide without a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    if isinstance(content, TextTable):
        content = content.fitted(console.width) if console.is_terminal else content
        console.print(_rich_table(content), markup=False)
    for line in content.notes if isinstance(content, TextTable) else [content]:
        text = printable(line, kept="\n") if isinstance(line, str) else line
        console.print(text, soft_wrap=True, markup=False)


def _rich_table(table: TextTable) -> Table:
    rich_table = Table(box=SIMPLE_HEAD, title=table.title or None)
    for column, heading in enumerate(table.headings):
        justify: JustifyMethod = "left" if column in table.text_columns else "right"
        rich_table.add_column(heading, justify=justify, overflow="fold", no_wrap=column < table.unwrapped)
    for row in table.rows:
        rich_table.add_row(*map(printable, row.cells), style=_STYLES[row.emphasis], end_section=row.ends_group)
    return rich_table


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A function ``(task, done, total)`` that shows a progress bar per task, or plain lines without a terminal.

    Both state the time that is left, measured from the steps so far, and warn once of a task of hours.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_progress(console, Pace())
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    tasks: dict[str, rich_progress.TaskID] = {}
    warn = _warning_of_hours(console, Pace())
    with rich_progress.Progress(*columns, console=console) as bars:

        def advance(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)
            warn(task, done, total)

        yield advance


def _line_progress(console: Console, pace: Pace) -> Callable[[str, int, int], None]:
    printed: dict[str, int] = {}
    warn = _warning_of_hours(console, pace)

    def advance(task: str, done: int, total: int) -> None:
        tenth, left = 10 * done // max(total, 1), warn(task, done, total)
        if printed.get(task) != tenth:
            printed[task] = tenth
            words = f", about {duration(left)} left" if left else ""
            console.print(f"{task}: {done}/{total}{words}", soft_wrap=True, highlight=False, markup=False)

    return advance


def _warning_of_hours(console: Console, pace: Pace) -> Callable[[str, int, int], float | None]:
    """A function that prints a line, once for each task that will take hours, and returns the seconds left."""
    warned: set[str] = set()

    def warn(task: str, done: int, total: int) -> float | None:
        left = pace.seconds_left(task, done, total)
        if left is not None and left > LONG_SECONDS and task not in warned:
            warned.add(task)
            text = f"{task} will take about {duration(left)}, measured from its first steps"
            console.print(text, soft_wrap=True, highlight=False, markup=False)
        return left

    return warn


def data_table(machines: Iterable[MachineSummary]) -> TextTable:
    """A row per machine: clips by split, domain and label, attributes, seconds, channels and rate."""
    return TextTable(
        ("machine", "train", "test", "attributes in training", "seconds", "channels", "rate", "hours"),
        tuple(TextRow(_data_row(machine)) for machine in machines),
        text_columns=(0, 3),
        droppable=(6, 5, 3, 7),
    )


def _data_row(machine: MachineSummary) -> tuple[str, ...]:
    train = [f"{c.clips} {c.domain or ''}".strip() for c in machine.clips if c.split == "train"]
    test = [" ".join(filter(None, (str(c.clips), c.domain, c.label))) for c in machine.clips if c.split == "test"]
    low, high = machine.shortest_seconds, machine.longest_seconds
    return (
        machine.machine,
        ", ".join(train) or "none",
        ", ".join(test) or "none",
        ", ".join(f"{a.attributes} ({a.domain} {a.clips})" for a in machine.attributes if a.split == "train"),
        f"{low:g}" if low == high else f"{low:g} to {high:g}",
        "/".join(map(str, machine.channels)),
        "/".join(f"{rate} Hz" for rate in machine.sample_rates_hz),
        f"{machine.hours:.2f}",
    )


def scores_table(scores: Sequence[Score | Failure], *, windows: bool = False) -> TextTable:
    """A row per recording, anomalous ones emphasised; with ``windows``, also a row per window of longer ones."""
    from nearfar.scores import Failure, Score

    views = next((list(entry.views) for entry in scores if isinstance(entry, Score)), [])
    views = views if len(views) > 1 else []
    headings = (
        *("file", "machine", "score", *views, "threshold", "margin", "p", "status", "nearest normal"),
        "departs most",
    )
    rows = []
    for entry in scores:
        if isinstance(entry, Failure):
            rows.append(TextRow((entry.file, *[""] * (len(views) + 5), "error", "", ""), "strong"))
            continue
        rows.append(TextRow(_score_row(entry, views), "alarm" if entry.anomalous else ""))
        for window in entry.windows if windows and len(entry.windows) > 1 else ():
            cells = (
                f"  {window.begin_s:.2f} to {window.end_s:.2f} s",
                "",
                f"{window.score:.4f}",
                *(f"{window.views[view]:.4f}" for view in views),
                *[""] * 4,
                _nearest(window.nearest, window.nearest_begin_s),
                "",
            )
            rows.append(TextRow(cells, "faint"))
    text = (0, 1, len(headings) - 3, len(headings) - 2, len(headings) - 1)
    last = len(headings) - 1
    margin, p_value, nearest = last - 4, last - 3, last - 1
    droppable = (nearest, *range(3, 3 + len(views)), margin, p_value, last, margin - 1, 1)
    notes = _threshold_notes(scores)
    return TextTable(headings, tuple(rows), text_columns=text, notes=notes, droppable=droppable)


def _threshold_notes(scores: Sequence[Score | Failure]) -> tuple[str, ...]:
    """Lines about the machines whose thresholds promise no rate."""
    from nearfar.scores import scored

    found = {entry.machine: entry.threshold_from for entry in scored(scores)}
    promises = {
        "normal recordings in training": "is from recordings of the training: new ones may score higher",
        "given by a person": "was given by a person: its rate of false alarms is unknown",
    }
    return tuple(
        f"{machine}: the threshold {promises[found_from]}."
        for machine, found_from in found.items()
        if found_from in promises
    )


def _score_row(entry: Score, views: Sequence[str]) -> tuple[str, ...]:
    found = entry.departure
    times = "" if found is None else f"{found.begin_s:.1f} to {found.end_s:.1f} s, "
    checks = ", ".join(problem.check for problem in entry.quality)
    return (
        entry.file,
        entry.machine,
        f"{entry.score:.4f}",
        *(f"{entry.views[view]:.4f}" for view in views),
        "none" if entry.threshold is None else f"{entry.threshold:.4f}",
        "" if entry.margin is None else f"{entry.margin:+.4f}",
        "" if entry.p_value is None else f"{entry.p_value:.3g}",
        entry.status + (f" ({checks})" if checks else "") + (f", {entry.like.words}" if entry.like else ""),
        _nearest(entry.nearest, entry.nearest_begin_s),
        "" if found is None else f"{times}{found.low_hz:.0f} to {found.high_hz:.0f} Hz",
    )


def _nearest(name: str | None, begin_s: float | None) -> str:
    return f"{name} from {begin_s:.2f} s" if begin_s else name or ""


def thresholds_table(thresholds: Iterable[Threshold]) -> TextTable:
    """A row per threshold: value, rule, false-alarm rate and number of normal recordings."""
    rows = []
    for entry in thresholds:
        cells = (
            entry.machine if entry.section == "00" else f"{entry.machine}/{entry.section}",
            entry.domain or "both",
            "none" if entry.value is None else f"{entry.value:.4f}",
            entry.rule,
            entry.promise,
            str(entry.recordings),
            "" if entry.groups is None else str(entry.groups),
        )
        rows.append(TextRow(cells))
    headings = ("machine", "domain", "threshold", "found by", "false alarms", "normal recordings", "groups")
    return TextTable(headings, tuple(rows), text_columns=(0, 1, 3), droppable=(3, 5, 1))


def counts_table(states: Sequence[tuple[str, Iterable[MachineCounts]]]) -> TextTable:
    """A row per machine, state of the detector and kind of fault: rates with 95 % intervals."""
    headings = ("machine", "detector", "recordings of", "called anomalous", "rate", "95 % interval", "like")
    rows = []
    for when, machines in states:
        for entry in machines:
            listed: list[tuple[str, Rate, str]] = [("normal", entry.false_alarms, "")]
            if len(entry.faults) != 1:
                listed.append(("all faults", entry.detections, ""))
            for each in entry.faults:
                like = ", ".join(f"{name} ({count})" for name, count in each.like.items())
                listed.append((each.fault, each.rate, like))
            rows += [
                TextRow((entry.machine, when, name, *_rate_cells(rate), like), ends_group=number == len(listed))
                for number, (name, rate, like) in enumerate(listed, start=1)
            ]
    return TextTable(headings, tuple(rows), text_columns=(0, 1, 2, 6), droppable=(6, 1, 5))


def _rate_cells(rate: Rate) -> tuple[str, str, str]:
    count = f"{rate.alarms} of {rate.recordings}"
    if rate.value is None or rate.low is None or rate.high is None:
        return count, "", ""
    return count, f"{100 * rate.value:.1f} %", f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %"


def benchmark_table(found: Benchmark) -> TextTable:
    """A row per step: rate, and of its matrix products the rate and the share of a plain product's."""
    rows = []
    for row in found.rows:
        gflops = "" if row.gflops is None else f"{row.gflops:.0f}"
        share = "" if row.of_product is None else f"{row.of_product:.2f}"
        rows.append(TextRow((row.step, row.precision, f"{row.per_second:.3g}", gflops, share)))
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    notes = (f"{found.device}: {found.processor}, {found.threads} threads; {versions}; {found.encoder}",)
    headings = ("step", "precision", "per second", "GFLOP/s", "of a plain product")
    return TextTable(headings, tuple(rows), notes=notes, text_columns=(0, 1))


def changes_table(changes: Iterable[Change]) -> TextTable:
    """A row per change of a detector: what was added, its effect, and whether it was undone."""
    headings = ("date", "machine", "added", "skipped", "threshold", "of these above it", "note")
    rows = []
    for entry in changes:
        kind = "normal" if entry.fault is None else entry.fault
        machine = entry.machine if entry.section == "00" else f"{entry.machine}/{entry.section}"
        cells = (
            entry.date.removesuffix("+00:00").replace("T", " "),
            machine,
            f"{len(entry.files)} {kind}" + (", undone" if entry.undone else ""),
            str(len(entry.skipped) or ""),
            _before_and_after([_values(entry.thresholds_before), _values(entry.thresholds_after)]),
            _before_and_after([str(entry.alarms_before), str(entry.alarms_after)]),
            entry.note or "",
        )
        rows.append(TextRow(cells, "faint" if entry.undone else ""))
    return TextTable(headings, tuple(rows), text_columns=(0, 1, 2, 6), droppable=(3, 5, 6))


def _values(thresholds: Iterable[Threshold]) -> str:
    return ", ".join("none" if entry.value is None else f"{entry.value:.4f}" for entry in thresholds)


def _before_and_after(texts: Sequence[str]) -> str:
    return texts[0] if texts[0] == texts[1] else " → ".join(texts)
