"""Whether explanations agree with verdicts and name the band and the direction of a fault.

    python benchmarks/explanations.py --seeds 20,21,22,23
    python benchmarks/explanations.py --seeds "" --data FOLDER --machines motor,uav

Simulated factories (``--seeds``) and a folder of recordings in any layout with test clips (``--data``). *Map* is
the explanation by the map of departures alone, *score* that by contributions to the score.

* no reason: alarms whose explanation says that nothing stands out; with contributions, also those without a band.
* band: alarms on faults of which at least half of the named band, on the mel scale, lies in the band of the fault.
  *Chance* is how often the bands named for normal clips of the same machine and domain would.
* level: alarms on faults whose sentence calls the band louder or quieter, and how often that is right: the same
clip
  is simulated without the fault, and the band compared relative to the whole spectrum.
* gain: normal test clips with near 6 dB louder or quieter, scored with the level in the features (``frozen-near``,
  ``features.remove_level = false``).
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from nearfar.config import load_recipe
from nearfar.data import Clip, read_dataset
from nearfar.data.simulate import FactoryPlan, machine_types, simulate_factory
from nearfar.data.simulate.factory import plan_clips, simulate_clip
from nearfar.data.simulate.rooms import build_room
from nearfar.detector import Detector, Score
from nearfar.detector.departure import Departure
from nearfar.explain.explanation import explain
from nearfar.frontends.kaldi import KaldiFbank, mel_centres_hz
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.windows import Recording
from nearfar.views import read_views

RATE = 0.1
FBANK = KaldiFbank()
GAINS_DB = (6.0, -6.0)


@dataclass(frozen=True)
class Explained:
    """A test clip, its score, and the explanation by the map alone."""

    clip: Clip
    score: Score
    by_map: Departure


def explained(detector: Detector, clips: list[Clip]) -> Iterator[Explained]:
    fitted = detector._fitted
    views = detector.recipe.waveform_views[:1]
    scores = detector.score_many([clip.path for clip in clips])
    for clip, score in zip(clips, scores, strict=True):
        found = extract(fitted.extractor, [Recording.of_clip(clip)], views=views, spectrograms_of=[0])
        by_map = explain(found.log_mels[0], fitted.machines[0].patches)
        yield Explained(clip, score, Departure.of(by_map))


def mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def inside(found: Departure, fault: dict[str, str]) -> bool:
    """Whether at least half of the named band lies in the fault's."""
    low, high = mel(found.low_hz), mel(found.high_hz)
    overlap = min(high, mel(float(fault["fault_high_hz"]))) - max(low, mel(float(fault["fault_low_hz"])))
    return overlap >= 0.5 * (high - low)


def direction(sentence: str) -> int:
    """1 for louder, -1 for quieter, of the region; 0 where the sentence names no level."""
    found = re.search("louder|quieter", sentence.split("; the whole clip")[0])
    return 0 if found is None else 1 if found[0] == "louder" else -1


def rise(plan: FactoryPlan, clip: Clip, found: Departure, planned: dict) -> float:
    """By how much the fault raises the named band at the near microphone, relative to the whole spectrum."""
    own = planned[clip.split, clip.path.name]
    room = build_room(plan.seed, clip.machine, own.domain)
    means: list[Tensor] = []
    for one in (own, replace(own, fault=None)):
        near = simulate_clip(plan, one, room)[0][:, 0].astype(np.float32) / 32768
        means.append(FBANK.log_mel(torch.from_numpy(near)[None])[0].mean(dim=0))
    centres = mel_centres_hz()
    band = (centres >= found.low_hz) & (centres <= found.high_hz)
    change = means[0] - means[1]
    return float(change[band].mean() - change.mean())


def counts(rows: list[Explained], by: str) -> tuple[int, int]:
    """Alarms, and those without a reason."""
    alarms = [row for row in rows if row.score.anomalous]
    if by == "map":
        return len(alarms), sum(not row.by_map.notable for row in alarms)
    found = [row.score.departure for row in alarms]
    return len(alarms), sum(one is None or not one.notable or one.share is None for one in found)


