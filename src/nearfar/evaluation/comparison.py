"""A paired comparison of two systems, put before a reader: terminal, Markdown, JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nearfar.evaluation.uncertainty import Comparison, Difference

if TYPE_CHECKING:
    from rich.table import Table

ALL = "All (official score)"


def comparison_to_rich(comparison: Comparison, a: str, b: str) -> Table:
    """The comparison for a terminal; ``a`` and ``b`` are what to call the two systems."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=f"{a} minus {b}, in points of the score", box=SIMPLE_HEAD, caption=_footnote(comparison))
    table.caption_justify, table.caption_style = "left", "default"
    for heading in _headings(comparison, a):
        table.add_column(heading, justify="right" if table.columns else "left")
    for name, difference in _rows(comparison):
        is_total = name == ALL
        table.add_row(name, *_figures(difference), style="bold" if is_total else None, end_section=is_total)
    return table


def comparison_to_markdown(comparison: Comparison, a: str, b: str) -> str:
    """The comparison in Markdown."""
    headings = [f"{a} minus {b}", *_headings(comparison, a)[1:]]
    rows = [headings, ["---", *("---:" for _ in headings[1:])]]
    rows += [[name, *_figures(difference)] for name, difference in _rows(comparison)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{_footnote(comparison)}\n"


def comparison_to_json(comparison: Comparison, a: str, b: str) -> str:
    """The comparison as JSON with all digits: fractions, not points."""
    tree = {
        "unit": "fraction",
        "a": a,
        "b": b,
        "resamples": comparison.resamples,
        "level": comparison.level,
        "machines": {name: _plain(difference) for name, difference in comparison.machines.items()},
        "all": _plain(comparison.overall),
        "without": {name: _plain(difference) for name, difference in comparison.without.items()},
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _headings(comparison: Comparison, a: str) -> list[str]:
    return ["machine", "difference", f"{100 * comparison.level:.0f} % interval", f"probability that {a} is better"]


def _rows(comparison: Comparison) -> list[tuple[str, Difference]]:
    without = [(f"All without {name}", difference) for name, difference in comparison.without.items()]
    return [*comparison.machines.items(), (ALL, comparison.overall), *without]


def _figures(difference: Difference) -> list[str]:
    value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
    return [f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]", f"{difference.a_better:.3f}"]


def _footnote(comparison: Comparison) -> str:
    return (
        f"Stratified bootstrap over test clips, {comparison.resamples:,} resamples, the same for both systems. "
        "It does not speak of other seeds or other machines."
    )


def _plain(difference: Difference) -> dict[str, Any]:
    return {
        "difference": difference.value,
        "interval": [difference.low, difference.high],
        "a_better": difference.a_better,
    }
