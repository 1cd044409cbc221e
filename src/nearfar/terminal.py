"""What a person sees: tables and progress bars in the terminal. Bars go to standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
