"""What scores of real recordings say about choosing and combining systems.

    python benchmarks/real_scores.py FOLDER
    python benchmarks/real_scores.py FOLDER --write OUT      score files of every system, for `nearfar compare`

FOLDER holds the tables of per-clip and per-machine results on the DCASE 2026 data that other people published (see
its README): 18 systems on the 1,400 development clips, and 51 back-ends of frozen BEATs on the development and the
evaluation machines. Nothing is chosen on the machines that it is judged by: choices are made on all other machines
(leave one machine out), or on development machines for evaluation machines.

Choice of a back-end: the Kolmogorov-Smirnov distance between held-out source and target normal scores, lower is
better, needs no anomalies. Intervals: 95 %, paired over test clips.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean, harmonic_mean, median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata, spearmanr

from nearfar.evaluation.scorefiles import MachineScores, write_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import compare
from nearfar.metrics import machine_metrics

SECTION = "00"
RAW, DIFFERENCE = "raw-k1", "ldn-diff-K1"
VETOES = (0.7, 0.8, 0.9, 0.95, np.inf)
Floats = NDArray[np.float64]


# The 51 back-ends.


@dataclass(frozen=True, slots=True)
class Cell:
    """A back-end on a machine: AUC (source), AUC (target), pAUC in percent, and the distance of normal scores."""

    metrics: tuple[float, float, float]
    distance: float


Grid = Mapping[str, Mapping[str, Cell]]
"""By back-end, then by machine."""


def read_grid(path: Path) -> Grid:
    grid: defaultdict[str, dict[str, Cell]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            metrics = (float(row["auc_source"]), float(row["auc_target"]), float(row["pauc"]))
            grid[row["config"]][row["machine"]] = Cell(metrics, float(row["balance_ks"]))
    return dict(grid)


def official(cells: Iterable[Cell]) -> float:
    return harmonic_mean([value for cell in cells for value in cell.metrics])


def chosen_for_all(grid: Grid) -> str:
    """The back-end whose mean distance over machines is the smallest."""
    return min(grid, key=lambda name: fmean(cell.distance for cell in grid[name].values()))


def chosen_by_machine(grid: Grid, veto: float) -> dict[str, str]:
    """The back-end with the smallest distance of each machine; unscaled distances where theirs is above ``veto``.

    Domains that unscaled distances separate almost perfectly are separated by the recordings, not by the scale.
    """
    machines = grid[RAW]
    return {
        machine: RAW if cell.distance > veto else min(grid, key=lambda name: grid[name][machine].distance)
        for machine, cell in machines.items()
    }


def of_choice(grid: Grid, choice: Mapping[str, str]) -> float:
    return official(grid[name][machine] for machine, name in choice.items())


def best_on(grid: Grid) -> str:
    return max(grid, key=lambda name: official(grid[name].values()))


def backends(folder: Path, console: Console) -> None:
    for policy, meaning in (("ch0", "near channel"), ("mix", "mean of both channels")):
        development = read_grid(folder / f"prereg2026_per_machine_{policy}.csv")
        evaluation = read_grid(folder / f"e8_2026_per_machine_{policy}.csv")
        scores = {name: official(cells.values()) for name, cells in evaluation.items()}
        table = Table(title=f"Choosing one of {len(evaluation)} back-ends of frozen BEATs, {meaning}")
        for column in ("choice", "back-end", "development", "evaluation", "rank"):
            table.add_column(column, justify="left" if column in ("choice", "back-end") else "right")
        rank = {name: position for position, name in enumerate(sorted(scores, key=scores.__getitem__)[::-1], 1)}

        def row(
            title: str,
            name: str,
            grids: tuple[Grid, Grid] = (development, evaluation),
            ranks: Mapping[str, int] = rank,
            into: Table = table,
        ) -> None:
            values = [f"{official(grid[name].values()):.2f}" for grid in grids]
            into.add_row(title, name, *values, str(ranks[name]))

        row("best on evaluation (not a choice)", best_on(evaluation))
        row("best on development", best_on(development))
        row("smallest distance on development", chosen_for_all(development))
        row("smallest distance on evaluation", chosen_for_all(evaluation))
        row("unscaled 1-NN", RAW)
        row("difference to local density, K = 1", DIFFERENCE)
        table.add_row(
            "median of all",
            "",
            *(f"{median(official(g[n].values()) for n in g):.2f}" for g in (development, evaluation)),
            "",
        )
        veto = max(VETOES, key=lambda value: of_choice(development, chosen_by_machine(development, value)))
        for title, value in (("by machine, smallest distance", np.inf), (f"the same, veto above {veto:g}", veto)):
            made = [f"{of_choice(grid, chosen_by_machine(grid, value)):.2f}" for grid in (development, evaluation)]
            table.add_row(title, "", *made, "")
        console.print(table)
        names = list(evaluation)
        for label, grid in (("development", development), ("evaluation", evaluation)):
            distances = [fmean(cell.distance for cell in grid[name].values()) for name in names]
            within = [
                spearmanr([grid[n][m].distance for n in names], [official([grid[n][m]]) for n in names]).statistic
                for m in grid[RAW]
            ]
            over_all = spearmanr(distances, [scores[name] for name in names]).statistic
            console.print(
                f"{meaning}: mean distance on {label} machines against evaluation score, Spearman {over_all:.2f}; "
                f"within single {label} machines, distance against score: "
                + ", ".join(f"{m} {r:.2f}" for m, r in zip(grid[RAW], within, strict=True))
            )


# The 18 systems.


@dataclass(frozen=True, slots=True)
class Clips:
    """Development clips of one machine: labels, domains, file names, scores by system, covariates by name."""

    names: tuple[str, ...]
    anomalous: NDArray[np.bool_]
    domains: NDArray[np.str_]
    scores: dict[str, Floats]
    covariates: dict[str, Floats]


def read_clips(path: Path) -> dict[str, Clips]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    fixed = ("file_id", "machine_type", "domain", "condition")
    covariates = tuple(
        name for name in rows[0] if name.startswith(("coherence", "far_to", "near_log", "residual_"))
    )
    systems = [name for name in rows[0] if name not in fixed + covariates]
    by_machine: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for entry in rows:
        by_machine[entry["machine_type"]].append(entry)
    return {
        machine: Clips(
            tuple(Path(entry["file_id"]).name for entry in entries),
            np.array([entry["condition"] == "anomaly" for entry in entries]),
            np.array([entry["domain"] for entry in entries]),
            {name: np.array([float(entry[name]) for entry in entries]) for name in systems},
            {name: np.array([float(entry[name]) for entry in entries]) for name in covariates},
        )
        for machine, entries in by_machine.items()
    }


System = Callable[[Clips], Floats]


def single(name: str) -> System:
    return lambda clips: clips.scores[name]


def ranks(*names: str) -> System:
    """The mean of the ranks among the machine's test clips."""
    return lambda clips: np.asarray(np.mean([rankdata(clips.scores[name]) for name in names], axis=0))


