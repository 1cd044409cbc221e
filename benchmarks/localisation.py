"""How often the top cell of a map lies where a simulated fault is, on factories not used to choose how it is made.

    python benchmarks/localisation.py --seeds 10,11,12,13,14
    python benchmarks/localisation.py --seeds 10,11 --encoder eat_tiny.safetensors

A cell is inside a fault where its 160 ms meet an interval of the fault and at least half of its band, on the mel
scale, lies in the fault's. *Chance* is the fraction of cells that are inside. *Normal clips* is the rate at which
the top cells of normal test clips of the same machine and domain would be inside: a map that always points to one
band has no better rate. One standard error of a rate over 540 clips is about 2 points.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nearfar.cancellation import Cancellation
from nearfar.data.simulate import FactoryPlan, machine_types, simulate_factory
from nearfar.encoders.eat import EAT
from nearfar.encoders.weights import load_encoder
from nearfar.explain.localisation import (
    BANDS,
    NormalPatches,
    band_edges_hz,
    cut_patches,
    departures,
    fit_normal_patches,
    nearest_patches,
    patch_features,
    time_edges_s,
)
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.views import read_views

VIEWS = ("near", "far", "cancelled")
SETTINGS = {"cancelled": Cancellation(window_samples=8192, hop_samples=2048, gain_limit=1.0)}
FBANK = KaldiFbank()


@dataclass(frozen=True)
class Clip:
    domain: str
    waveforms: Tensor
    log_mels: Tensor
    inside: np.ndarray | None
    training: bool


@dataclass(frozen=True)
class Way:
    """A description of patches, and how distances become a map."""

    name: str
    describe: Callable[[Clip], Tensor]
    to_map: Callable[[Tensor, NormalPatches, list[Tensor]], Tensor] = lambda features, normal, own: departures(
        features, normal
    )


def truth(row: dict[str, str], columns: int) -> np.ndarray:
    """(columns, bands) bool: which cells are inside the fault."""

    def mel(hz: float) -> float:
        return 1127.0 * math.log1p(hz / 700.0)

    low, high = mel(float(row["fault_low_hz"])), mel(float(row["fault_high_hz"]))
    spans = [tuple(map(float, span.split("-"))) for span in row["fault_intervals_s"].split(";") if span]
    times, bands = time_edges_s(columns), [mel(hz) for hz in band_edges_hz()]
    when = [
        not spans or any(begin < end_s and end > begin_s for begin_s, end_s in spans)
        for begin, end in itertools.pairwise(times)
    ]
    where = [
        min(high, top) - max(low, bottom) >= 0.5 * (top - bottom) for bottom, top in itertools.pairwise(bands)
    ]
    return np.outer(when, where)


def read_factory(root: Path) -> dict[str, list[Clip]]:
    machines = defaultdict(list)
    with (root / "truth.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            waveforms = torch.from_numpy(read_views(root / row["file_name"], VIEWS, SETTINGS))
            log_mels = FBANK.log_mel(waveforms)
            inside = truth(row, log_mels.shape[1] // 16) if row["fault"] else None
            machines[row["machine"]].append(
                Clip(row["domain"], waveforms, log_mels, inside, row["split"] == "train")
            )
    return dict(machines)


def of_view(view: str, describe: Callable[[Tensor], Tensor] = patch_features) -> Callable[[Clip], Tensor]:
    return lambda clip: describe(clip.log_mels[VIEWS.index(view)])


def with_level(log_mel: Tensor) -> Tensor:
    patches = cut_patches(log_mel)
    return torch.cat([patches.mean(dim=2), patches.std(dim=2, correction=0)], dim=2)


def not_smoothed(features: Tensor, normal: NormalPatches, own: list[Tensor]) -> Tensor:
    return nearest_patches(features, normal)[0] / normal.typical - 1.0


def standardised(features: Tensor, normal: NormalPatches, own: list[Tensor]) -> Tensor:
    cells = torch.cat(own)
    return (departures(features, normal) - cells.mean(dim=0)) / cells.std(dim=0)


def tokens_of(encoder: EAT, layer: int) -> Callable[[Clip], Tensor]:
    """Patch tokens after a block, or as they enter the first one with -1."""

    def describe(clip: Clip) -> Tensor:
        fbank = FBANK(clip.waveforms[:1])
        patches = encoder.embed(fbank)[:, 1:] if layer < 0 else encoder.encode(fbank, (layer + 1,))[0].patches
        columns = clip.log_mels.shape[1] // 16
        return patches[0].reshape(-1, BANDS, patches.shape[2])[:columns]

    return describe


def ways(encoder: EAT, name: str) -> Iterator[Way]:
    chosen = of_view("near")
    yield Way("near: mean and deviation, level removed", chosen)
    yield Way("not smoothed", chosen, not_smoothed)
    yield Way("standard score per band instead of ratio", chosen, standardised)
    yield Way("level not removed", of_view("near", with_level))
    yield Way("mean alone", of_view("near", lambda log_mel: patch_features(log_mel)[..., :16]))
    yield Way("all 256 values", of_view("near", lambda log_mel: cut_patches(log_mel - log_mel.mean()).flatten(2)))
    yield Way("of far", of_view("far"))
    yield Way("of cancelled", of_view("cancelled"))
    depth = encoder.config.depth
    for layer in sorted({-1, 0, depth // 2, depth - 1}):
        position = "before the first block" if layer < 0 else f"after block {layer + 1} of {depth}"
        yield Way(f"tokens of {name} {position}", tokens_of(encoder, layer))


@dataclass(frozen=True)
class Outcome:
    machine: str
    domain: str
    hit: float
    chance: float
    normal: float


@torch.inference_mode()
def outcomes(machine: str, clips: list[Clip], way: Way) -> list[Outcome]:
    """One for every faulty clip."""
    normal, own = fit_normal_patches([way.describe(clip) for clip in clips if clip.training])
    tops = defaultdict(list)
    faulty = []
    for clip in (clip for clip in clips if not clip.training):
        top = int(way.to_map(way.describe(clip), normal, own).argmax())
        if clip.inside is None:
            tops[clip.domain].append(top)
        else:
            faulty.append((clip.domain, top, clip.inside.flatten()))
    return [
        Outcome(machine, domain, float(inside[top]), inside.mean(), inside[tops[domain]].mean())
        for domain, top, inside in faulty
    ]


def rates(found: list[Outcome]) -> str:
    hit, chance, normal = (100 * np.mean([getattr(o, key) for o in found]) for key in ("hit", "chance", "normal"))
    return f"{hit:5.1f} {chance:7.1f} {normal:7.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="10,11,12,13,14")
    parser.add_argument("--machines", default=",".join(machine_types()))
    parser.add_argument("--encoder", default="random:tiny")
    arguments = parser.parse_args()
    seeds, machines = [int(seed) for seed in arguments.seeds.split(",")], tuple(arguments.machines.split(","))
    torch.set_num_threads(1)
    encoder = load_encoder(arguments.encoder).eval()
    every = list(ways(encoder, Path(arguments.encoder).name))
    found: dict[str, list[Outcome]] = defaultdict(list)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            plan = FactoryPlan(machines, train_source=48, train_target=10, test_per_group=9, seed=seed)
            factory = read_factory(simulate_factory(plan, Path(folder) / "factory"))
        for way, (machine, clips) in itertools.product(every, factory.items()):
            found[way.name] += outcomes(machine, clips, way)
        print(f"seed {seed}: {rates(found[every[0].name])} so far", flush=True)
    print(f"\n{len(found[every[0].name])} faulty clips; top cell inside the fault, chance, normal clips; in %")
    for name, of_way in found.items():
        print(f"{name:52} {rates(of_way)}")
    print(f"\n{every[0].name}, by machine and domain")
    for key in (*machines, "source", "target"):
        print(f"{key:52} {rates([o for o in found[every[0].name] if key in (o.machine, o.domain)])}")


if __name__ == "__main__":
    main()
