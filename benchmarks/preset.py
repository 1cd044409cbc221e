"""The simulated preset dcase2026 beside the real recordings: how channels are related, and how systems rank.

    python benchmarks/preset.py --out FOLDER [--seeds 11,12] [--systems NAME,NAME]

Prints two tables. The first: 10 %, 50 % and 90 % quantiles of the coherence of near and far by band and of the
ratio of their energies, of simulated test recordings and, with --real dev_per_clip.csv of NADUNGVN/care-asd, of
the real ones. The second: official scores of systems on every seed. What is in FOLDER is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from nearfar.data.simulate.acoustics import measured
from nearfar.data.simulate.presets import PRESETS

NEAREST = """
name = "log-spectral-nearest"
description = "The nearest neighbour of the log-mel mean and deviation of near."
extends = "frozen-near"
[features]
keep_bands = false
lags = []
[scoring]
distance = "cosine"
normalisation = "none"
"""
VARMIN = ("--set", "scoring.normalisation=varmin", "--set", "scoring.density_neighbours=4")
TINY = ("--encoder", "eat-tiny")
SYSTEMS: dict[str, Sequence[str]] = {
    "log-spectral nearest neighbour": ("nearest.toml",),
    "ae-mse": ("ae-mse",),
    "ae-mahala": ("ae-mahala",),
    "frozen-eat of eat-tiny with VarMin": ("frozen-eat", *TINY, *VARMIN),
    "tiny-near": ("tiny-near",),
    "frozen-near": ("frozen-near",),
    "nearfar-best": ("nearfar-best",),
    "auto": ("auto",),
}
REAL = {
    "fan": "fan", "gearbox": "gearboxEmu", "bearing": "bearingEmu", "slider": "sliderEmu", "valve": "valveEmu",
    "pump": "ToyCar",
}  # fmt: skip
COLUMNS = ("coherence_0-1000Hz", "coherence_1000-4000Hz", "coherence_4000-8000Hz", "far_to_near_energy_median")
QUANTILES = (0.1, 0.5, 0.9)


def nearfar(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "nearfar", *arguments], check=True, capture_output=True)


def quantiles(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in np.quantile(values, QUANTILES))


def print_relations(data: Path, real: Path | None) -> None:
    rows = [] if real is None else list(csv.DictReader(real.open(encoding="utf-8")))
    print("| machine | | coherence below 1 kHz | 1 to 4 kHz | 4 to 8 kHz | far / near energy |")
    print("|---|---|---|---|---|---|")
    for machine in PRESETS["dcase2026"].acoustics:
        found = []
        for path in sorted((data / machine / "test").iterdir()):
            relation = measured(soundfile.read(path)[0].T)
            found.append((*relation.coherence, relation.far_to_near))
        columns = list(zip(*found, strict=True))
        print(f"| {machine} | simulated | {' | '.join(map(quantiles, columns))} |")
        of_real = [row for row in rows if row["machine_type"] == REAL[machine]]
        if of_real:
            columns = [[float(row[name]) for row in of_real] for name in COLUMNS]
            print(f"| {REAL[machine]} | real | {' | '.join(map(quantiles, columns))} |")


def score(run: Path) -> dict[str, float]:
    (system,) = json.loads((run / "results.json").read_text(encoding="utf-8"))["systems"]
    return {name: 100 * entry["mean"] for name, entry in system["all"].items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="11,12")
    parser.add_argument("--real", type=Path)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--set", action="append", default=[], metavar="RECIPE:KEY=VALUE")
    options = parser.parse_args()
    seeds = options.seeds.split(",")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "nearest.toml").write_text(NEAREST, encoding="utf-8")
    counts = ("--train-source", "100", "--train-target", "10", "--test", "20", "--seconds", "6")
    for seed in seeds:
        data = options.out / f"data-{seed}"
        if not data.exists():
            nearfar("simulate", str(data), "--preset", "dcase2026", "--seed", seed, *counts)
    print_relations(options.out / f"data-{seeds[0]}", options.real)
    print("\n| system | seed | source AUC | target AUC | pAUC | official score |\n|---|---|---|---|---|---|")
    for name in options.systems.split(","):
        for seed in seeds:
            run = options.out / f"run-{seed}-{name.replace(' ', '-')}"
            recipe, *rest = SYSTEMS[name]
            recipe = str(options.out / recipe) if recipe.endswith(".toml") else recipe
            own = [entry for entry in options.set if recipe.startswith(entry.split(":")[0])]
            changes = [text for entry in own for text in ("--set", entry.split(":", 1)[1])]
            if not (run / "results.json").exists():
                nearfar(
                    "run", recipe, *rest, *changes, "--data", str(options.out / f"data-{seed}"), "--out", str(run)
                )
            found = score(run)
            cells = " | ".join(f"{found[key]:.1f}" for key in ("auc_source", "auc_target", "pauc", "score"))
            print(f"| {name} | {seed} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