def standardised_by_domain(*names: str) -> System:
    """The mean of scores standardised among the test clips of their domain, which is hidden in the challenge."""

    def scores(clips: Clips) -> Floats:
        total = np.zeros(len(clips.names))
        for name in names:
            for domain in np.unique(clips.domains):
                of = clips.domains == domain
                values = clips.scores[name][of]
                total[of] += (values - values.mean()) / values.std()
        return total

    return scores


def metrics_of(clips: Clips, scores: Floats) -> tuple[float, float, float]:
    return tuple(machine_metrics(clips.anomalous, clips.domains, scores))  # type: ignore[return-value]


def score_of(data: Mapping[str, Clips], system: System, machines: Iterable[str]) -> float:
    return 100 * harmonic_mean(
        [value for machine in machines for value in metrics_of(data[machine], system(data[machine]))]
    )


def entries(data: Mapping[str, Clips], system: Callable[[str], System]) -> list[MachineScores]:
    return [
        MachineScores(machine, SECTION, clips.names, system(machine)(clips)) for machine, clips in data.items()
    ]


def left_out(data: Mapping[str, Clips], candidates: Mapping[str, System]) -> dict[str, str]:
    """By machine, the candidate that is best on all others."""
    values = {
        name: {machine: metrics_of(clips, system(clips)) for machine, clips in data.items()}
        for name, system in candidates.items()
    }

    def others(name: str, machine: str) -> float:
        return harmonic_mean([value for m, triple in values[name].items() if m != machine for value in triple])

    return {machine: max(candidates, key=lambda name: others(name, machine)) for machine in data}


