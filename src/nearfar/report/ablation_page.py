"""The page of an ablation: heat maps over pairs of axes, leave-one-machine-out, and a table that can be sorted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from nearfar.ablation.grid import Skipped
from nearfar.ablation.statistics import Ablation
from nearfar.ablation.tables import left_out_to_text, reasons, to_text
from nearfar.charts import heat_map
from nearfar.report.page import PageChart, PageTable, read_resource, write_page

MANY_MACHINES = 4
"""From so many machines on, their names are written upwards, for the table to fit."""
MOST_MAPS = 10
"""Largest number of pairs of axes that are drawn, in the order of the grid."""


def write_ablation_page(
    table: Ablation, out: Path, *, title: str, skipped: Sequence[Skipped] = (), notes: Sequence[str] = ()
) -> Path:
    """Write the page of an ablation, one HTML file that needs no network.

    Args:
        table: the ablation.
        out: the file; it appears whole or not at all.
        title: the grid and the data.
        skipped: combinations without a row.
        notes: remarks on the data, shown at the top.

    Raises:
        NearfarError: if the page cannot be written.
    """
    left_out = left_out_to_text(table)
    rows, caption = tuple(row.cells for row in left_out.rows), f"{left_out.title}, in percent."
    page = {
        "kind": "Ablation",
        "title": title,
        "verdict": "",
        "description": f"{len(table.rows)} combinations against {table.reference_name}.",
        "notes": notes,
        "maps": heat_maps(table),
        "left_out": PageTable("Leave one machine out", left_out.headings, rows, caption, (left_out.headings[1],)),
        "combinations": to_text(table),
        "tall": table.rows[0].machines if len(table.rows[0].machines) >= MANY_MACHINES else (),
        "skipped": reasons(skipped),
    }
    return write_page(out, "ablation.html.j2", page, script=read_resource("sort.js"))


def short_name(axis: str) -> str:
    """The last part of the key of an axis, such as ``keep bands`` of ``features.keep_bands``."""
    return axis.rpartition(".")[2].replace("_", " ")


def heat_maps(table: Ablation) -> list[PageChart]:
    """The best official score of every pair of values, for pairs of axes that have several values each."""
    several = [axis for axis in table.axes if len({row.values[axis] for row in table.rows}) > 1]
    charts = []
    for pair in itertools.islice(itertools.combinations(several, 2), MOST_MAPS):
        # The axis with the longer names labels the rows, which have more room.
        across, down = sorted(pair, key=lambda axis: max(len(row.values[axis]) for row in table.rows))
        best: dict[tuple[str, str], float] = {}
        for row in table.rows:  # best first
            best.setdefault((row.values[down], row.values[across]), 100 * row.results.official_score)
        rows, columns = (sorted({row.values[axis] for row in table.rows}) for axis in (down, across))
        values = [[best.get((name, column)) for column in columns] for name in rows]
        heading = " and ".join(map(short_name, pair))
        title, (x_label, y_label) = f"Best official score by {heading}", map(short_name, (across, down))
        chart = heat_map(values, rows, columns, title, x_label=x_label, y_label=y_label)
        charts.append(PageChart(heading, chart.svg()))
    return charts
