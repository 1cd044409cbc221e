"""Figures of the technical report's Table 1 and text, and a check of its harmonic means against the others.

All figures were read off the report. Harmonic means are computed from the three figures of each machine; those
that the report prints are only checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from nearfar.evaluation.results import MachineResult, Results
from nearfar.metrics import QUANTITIES, MachineMetrics, Quantity, harmonic_mean

ROUNDING = 0.005
"""Percentage points by which a figure printed with two decimals may differ from its exact value."""


class PrintedRow(NamedTuple):
    """Four figures of the report, in percent as printed."""

    auc_source: float
    auc_target: float
    pauc: float
    score: float


class Claim(NamedTuple):
    """A figure that the report's text gives for a column's harmonic mean over all machines, in percent."""

    where: str
    quantity: Quantity
    printed: float


@dataclass(frozen=True, slots=True)
class PublishedColumn:
    """One column of Table 1."""

    name: str
    machines: dict[str, PrintedRow]
    all_machines: PrintedRow
    claims: tuple[Claim, ...] = ()

    def results(self) -> Results:
        """The column's figures as fractions; scores and means are computed from them."""
        return Results(
            tuple(
                MachineResult(machine, "00", MachineMetrics(*(figure / 100 for figure in row[:3])))
                for machine, row in self.machines.items()
            )
        )


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A printed figure that does not follow from the figures it is derived from, both in percent.

    ``machine`` is None for the harmonic mean over all machines. ``where`` is where the report prints it.
    """

    column: str
    machine: str | None
    quantity: Quantity
    where: str
    printed: float
    computed: float


_CLAIMS = {
    "Baseline MSE": (Claim("section 4", "auc_target", 48.73),),
    "Baseline MAHALA": (Claim("section 4", "auc_target", 54.24),),
    "Best Submitted System": (
        Claim("abstract", "auc_source", 66.70),
        Claim("abstract", "auc_target", 68.48),
        Claim("abstract", "pauc", 59.05),
        Claim("section 4", "auc_source", 66.70),
        Claim("section 4", "auc_target", 68.48),
        Claim("section 4", "pauc", 59.05),
        Claim("section 4", "score", 64.49),
    ),
}
"""Figures of the text by column of Table 1."""

_TABLE_1 = {
    "bearingEmu": ((62.34, 59.56, 59.85, 60.56), (65.92, 62.28, 60.42, 62.79), (59.86, 57.28, 51.74, 56.08)),
    "fan": ((61.45, 46.94, 53.33, 53.26), (60.00, 45.09, 52.29, 51.75), (55.38, 66.74, 60.58, 60.55)),
    "gearboxEmu": ((68.23, 49.78, 52.94, 55.94), (74.48, 52.74, 53.97, 58.92), (80.44, 77.92, 64.21, 73.46)),
    "sliderEmu": ((67.25, 45.05, 50.38, 52.71), (66.36, 49.18, 50.36, 54.29), (55.14, 54.16, 49.21, 52.70)),
    "ToyCar": ((75.62, 37.87, 54.03, 51.60), (77.28, 53.17, 58.25, 61.33), (75.30, 71.36, 63.11, 69.54)),
    "ToyCarEmu": ((69.62, 61.20, 55.89, 61.73), (69.49, 66.62, 53.47, 62.37), (75.82, 82.52, 61.53, 72.19)),
    "valveEmu": ((67.74, 68.78, 55.08, 56.66), (56.60, 56.50, 50.20, 54.26), (76.10, 80.94, 67.95, 74.60)),
    "all": ((67.19, 50.85, 54.36, 56.66), (66.46, 54.24, 53.91, 57.66), (66.70, 68.48, 59.05, 64.49)),
}
"""AUC (source), AUC (target), pAUC and score by machine and column."""


def _column(index: int, name: str) -> PublishedColumn:
    rows = {machine: PrintedRow(*columns[index]) for machine, columns in _TABLE_1.items()}
    return PublishedColumn(name, all_machines=rows.pop("all"), machines=rows, claims=_CLAIMS[name])


PUBLISHED: tuple[PublishedColumn, ...] = tuple(_column(index, name) for index, name in enumerate(_CLAIMS))
"""Table 1 of the report, in its order of machines and columns."""


def check_published(columns: tuple[PublishedColumn, ...] = PUBLISHED) -> list[Discrepancy]:
    """The report's harmonic means that do not follow from the three figures per machine.

    A mean passes if some values that round to the printed ones have a mean that rounds to the printed mean.
    """
    return [problem for column in columns for problem in _check_column(column)]


def _check_column(column: PublishedColumn) -> Iterator[Discrepancy]:
    rows = column.machines.values()
    by_quantity = {quantity: tuple(getattr(row, quantity) for row in rows) for quantity in QUANTITIES}
    by_quantity["score"] = tuple(figure for row in rows for figure in row[:3])
    table = [Claim("Table 1", *printed) for printed in zip(QUANTITIES, column.all_machines, strict=True)]
    checks: list[tuple[str | None, Claim, tuple[float, ...]]] = [
        *((machine, Claim("Table 1", "score", row.score), row[:3]) for machine, row in column.machines.items()),
        *((None, claim, by_quantity[claim.quantity]) for claim in (*table, *column.claims)),
    ]
    for machine, claim, figures in checks:
        # The harmonic mean grows with each of its values, so the rounding of all of them one way bounds it.
        lowest = harmonic_mean(figure - ROUNDING for figure in figures) - ROUNDING
        highest = harmonic_mean(figure + ROUNDING for figure in figures) + ROUNDING
        if not lowest <= claim.printed <= highest:
            mean = harmonic_mean(figures)
            yield Discrepancy(column.name, machine, claim.quantity, claim.where, claim.printed, mean)
