"""New normal recordings that a detector calls anomalous, and faults that it finds, by calibration.

    nearfar simulate FACTORY --machines fan,valve --train-source 500 --train-target 1 --test 40 --seconds 2
    python benchmarks/false_alarms.py FACTORY

Detectors are fitted on normal recordings drawn from those of each machine, at a false-alarm rate of 10 %, and
score 200 of the others, and the faults. Means over machines and draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from nearfar.config import load_recipe
from nearfar.data import Clip, read_dataset, read_normals
from nearfar.data.grouping import find_groups
from nearfar.detector.holdout import hold_out
from nearfar.detector.machine import fit_machine
from nearfar.pipeline.extraction import Extracted, extract
from nearfar.pipeline.extractor import Extractor, build_extractor
from nearfar.pipeline.preparation import prepare_detector
from nearfar.pipeline.windows import Recording
from nearfar.thresholds import usable_threshold
from nearfar.views import combined_features

RATE, NEW = 0.1, 200
PLAIN = {"scoring.distance": "cosine", "scoring.normalisation": "none"}
METHODS = [
    ("leave-one-out", "conformal"),
    ("split", "conformal"),
    ("leave-one-out", "gamma"),
    ("leave-one-out", "empirical"),
]


def extracted_from(extractor: Extractor, clips: list[Clip]) -> tuple[Extracted, dict[str, torch.Tensor]]:
    """The windows of clips, one each, and the features of every scored view."""
    found = extract(extractor, [Recording.of_clip(clip) for clip in clips], device=torch.device("cpu"))
    recipe = extractor.recipe
    of_waveforms = {view: values[0] for view, values in found.features.items()}
    return found, combined_features(of_waveforms, recipe.scoring.views, recipe.view_settings())


def some(found: Extracted, chosen: np.ndarray) -> Extracted:
    """The windows of chosen recordings, without their features."""
    return Extracted({}, np.arange(len(chosen)), found.begins_s[chosen], found.ends_s[chosen], {})


def rows(features: dict[str, torch.Tensor], chosen: np.ndarray) -> dict[str, torch.Tensor]:
    return {view: values[torch.from_numpy(chosen)] for view, values in features.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("factory", type=Path)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--counts", default="20,60,200", help="numbers of normal recordings")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    dataset, everything = read_normals(arguments.factory), read_dataset(arguments.factory)
    print("recipe, calibration, rule, normal recordings, false alarms, faults found")
    for name, changes in (("nearfar-best", {}), ("plain cosine", PLAIN)):
        base = prepare_detector(dataset, load_recipe("nearfar-best").with_changes(**changes))
        extractor = build_extractor(base)
        machines = []
        for machine in dataset.machines:
            normals = [clip for clip in dataset.train(machine) if clip.domain == "source"]
            tests = everything.test(machine)
            faults = [clip for clip in tests if clip.label == "anomaly" and clip.domain == "source"]
            windows, features = extracted_from(extractor, normals)
            machines.append((normals, windows, features, extracted_from(extractor, faults)[1]))
        for method, rule in METHODS:
            for count in counts:
                alarms, found = [], []
                for normals, windows, features, faulty in machines:
                    random = np.random.default_rng(count)
                    for draw in range(arguments.draws if count < 200 else arguments.draws // 3):
                        order = random.permutation(len(normals))
                        recipe = base.with_changes(**{"calibration.method": method, "seed": draw})
                        clips = [normals[index] for index in order[:count]]
                        held = np.zeros(count, np.bool_)
                        if method == "split":
                            names = [clip.name for clip in clips]
                            held = hold_out(clips, names, recipe.calibration.held_out, draw)
                        chosen = order[:count]
                        fitted, calibration = fit_machine(
                            ("m", "00"),
                            clips,
                            held,
                            find_groups(clips, "recording"),
                            some(windows, chosen),
                            rows(features, chosen),
                            recipe,
                        )
                        threshold = usable_threshold(calibration, rule, RATE).value
                        new = fitted.score(rows(features, order[count : count + NEW])).fused
                        alarms.append((new > threshold).mean())
                        found.append((fitted.score(faulty).fused > threshold).mean())
                print(
                    f"{name}, {method}, {rule}, {count}, {np.mean(alarms):.3f}, {np.mean(found):.3f}", flush=True
                )


if __name__ == "__main__":
    main()
