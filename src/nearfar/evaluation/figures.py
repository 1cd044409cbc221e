"""A figure per machine: how far the scores of normal and anomalous clips lie apart, and the ROC curve."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.files import whole_file
from nearfar.metrics import CURRENT, DOMAINS, MAX_FPR, OfficialRule, domain_rows, machine_metrics, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every kind of colour vision; the domains differ in line style as well.
_NORMAL, _ANOMALOUS = "#0072B2", "#D55E00"
_CURVES = {"source": ("#009E73", "-"), "target": ("#CC79A7", "--")}
_INK, _FAINT, _SHADE = "#222222", "#9a9a9a", "#EFEFEF"
_BINS = 24
_STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.color": _FAINT,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}


def machine_figure(
    machine: str,
    labels: ArrayLike,
    domains: ArrayLike,
    scores: ArrayLike,
    title: str,
    path: Path,
    rule: OfficialRule = CURRENT,
) -> None:
    """Draw one machine's score histograms by domain and label, and its ROC curves, to a PNG file.

    The AUC of a domain sets its normal clips against the anomalies of both domains, as the official metric does;
    the histograms show each domain's own clips. The file appears whole or not at all.

    Args:
        machine: the machine type, for the heading.
        labels: (clips,) bool or 0/1, true for an anomaly.
        domains: (clips,) of ``source`` and ``target``.
        scores: (clips,) finite numbers, higher is more anomalous.
        title: what made the scores, and on what data; stands behind the machine in the heading.
        path: the PNG file to write; its folder is made if need be.
        rule: how the year evaluates; a domain that the data lacks is left out where the rule does without it.

    Raises:
        ValueError: as :func:`nearfar.metrics.machine_metrics`.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    anomalous = np.asarray(labels, dtype=bool)
    domain, score = np.asarray(domains), np.asarray(scores, dtype=np.float64)
    with rc_context(_STYLE):
        figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(fill(f"{machine} – {title}", width=90), x=0.01, ha="left", fontsize=13, fontweight="bold")
        present = [name for name in DOMAINS if (domain == name).any()]
        axes = figure.subplot_mosaic([[name, "roc"] for name in present], width_ratios=(1.15, 1))
        _draw_histograms({name: axes[name] for name in present}, anomalous, domain, score)
        _draw_roc(axes["roc"], anomalous, domain, score, rule)
        with whole_file(path) as partial:
            figure.savefig(partial, format="png")


def _draw_histograms(
    axes: dict[str, Axes], anomalous: NDArray[np.bool_], domain: NDArray[np.str_], score: NDArray[np.float64]
) -> None:
    from matplotlib.ticker import MaxNLocator

    edges = np.histogram_bin_edges(score, bins=_BINS)
    panels = list(axes.values())
    for name, panel in axes.items():
        normal, faulty = score[~anomalous & (domain == name)], score[anomalous & (domain == name)]
        panel.hist(normal, edges.tolist(), color=_NORMAL, alpha=0.45, label=f"normal ({normal.size})")
        # Only an outline, so that the two colours never mix; an empty bin is left out of it.
        counts = np.histogram(faulty, edges)[0].astype(float)
        counts[counts == 0] = np.nan
        panel.stairs(counts, edges, color=_ANOMALOUS, linewidth=2, label=f"anomalous ({faulty.size})")
        panel.set_title(f"{name.capitalize()} domain")
        panel.set_ylabel("clips")
        panel.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1.2)
    top = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(0, top)
        panel.set_xlim(edges[0] - np.ptp(edges) / 50, edges[-1] + np.ptp(edges) / 50)
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False)
    panels[-1].set_xlabel("anomaly score (higher is more anomalous)")


def _draw_roc(
    panel: Axes,
    anomalous: NDArray[np.bool_],
    domain: NDArray[np.str_],
    score: NDArray[np.float64],
    rule: OfficialRule,
) -> None:
    metrics = machine_metrics(anomalous, domain, score, rule)
    panel.axvspan(0, MAX_FPR, color=_SHADE, linewidth=0)
    panel.plot((0, 1), (0, 1), color=_FAINT, linewidth=1, linestyle=":")
    panel.annotate("chance", (0.93, 0.9), rotation=45, color=_FAINT, ha="center", va="center", fontsize=9)
    for name, area in zip(DOMAINS, metrics[:2], strict=True):
        if np.isnan(area):
            continue
        rows = domain_rows(anomalous, domain, name, rule)
        colour, style = _CURVES[name]
        panel.plot(
            *roc_curve(anomalous[rows], score[rows]),
            color=colour, linestyle=style, linewidth=1.8, label=f"{name}: AUC {100 * area:.2f} %",
        )  # fmt: skip
    alarms, hits = roc_curve(anomalous, score)
    panel.plot(alarms, hits, color=_INK, linewidth=1.2, label="both domains")
    inside = np.linspace(0, MAX_FPR, 200)
    panel.fill_between(
        inside, np.interp(inside, alarms, hits), color="#F0E442", alpha=0.8, linewidth=0,
        label=f"pAUC {100 * metrics.pauc:.2f} % (up to {MAX_FPR})",
    )  # fmt: skip
    panel.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false-positive rate", ylabel="true-positive rate")
    panel.set_aspect("equal")
    panel.set_title(f"ROC: normals of a domain, anomalies of {'the same' if rule.own_anomalies else 'both'}")
    panel.legend(loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")