def by_covariate(data: Mapping[str, Clips], covariate: str, below: str, above: str) -> dict[str, str]:
    """By machine, one of two systems by a limit on the machine's median covariate that is best on all others."""
    value = {machine: float(np.median(clips.covariates[covariate])) for machine, clips in data.items()}
    made = {}
    for machine in data:
        others = [m for m in data if m != machine]
        found = sorted(value[m] for m in others)
        limits = [-np.inf, *((a + b) / 2 for a, b in pairwise(found)), np.inf]

        def score(limit: float, of: Sequence[str] = tuple(others)) -> float:
            return harmonic_mean(
                [v for m in of for v in metrics_of(data[m], data[m].scores[above if value[m] > limit else below])]
            )

        limit = max(limits, key=score)
        made[machine] = above if value[machine] > limit else below
    return made


def systems(data: Mapping[str, Clips], truth: GroundTruth, resamples: int, console: Console) -> None:
    names = list(next(iter(data.values())).scores)
    alone = {name: score_of(data, single(name), data) for name in names}
    best = max(alone, key=alone.__getitem__)
    console.print(
        "official scores: " + ", ".join(f"{n} {alone[n]:.2f}" for n in sorted(alone, key=alone.__getitem__)[::-1])
    )
    pairs = {f"{a} + {b}": ranks(a, b) for a, b in combinations(names, 2)}
    pair_scores = {name: score_of(data, system, data) for name, system in pairs.items()}
    top = sorted(pair_scores, key=pair_scores.__getitem__)[::-1][:5]
    console.print(
        "best pairs by mean rank (chosen on the same clips): "
        + ", ".join(f"{n} {pair_scores[n]:.2f}" for n in top)
    )
    gains = {name: pair_scores[name] - max(alone[part] for part in name.split(" + ")) for name in pairs}
    console.print(
        f"pairs above the better of their two systems: {sum(g > 0 for g in gains.values())} of {len(gains)}"
    )

    singles = {name: single(name) for name in names}
    families = ("ae_mahala", "dsp_spectral_subtraction", "beats_freq_rdp4_beam", "beats_crossattn_c1_seed13711")
    choices: dict[str, Callable[[str], System]] = {}
    for title, candidates in (
        ("best single system on the other machines", singles),
        ("best pair on the other machines", pairs),
        ("best single or pair on the other machines", singles | pairs),
    ):
        made = left_out(data, candidates)
        choices[title] = lambda machine, made=made, candidates=candidates: candidates[made[machine]]  # type: ignore[misc]
        console.print(f"{title}: " + ", ".join(f"{machine} {name}" for machine, name in made.items()))
    for covariate in next(iter(data.values())).covariates:
        made = by_covariate(data, covariate, "beats_freq_rdp4_beam", "beats_crossattn_c1_seed13711")
        choices[f"BEATs, or its adapter, by {covariate}"] = lambda machine, made=made: single(made[machine])  # type: ignore[misc]
    choices["mean rank of one system of each family"] = lambda _: ranks(*families)
    choices["mean rank of all 18"] = lambda _: ranks(*names)
    choices[f"{best}, standardised by domain (needs the domains)"] = lambda _: standardised_by_domain(best)
    choices["one of each family, standardised by domain (needs the domains)"] = lambda _: standardised_by_domain(
        *families
    )
    rows = [[entries(data, system)] for system in choices.values()]
    compared = compare(rows, [entries(data, lambda _: single(best))], truth, resamples=resamples)
    table = Table(title=f"Against {best} ({alone[best]:.2f}), {resamples} resamples")
    for column in ("system", "difference", "interval", *data):
        table.add_column(column, justify="left" if column == "system" else "right")
    for title, comparison in zip(choices, compared, strict=True):
        overall = comparison.overall
        machines = [f"{100 * difference.value:+.1f}" for difference in comparison.machines.values()]
        interval = f"[{100 * overall.low:+.2f}, {100 * overall.high:+.2f}]"
        table.add_row(title, f"{100 * overall.value:+.2f}", interval, *machines)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--write", type=Path, help="write score files of every system under this folder and stop")
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    console = Console(width=220)
    if options.folder is None:
        console.print("Nothing to do: give the folder with the published tables (docs/results/real-scores.md).")
        return
    data = read_clips(options.folder / "dev_per_clip.csv")
    if options.write is not None:
        for name in next(iter(data.values())).scores:
            write_scores(options.write / name, entries(data, lambda _, name=name: single(name)))
        return
    truth = GroundTruth.from_names(entries(data, lambda _: single("ae_mse")))
    backends(options.folder, console)
    systems(data, truth, options.resamples, console)


if __name__ == "__main__":
    main()
