"""The parts of an HTML page and how they are rendered: one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import nearfar
from nearfar.data.channel_check import ChannelWarning
from nearfar.files import write_text
from nearfar.progress import Progress
from nearfar.report.examples import Example

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class PageChart:
    """A drawing under a heading, with a caption on how to read it."""

    heading: str
    svg: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class PageTable:
    """Rows under a heading; the first cell of a row is its name, and ``ends_in_text`` aligns the last one left."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    ends_in_text: bool = False


@dataclass(frozen=True, slots=True)
class MachineSection:
    """The part of a page about one machine."""

    name: str
    anchor: str
    counts: str
    charts: tuple[PageChart, ...]
    numbers: PageTable
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class ResultsRow:
    """A row of the results table: (value, low, high) in percent by quantity, None where there is no value."""

    name: str
    cells: tuple[tuple[float, float, float] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page about a run or a detector, as the template ``page.html.j2`` reads it."""

    kind: str
    title: str
    description: str
    notes: tuple[str, ...]
    quantities: tuple[str, ...] = ()
    results: tuple[ResultsRow, ...] = ()
    resamples: int = 0
    summary: tuple[PageTable, ...] = ()
    machines: tuple[MachineSection, ...]
    charts: tuple[PageChart, ...] = ()
    tables: tuple[PageTable, ...]
    texts: tuple[tuple[str, str], ...]


def machine_sections(
    entries: Sequence[Entry], section: Callable[[Entry, str], MachineSection], progress: Progress
) -> tuple[MachineSection, ...]:
    """Build the section of every machine from its entry and its anchor."""
    sections = []
    for number, entry in enumerate(entries, start=1):
        sections.append(section(entry, f"machine-{number}"))
        progress("drawing machines", number, len(entries))
    return tuple(sections)


def channel_table(warnings: Sequence[ChannelWarning], no_warnings: str) -> PageTable:
    """Warnings about the near and the far channel, or the sentence that there are none."""
    rows = tuple(
        (warning.machine, warning.kind, f"{len(warning.files)} of {warning.checked}", str(warning))
        for warning in warnings
    )
    columns = ("machine", "problem", "recordings", "details")
    return PageTable("Channels", columns, rows, "" if rows else no_warnings, ends_in_text=True)


def channel_notes(warnings: Sequence[ChannelWarning]) -> tuple[str, ...]:
    """The same warnings as notes for the top of a page."""
    return tuple(f"Channels of {warning}" for warning in warnings)


def write_page(out: Path, template: str, page: Any, script: str = "") -> Path:
    """Render a page to a file, which appears whole or not at all.

    Args:
        out: the HTML file.
        template: name of a template in this package.
        page: the template's ``page``: kind, title, description, notes and what else it reads. Texts are escaped,
            drawings are not.
        script: JavaScript; without it the page allows none.

    Raises:
        NearfarError: if the file cannot be written.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(read_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(
        page=page,
        script=script,
        script_hash=f"sha256-{digest}",
        version=nearfar.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(out, text)
    return out


def read_resource(name: str) -> str:
    """A template, style sheet or script of this package."""
    return (resources.files("nearfar.report") / name).read_text(encoding="utf-8")
