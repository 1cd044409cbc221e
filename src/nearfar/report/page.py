"""The page itself: one HTML file with everything in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import nearfar
from nearfar.data.channel_check import ChannelWarning
from nearfar.files import write_text
from nearfar.report.examples import frequency_marks
from nearfar.report.gather import RunFacts, gather_run
from nearfar.report.sections import (
    QUANTITIES,
    Chart,
    MachineSection,
    Row,
    Table,
    machine_section,
    summary_rows,
    training_chart,
)

Facts = TypeVar("Facts")

Progress = Callable[[int, int], None]
"""Called with the number of finished and of all machines."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the template places."""

    kind: str
    title: str
    description: str
    notes: tuple[str, ...]
    made: str
    quantities: tuple[str, ...]
    rows: tuple[Row, ...]
    resamples: int
    summary: tuple[Table, ...]
    machines: tuple[MachineSection, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    texts: tuple[tuple[str, str], ...]
    marks: tuple[tuple[str, float], ...] = tuple(frequency_marks())


def report_run(run: Path, out: Path, *, data: Path | None = None, progress: Progress | None = None) -> Path:
    """Write the page about a run.

    Args:
        run: the folder of a finished run.
        out: the HTML file; it appears whole or not at all.
        data: the recordings, if they are no longer where the run found them.
        progress: called after each machine.

    Raises:
        InputError: if the folder holds no finished run, or a file in it is damaged.
        NearfarError: if the page cannot be written.
    """
    facts = gather_run(run, data)
    sections = sections_of(
        facts.machines, lambda machine, number: machine_section(machine, facts, number), progress
    )
    write_text(out, render(_page(facts, sections)))
    return out


def sections_of(
    facts: Sequence[Facts], section: Callable[[Facts, int], MachineSection], progress: Progress | None
) -> tuple[MachineSection, ...]:
    """The sections of all machines, one after the other."""
    sections = []
    for number, entry in enumerate(facts, start=1):
        sections.append(section(entry, number))
        if progress is not None:
            progress(number, len(facts))
    return tuple(sections)


def _page(facts: RunFacts, sections: tuple[MachineSection, ...]) -> Page:
    training = training_chart(facts)
    return Page(
        kind="Run",
        title=facts.recipe.name,
        description=facts.recipe.description,
        notes=(*facts.notes, *facts.missing, *warned(facts.warnings)),
        made=now(),
        quantities=tuple(QUANTITIES.values()),
        rows=tuple(summary_rows(facts)),
        resamples=facts.intervals.resamples if facts.intervals else 0,
        summary=(),
        machines=sections,
        charts=(training,) if training else (),
        tables=(
            data_table(facts.data),
            *channels_table(facts.warnings, "A sample of the normal recordings gave nothing to warn of."),
        ),
        texts=(
            ("Recipe", facts.recipe_text),
            ("Environment", json.dumps(facts.environment, indent=1)),
        ),
    )


def now() -> str:
    """When a page is made, for people."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def data_table(data: list[dict[str, Any]]) -> Table:
    """Clips by machine as the run found them."""
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
                "; ".join(machine.get("warnings", machine.get("oddities", []))) or "–",
            )
        )
    columns = ("machine", "training clips", "test clips", "length", "channels", "remarks")
    return Table("Data", columns, tuple(rows), sentences=True)


def channels_table(warnings: Sequence[ChannelWarning] | None, nothing: str) -> tuple[Table, ...]:
    """What is the matter with the microphones, or that ``nothing`` is; no table if nothing was listened to."""
    if warnings is None:
        return ()
    rows = tuple(
        (warning.machine, warning.kind, f"{len(warning.files)} of {warning.checked}", str(warning))
        for warning in warnings
    )
    caption = "" if rows else nothing
    return (Table("Microphones", ("machine", "what", "recordings", "remarks"), rows, caption, sentences=True),)


def warned(warnings: Sequence[ChannelWarning] | None) -> tuple[str, ...]:
    """The same as notes for the top of a page."""
    return tuple(f"Microphones of {warning}" for warning in warnings or ())


def render(page: Page) -> str:
    """HTML of a page; texts are escaped by the template, drawings are not."""
    from jinja2 import Environment, StrictUndefined

    template = (resources.files("nearfar.report") / "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(page=page, version=nearfar.__version__)
