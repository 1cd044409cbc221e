"""The parts of HTML pages, and their rendering into one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import nearfar
from nearfar.data.channel_check import ChannelWarning
from nearfar.evaluation.uncertainty import Interval
from nearfar.extras import require_extras
from nearfar.files import write_text
from nearfar.progress import Progress
from nearfar.report.examples import Example

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class PageChart:
    """An SVG chart with a heading and a caption."""

    heading: str
    svg: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table; the first cell of a row is its heading, and the columns called ``text`` are aligned left."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineSection:
    """The part of a page about one machine; ``remarks`` are sentences on the choices made for it."""

    name: str
    counts: str
    charts: tuple[PageChart, ...]
    numbers: PageTable
    examples: tuple[Example, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page about a run, a detector or new recordings, for the template ``page.html.j2``.

    ``verdict`` is the sentence on top, ``examples_heading`` is above the examples of a machine.

    ``results`` are rows of a machine's name and its intervals in the order of ``quantities``, None for NaN.
    """

    kind: str
    title: str
    verdict: str
    description: str
    examples_heading: str
    notes: tuple[str, ...]
    quantities: tuple[str, ...] = ()
    results: Sequence[tuple[str, Sequence[Interval | None]]] = ()
    resamples: int = 0
    summary: tuple[PageTable, ...] = ()
    machines: tuple[MachineSection, ...]
    charts: tuple[PageChart, ...] = ()
    tables: tuple[PageTable, ...]
    texts: tuple[tuple[str, str], ...]


def track(machines: Sequence[Entry], progress: Progress) -> Iterator[Entry]:
    """Iterate over machines; ``progress`` is called after each."""
    for number, machine in enumerate(machines, start=1):
        yield machine
        progress("drawing machines", number, len(machines))


def channel_table(warnings: Sequence[ChannelWarning], no_warnings: str) -> PageTable:
    """Warnings about the near and the far channel; ``no_warnings`` is printed if there are none."""
    rows = tuple(
        (warning.machine, warning.kind, f"{len(warning.files)} of {warning.checked}", str(warning))
        for warning in warnings
    )
    columns = ("machine", "problem", "recordings", "details")
    return PageTable("Channels", columns, rows, "" if rows else no_warnings, ("problem", "details"))


def write_page(out: Path, template: str, page: Any, script: str = "") -> Path:
    """Render a page to a file, which appears whole or not at all.

    Args:
        out: the HTML file.
        template: name of a template in this package.
        page: object or dictionary with kind, title, verdict, description, notes and whatever else the template
            reads. Texts are escaped, charts are not.
        script: JavaScript of the page; no other script can run.

    Raises:
        NearfarError: if the file cannot be written, or jinja2 is not installed.
    """
    require_extras(str(out), "report")
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
