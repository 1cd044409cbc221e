"""How many new normal recordings a detector calls anomalous, and how many faults it finds, by calibration.

    nearfar simulate FACTORY --machines fan,valve --train-source 500 --train-target 1 --test 40 --seconds 2
    python benchmarks/false_alarms.py FACTORY

Detectors are fitted on normal recordings drawn from the many of each machine, at a rate of 10 %, and score 200 of
the others and the faults. Means over machines and draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from nearfar.detector.bank import fit_bank
from nearfar.detector.normals import resolve
from nearfar.features.representation import represent
from nearfar.thresholds.detectors import usable_threshold

from nearfar.config import load_recipe
from nearfar.data.layouts import read_dataset, read_normals
from nearfar.features.windows import Heard, Recording, hear
from nearfar.thresholds.calibration import held_out

RATE, NEW = 0.1, 200
PLAIN = {"scoring.distance": "cosine", "scoring.normalisation": "none"}
METHODS = [
    ("leave-one-out", "conformal"),
    ("split", "conformal"),
    ("leave-one-out", "gamma"),
    ("leave-one-out", "empirical"),
]


def some(heard: Heard, chosen: np.ndarray) -> Heard:
    """The windows of chosen recordings, each of one window."""
    features = {view: values[torch.from_numpy(chosen)] for view, values in heard.features.items()}
    return Heard(features, np.arange(len(chosen)), heard.begins_s[chosen], heard.ends_s[chosen], {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("factory", type=Path)
    parser.add_argument("--draws", type=int, default=30)
    arguments = parser.parse_args()
    dataset, everything = read_normals(arguments.factory), read_dataset(arguments.factory)
    print("recipe, calibration, threshold, normal recordings, false alarms, faults found")
    for name, changes in (("nearfar-best", {}), ("plain cosine", PLAIN)):
        base = resolve(load_recipe("nearfar-best").with_changes(**changes), dataset)
        representation = represent(base)
        kept = {}
        for machine in dataset.machines:
            normals = [clip for clip in dataset.train(machine) if clip.domain == "source"]
            tests = everything.test(machine)
            faults = [clip for clip in tests if clip.label == "anomaly" and clip.domain == "source"]
            kept[machine] = (
                normals,
                *(
                    hear(representation, [Recording(c.name, c.path) for c in clips], device=torch.device("cpu"))
                    for clips in (normals, faults)
                ),
            )
        for calibration, method in METHODS:
            for count in (20, 60, 200):
                alarms, found = [], []
                for normals, heard, wrong in kept.values():
                    random = np.random.default_rng(count)
                    for draw in range(arguments.draws if count < 200 else arguments.draws // 3):
                        order = random.permutation(len(normals))
                        recipe = base.with_changes(**{"detection.calibration": calibration, "seed": draw})
                        clips = [normals[index] for index in order[:count]]
                        held = np.zeros(count, np.bool_)
                        if calibration == "split":
                            held = held_out(clips, recipe.detection.held_out, draw)
                        bank, scores = fit_bank("m", "00", clips, held, some(heard, order[:count]), recipe)
                        threshold = usable_threshold(scores, None, method, RATE).value
                        new = bank.score(some(heard, order[count : count + NEW]).features).fused
                        alarms.append((new > threshold).mean())
                        found.append((bank.score(wrong.features).fused > threshold).mean())
                print(
                    f"{name}, {calibration}, {method}, {count}, {np.mean(alarms):.3f}, {np.mean(found):.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
