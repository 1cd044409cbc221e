"""The page of an ablation: heat maps over pairs of axes, what choosing is worth, and a table to sort."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import nearfar
from nearfar.ablation.grid import Skipped
from nearfar.ablation.statistics import Ablation
from nearfar.ablation.tables import left_out_to_text, reasons, to_text
from nearfar.files import write_text
from nearfar.report.drawing import heat_map

MOST_MAPS = 10
"""Pairs of axes that are drawn, those named first in the grid."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A drawing with its heading."""

    heading: str
    drawing: str


@dataclass(frozen=True, slots=True)
class AblationPage:
    """What the template places."""

    title: str
    description: str
    notes: tuple[str, ...]
    made: str
    axes: int
    maps: tuple[HeatMap, ...]
    left_out_caption: str
    left_out_headings: tuple[str, ...]
    left_out: tuple[tuple[str, ...], ...]
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    skipped: tuple[tuple[str, int], ...]


def write_ablation_page(
    table: Ablation, out: Path, *, title: str, skipped: Sequence[Skipped] = (), notes: Sequence[str] = ()
) -> Path:
    """Write the page, one HTML file that needs no network.

    Args:
        table: the ablation.
        out: the file; it appears whole or not at all.
        title: what was varied, and where.
        skipped: combinations without a row.
        notes: what must be said of the data.

    Raises:
        NearfarError: if the page cannot be written.
    """
    combinations, left_out = to_text(table), left_out_to_text(table)
    page = AblationPage(
        title=title,
        description=f"{len(table.rows)} combinations against {table.reference_name}.",
        notes=tuple(notes),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        axes=len(table.axes),
        maps=tuple(heat_maps(table)),
        left_out_caption=left_out.title,
        left_out_headings=left_out.headings,
        left_out=tuple(row.cells for row in left_out.rows),
        caption=combinations.notes[0],
        headings=combinations.headings,
        rows=tuple(row.cells for row in combinations.rows),
        skipped=tuple(reasons(skipped).items()),
    )
    write_text(out, _render(page))
    return out


def heat_maps(table: Ablation) -> list[HeatMap]:
    """The best official score of every pair of values, for pairs of axes that have several values each."""
    several = [axis for axis in table.axes if len({row.values[axis] for row in table.rows}) > 1]
    maps = []
    for pair in itertools.islice(itertools.combinations(several, 2), MOST_MAPS):
        # Long names have room at the left, and not above.
        across, down = sorted(pair, key=lambda axis: max(len(row.values[axis]) for row in table.rows))
        best: dict[tuple[str, str], float] = {}
        for row in reversed(table.rows):  # the best row of a cell comes last and stays
            best[row.values[down], row.values[across]] = 100 * row.results.official_score
        rows, columns = (sorted({row.values[axis] for row in table.rows}) for axis in (down, across))
        values = [[best.get((name, column)) for column in columns] for name in rows]
        heading = " and ".join(axis.rpartition(".")[2] for axis in pair)
        maps.append(HeatMap(heading, heat_map(values, rows, columns, f"Best official score by {heading}")))
    return maps


def _render(page: AblationPage) -> str:
    from jinja2 import Environment, StrictUndefined

    folder = resources.files("nearfar.report")
    # Pages look alike: the style sheet is that of a run's page.
    style = (folder / "page.html.j2").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    script = (folder / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "ablation.html.j2").read_text(encoding="utf-8"))
    return template.render(
        page=page, style=style, script=script, script_hash=f"sha256-{digest}", version=nearfar.__version__
    )
