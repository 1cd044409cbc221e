"""What a person sees: tables and progress bars in the terminal. Bars go to standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from nearfar.data.summary import MachineSummary
    from nearfar.detector.scores import Departure, Score
    from nearfar.thresholds.detectors import Threshold


def show(what: RenderableType) -> None:
    """Print to standard output; not cut to a width where it is not a terminal. Text is printed as it is."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(what, soft_wrap=isinstance(what, str | Text), markup=False)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A function ``(task, done, total)`` that keeps one bar per task; plain lines where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_progress(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def advance(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)

        yield advance


def _line_progress(console: Console) -> Callable[[str, int, int], None]:
    said: dict[str, int] = {}

    def advance(task: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if said.get(task) != tenth:
            said[task] = tenth
            console.print(f"{task}: {done}/{total}", soft_wrap=True, highlight=False, markup=False)

    return advance


def data_table(machines: Iterable[MachineSummary]) -> Table:
    """A row per machine: clips by split, domain and label, attributes, seconds, channels and rate."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("machine", "train", "test", "attributes in training", "seconds", "channels", "rate", "hours"):
        table.add_column(name, justify="left" if name in ("machine", "attributes in training") else "right")
    for machine in machines:
        train = ", ".join(f"{c.clips} {c.domain or ''}".strip() for c in machine.clips if c.split == "train")
        test = ", ".join(
            " ".join(filter(None, (str(c.clips), c.domain, c.label))) for c in machine.clips if c.split == "test"
        )
        attributes = ", ".join(
            f"{a.attributes} ({a.domain} {a.clips})" for a in machine.attributes if a.split == "train"
        )
        low, high = machine.shortest_seconds, machine.longest_seconds
        table.add_row(
            machine.machine,
            train or "none",
            test or "none",
            attributes,
            f"{low:g}" if low == high else f"{low:g} to {high:g}",
            "/".join(map(str, machine.channels)),
            "/".join(f"{rate} Hz" for rate in machine.sample_rates_hz),
            f"{machine.hours:.2f}",
        )
    return table


def scores_table(scores: Sequence[Score], *, windows: bool = False) -> Table:
    """A row per recording, and behind it one per window of longer ones where asked for; anomalous ones in red."""
    table = Table(box=SIMPLE_HEAD)
    left = ("file", "machine", "nearest normal", "departs most")
    views = list(scores[0].channels) if scores and len(scores[0].channels) > 1 else []
    for name in ("file", "machine", "score", *views, "threshold", "margin", "p", *left[2:]):
        table.add_column(name, justify="left" if name in left else "right", overflow="fold")
    for entry in scores:
        style = "bold red" if entry.anomalous else None
        several = len(entry.windows) > 1
        table.add_row(
            entry.file,
            entry.machine,
            f"{entry.score:.4f}",
            *(f"{entry.channels[view]:.4f}" for view in views),
            "none" if entry.threshold is None else f"{entry.threshold:.4f}",
            "" if entry.margin is None else f"{entry.margin:+.4f}" + (" anomalous" if entry.anomalous else ""),
            "" if entry.p_value is None else f"{entry.p_value:.3g}",
            _nearest(entry.nearest, entry.nearest_begin_s),
            _place(entry.departure),
            style=style,
        )
        for window in entry.windows if windows and several else ():
            table.add_row(
                f"  {window.begin_s:.2f} to {window.end_s:.2f} s",
                "",
                f"{window.score:.4f}",
                *(f"{window.channels[view]:.4f}" for view in views),
                *("", "", ""),
                _nearest(window.nearest, window.nearest_begin_s),
                "",
                style="dim",
            )
    return table


def _nearest(name: str, begin_s: float) -> str:
    return f"{name} from {begin_s:.2f} s" if begin_s else name


def _place(departure: Departure | None) -> str:
    if departure is None:
        return ""
    times = f"{departure.begin_s:.1f} to {departure.end_s:.1f} s"
    return f"{times}, {departure.low_hz:.0f} to {departure.high_hz:.0f} Hz"


def thresholds_table(thresholds: Iterable[Threshold]) -> Table:
    """A row per threshold: its value, how it was found, from how many recordings, and what it promises."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("machine", "domain", "threshold", "found by", "false alarms", "normal recordings"):
        table.add_column(name, justify="left" if name in ("machine", "domain", "found by") else "right")
    for entry in thresholds:
        rate = entry.false_alarm_rate
        bound = "at most" if entry.guaranteed else "about"
        table.add_row(
            entry.machine if entry.section == "00" else f"{entry.machine}/{entry.section}",
            entry.domain or "both",
            "none" if entry.value is None else f"{entry.value:.4f}",
            entry.method,
            "unknown" if rate is None or entry.value is None else f"{bound} {100 * rate:.3g} %",
            str(entry.recordings),
        )
    return table
