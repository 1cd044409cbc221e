"""The page itself: one HTML file with everything in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import nearfar
from nearfar.files import write_text
from nearfar.report.gather import RunFacts, gather_run
from nearfar.report.sections import (
    QUANTITIES,
    Chart,
    MachineSection,
    Row,
    machine_section,
    summary_rows,
    training_chart,
)

Progress = Callable[[int, int], None]
"""Called with the number of finished and of all machines."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the template places."""

    title: str
    description: str
    notes: tuple[str, ...]
    made: str
    quantities: tuple[str, ...]
    rows: tuple[Row, ...]
    resamples: int
    machines: tuple[MachineSection, ...]
    charts: tuple[Chart, ...] = ()
    tables: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


def report_run(run: Path, out: Path, *, data: Path | None = None, progress: Progress | None = None) -> Path:
    """Write the page about a run.

    Args:
        run: the folder of a finished run.
        out: the HTML file; it appears whole or not at all.
        data: the recordings, if they are no longer where the run found them.
        progress: called after each machine.

    Raises:
        InputError: if the folder holds no finished run.
        NearfarError: if the page cannot be written.
    """
    facts = gather_run(run, data)
    sections = []
    for number, machine in enumerate(facts.machines, start=1):
        sections.append(machine_section(machine, facts, number))
        if progress is not None:
            progress(number, len(facts.machines))
    write_text(out, render(_page(facts, sections)))
    return out


def _page(facts: RunFacts, sections: list[MachineSection]) -> Page:
    training = training_chart(facts)
    return Page(
        title=facts.recipe.name,
        description=facts.recipe.description,
        notes=(*facts.notes, *facts.missing),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        quantities=tuple(QUANTITIES.values()),
        rows=tuple(summary_rows(facts)),
        resamples=facts.intervals.resamples if facts.intervals else 0,
        machines=tuple(sections),
        charts=(training,) if training else (),
        tables=(data_table(facts.data),),
        texts=(
            ("Recipe", facts.recipe_text),
            ("Environment", json.dumps(facts.environment, indent=1)),
        ),
    )


def data_table(data: list[dict[str, Any]]) -> tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]:
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
                "; ".join(machine["oddities"]) or "–",
            )
        )
    return "Data", ("machine", "training clips", "test clips", "length", "channels", "remarks"), tuple(rows)


def render(page: Page) -> str:
    """HTML of a page; texts are escaped by the template, drawings are not."""
    from jinja2 import Environment, StrictUndefined

    template = (resources.files("nearfar.report") / "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(page=page, version=nearfar.__version__)