def of_factory(seed: int, machines: tuple[str, ...], totals: dict[str, list[float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = FactoryPlan(machines, train_source=48, train_target=10, test_per_group=9, seed=seed)
        root = simulate_factory(plan, Path(folder) / "factory")
        with (root / "truth.csv").open(encoding="utf-8") as file:
            truth = {Path(row["file_name"]).name + row["machine"]: row for row in csv.DictReader(file)}
        dataset = read_dataset(root)
        for machine in machines:
            detector = Detector.fit(root, machine=machine).with_thresholds(RATE)
            rows = list(explained(detector, list(dataset.test(machine))))
            planned = {(one.split, one.name): one for one in plan_clips(plan, machine)}
            for by in ("map", "score"):
                record(rows, by, {name: truth[name.path.name + machine] for name in dataset.test(machine)}, totals)
                for row in rows:
                    found = row.by_map if by == "map" else row.score.departure
                    if row.clip.label == "anomaly" and row.score.anomalous and direction(found.sentence):
                        right = direction(found.sentence) * rise(plan, row.clip, found, planned) > 0
                        totals[f"level right, {by}"].append(right)
            sums = [abs(sum(c.share for c in row.score.contributions) / row.score.score - 1) for row in rows]
            totals["largest error of sums"].append(max(sums))
            of_gain(root, machine, list(dataset.test(machine)), totals)


def record(
    rows: list[Explained], by: str, truth: dict[Clip, dict[str, str]], totals: dict[str, list[float]]
) -> None:
    faults = [row for row in rows if row.clip.label == "anomaly"]
    for row in rows:
        found = row.by_map if by == "map" else row.score.departure
        if row.score.anomalous:
            totals[f"no reason, {by}"].append(counts([row], by)[1])
        if row.clip.label == "anomaly" and row.score.anomalous:
            totals[f"band, {by}"].append(inside(found, truth[row.clip]))
        if row.clip.label == "normal":
            alike = [other for other in faults if other.clip.domain == row.clip.domain and other.score.anomalous]
            totals[f"band by chance, {by}"] += [inside(found, truth[other.clip]) for other in alike]


def of_gain(root: Path, machine: str, clips: list[Clip], totals: dict[str, list[float]]) -> None:
    recipe = load_recipe("frozen-near").with_changes(**{"features.remove_level": False})
    detector = Detector.fit(root, recipe, machine=machine).with_thresholds(RATE)
    for clip in [clip for clip in clips if clip.label == "normal"][::3]:
        samples = read_views(clip.path, ("near", "far"))
        for gain_db in GAINS_DB:
            path = root.parent / f"gain{gain_db:g}_{machine}.wav"
            soundfile.write(path, (samples * [[10 ** (gain_db / 20)], [1.0]]).T, 16_000, subtype="FLOAT")
            (row,) = explained(detector, [replace(clip, path=path)])
            if not row.score.anomalous:
                continue
            name = f"{gain_db:+g} dB"
            for by, found in (("map", row.by_map), ("score", row.score.departure)):
                totals[f"gain {name} named, {by}"].append(direction(found.sentence) != 0)
                if direction(found.sentence):
                    totals[f"gain {name} right, {by}"].append(direction(found.sentence) * gain_db > 0)


def of_folder(data: Path, machines: tuple[str, ...]) -> None:
    dataset = read_dataset(data)
    for machine in machines:
        detector = Detector.fit(data, machine=machine).with_thresholds(RATE)
        rows = list(explained(detector, list(dataset.test(machine))))
        for by in ("map", "score"):
            alarms, without = counts(rows, by)
            print(f"{machine}: alarms without a reason, {by:22} {without:4d} of {alarms}", flush=True)
        shares = [row.score.departure.share for row in rows if row.score.anomalous]
        print(f"{machine}: median share of the named bands in alarms {100 * np.median(shares):.0f} %")
        kinds: dict[str, float] = defaultdict(float)
        for row in rows:
            for part in row.score.contributions if row.score.anomalous else ():
                kinds[part.kind] += part.share / row.score.score / len(shares)
        print(f"{machine}: " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in kinds.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="20,21,22,23")
    parser.add_argument("--machines", default=",".join(machine_types()))
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machines = tuple(arguments.machines.split(","))
    totals: dict[str, list[float]] = defaultdict(list)
    for seed in filter(None, arguments.seeds.split(",")):
        of_factory(int(seed), machines, totals)
        print(f"seed {seed} is done", flush=True)
    for name, values in totals.items():
        if name == "largest error of sums":
            print(f"{name:45} {max(values):.1e}")
        else:
            print(f"{name:45} {sum(values):4.0f} of {len(values):5d} ({100 * np.mean(values):5.1f} %)")
    if arguments.data is not None:
        of_folder(arguments.data, machines)


if __name__ == "__main__":
    main()
