"""Thresholds of recipes that train, from normal recordings that training saw and from others.

    nearfar simulate FACTORY --machines bearing,fan,gearbox,valve --train-source 60 --train-target 10 --test 40 \
        --seconds 2
    python benchmarks/trained_thresholds.py FACTORY

Detectors are fitted with each calibration at a false-alarm rate of 10 %. In the source domain, which most normal
recordings are of, false alarms on new normal recordings and faults found are counted; the mean AUC over machines
depends on no threshold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from nearfar import Detector
from nearfar.config import load_recipe
from nearfar.data import read_dataset

RATE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("factory", type=Path)
    parser.add_argument("--recipes", default="tiny-near,tiny-lora-near,ae-mse,ae-mahala")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    tests = [
        clip for clip in read_dataset(arguments.factory).clips if (clip.split, clip.domain) == ("test", "source")
    ]
    print("recipe, calibration, seed, normal scores, false alarms, faults found, AUC", flush=True)
    for name in arguments.recipes.split(","):
        for method in ("leave-one-out", "split"):
            for seed in range(arguments.seeds):
                changes = {"calibration.method": method, "threshold.false_alarm_rate": RATE, "seed": seed}
                recipe = load_recipe(name).with_changes(**changes)
                if method == "leave-one-out" and not recipe.backend.leaves_out:
                    continue
                detector = Detector.fit(arguments.factory, recipe)
                scores = list(detector.score_many([clip.path for clip in tests]))
                above = np.array([score.margin is not None and score.margin > 0 for score in scores])
                faulty = np.array([clip.label == "anomaly" for clip in tests])
                machine = np.array([clip.machine for clip in tests])
                values = np.array([score.score for score in scores])
                aucs = [
                    roc_auc_score(faulty[machine == one], values[machine == one]) for one in sorted(set(machine))
                ]
                normals = len(detector.calibrations[0].recordings)
                rates = f"{above[~faulty].mean():.3f}, {above[faulty].mean():.3f}, {np.mean(aucs):.3f}"
                print(f"{name}, {method}, {seed}, {normals}, {rates}", flush=True)


if __name__ == "__main__":
    main()
