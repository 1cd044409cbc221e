"""The recipe auto beside near alone (frozen-near) and nearfar-best: detection, and false alarms under mild drift.

    python benchmarks/auto.py --real REALMIX --out RESULTS > auto.md

Machines are simulated here, with seeds of their own; REALMIX is a folder in the challenge's layout with recordings
of its machines uav and motor. Variants: low ratios of machine to noise, a second microphone near the machine as
far, a far channel of independent noise, faults that are normal recordings 6 dB louder, and recordings of several
sessions with gains and spectra of their own.

Thresholds are conformal at 5 %, from scores of left-out normal recordings. Drift is applied to the normal test
recordings: speed (resampled by 20/21 and 21/20), gain, noise 3 dB louder (simulated machines), another resampler
(to 48 kHz and back by scipy.signal.resample_poly), and 20 dB less level at 16 bits.

The last table leaves machines out: a variant is chosen on all others, by AUC among those with at most half the
false alarms at changed speed of near alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly

from nearfar.config import Recipe, load_recipe
from nearfar.data import read_dataset, read_waveform
from nearfar.data.simulate import rooms
from nearfar.data.simulate.factory import FactoryPlan, plan_clips, simulate_clip
from nearfar.files import write_json
from nearfar.metrics import auc, auc_source_target, official_score, partial_auc
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.scoring import left_out_scores
from nearfar.pipeline.windows import Recording
from nearfar.scoring import MachineScorer
from nearfar.thresholds import conformal_threshold

Audio = NDArray[np.float32]
RATE = 16_000
NORMALS, TARGETS, TESTS, SECONDS = 60, 10, 15, 3.0
RECIPES = {"near": "frozen-near", "best": "nearfar-best", "auto": "auto"}
VARIANTS: dict[str, dict[str, object]] = {
    "auto": {},
    "near alone": {"scoring.views": ["near"]},
    "cancelled alone": {"scoring.views": ["cancelled"]},
    "equal weights": {"scoring.fusion": "mean"},
    "no smoothing": {"scoring.mel_smoothing": 0.0},
    "smoothing 1.5": {"scoring.mel_smoothing": 1.5},
    "one speed": {"scoring.speed_tolerance": 0.0},
}


@dataclass
class Case:
    """Recordings of one machine, each (2, samples); ``groups`` are sessions of the normal ones."""

    train: list[Audio] = field(default_factory=list)
    target: list[bool] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    test: list[Audio] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    anomalous: list[bool] = field(default_factory=list)
    noisy: list[Audio] = field(default_factory=list)

    def drifted(self) -> dict[str, list[Audio]]:
        """The normal test recordings, as they are and changed."""
        normal = [audio for audio, bad in zip(self.test, self.anomalous, strict=True) if not bad]
        quiet = [np.round(audio * 0.1 * 2**15) / np.float32(2**15) for audio in normal]
        out = {
            "none": normal,
            "speed +5 %": [resampled(audio, 20, 21) for audio in normal],
            "speed -5 %": [resampled(audio, 21, 20) for audio in normal],
            "gain +3 dB": [audio * np.float32(10**0.15) for audio in normal],
            "gain -3 dB": [audio * np.float32(10**-0.15) for audio in normal],
            "noise +3 dB": self.noisy,
            "resampler": [resampled(resampled(audio, 3, 1), 1, 3) for audio in normal],
            "20 dB less": [audio.astype(np.float32) for audio in quiet],
        }
        return {name: entries for name, entries in out.items() if entries}


def resampled(audio: Audio, up: int, down: int) -> Audio:
    return np.ascontiguousarray(resample_poly(audio, up, down, axis=1), dtype=np.float32)


def simulated(
    machine: str,
    seed: int,
    snr_db: tuple[float, float] = (8.0, 18.0),
    *,
    far: str = "far",
    loud: bool = False,
    sessions: int = 0,
) -> Case:
    """A simulated machine; ``far`` is far, near (a second near microphone) or noise (independent noise)."""
    plan = FactoryPlan((machine,), NORMALS, TARGETS, TESTS, SECONDS, snr_db, seed=seed)
    with patch.object(rooms, "FAR_METRES", rooms.NEAR_METRES if far == "near" else rooms.FAR_METRES):
        built = {domain: rooms.build_room(seed, machine, domain) for domain in ("source", "target")}
    random, case = np.random.default_rng(seed), Case()

    def audio(clip) -> Audio:
        samples = simulate_clip(plan, clip, built[clip.domain])[0].T.astype(np.float32) / 2**15
        if far == "noise":
            samples[1] = random.standard_normal(samples.shape[1]) * samples[0].std()
        return np.ascontiguousarray(samples)

    for number, clip in enumerate(plan_clips(plan, machine)):
        if loud:
            steady = replace(clip.condition, level_dbfs=-34.0 + random.normal(0.0, 0.7))
            clip = replace(clip, condition=steady)
        bad = clip.label == "anomaly"
        if loud and bad:
            samples = audio(replace(clip, label="normal", index=clip.index + 500, fault=None)) * np.float32(2.0)
        else:
            samples = audio(clip)
        session = number % sessions if sessions else number
        if sessions:
            session += sessions * (clip.split == "test")
            samples = coloured(samples, session)
        if clip.split == "train":
            case.train.append(samples)
            case.target.append(clip.domain == "target")
            case.groups.append(session)
            continue
        case.test.append(samples)
        case.domains.append(clip.domain)
        case.anomalous.append(bad)
        if not bad:
            louder = audio(replace(clip, condition=replace(clip.condition, snr_db=clip.condition.snr_db - 3.0)))
            case.noisy.append(coloured(louder, session) if sessions else louder)
    return case


def coloured(audio: Audio, session: int) -> Audio:
    """A recording with the gain (deviation 2 dB) and the slope of the spectrum of its session."""
    random = np.random.default_rng(session)
    gain, slope = 10.0 ** (random.normal(0.0, 2.0) / 20.0), random.normal(0.0, 0.08)
    out = gain * audio
    out[:, 1:] += slope * gain * audio[:, :-1]
    return out.astype(np.float32)


def recorded(folder: Path, machine: str, far: str = "far") -> Case:
    """A machine of a folder in the challenge's layout, with up to 80 normal recordings of the source domain."""
    dataset, case, random = read_dataset(folder), Case(), np.random.default_rng(0)

    def audio(path: Path) -> Audio:
        samples = read_waveform(path)
        if far == "noise":
            samples[1] = random.standard_normal(samples.shape[1]) * samples[0].std()
        return samples

    source = [clip for clip in dataset.train(machine) if clip.domain == "source"][:80]
    for number, clip in enumerate([*source, *(c for c in dataset.train(machine) if c.domain == "target")]):
        case.train.append(audio(clip.path))
        case.target.append(clip.domain == "target")
        case.groups.append(number)
    for clip in dataset.test(machine):
        case.test.append(audio(clip.path))
        case.domains.append(clip.domain)
        case.anomalous.append(clip.label == "anomaly")
    return case


def cases(real: Path | None) -> dict[str, Callable[[], Case]]:
    out: dict[str, Callable[[], Case]] = {
        "fan": lambda: simulated("fan", 701),
        "bearing": lambda: simulated("bearing", 702),
        "valve": lambda: simulated("valve", 703),
        "gearbox, low SNR": lambda: simulated("gearbox", 704, (-3.0, 9.0)),
        "slider, low SNR": lambda: simulated("slider", 705, (-3.0, 9.0)),
        "fan, far is near": lambda: simulated("fan", 706, far="near"),
        "pump, far is near": lambda: simulated("pump", 707, (-3.0, 9.0), far="near"),
        "bearing, far is noise": lambda: simulated("bearing", 708, far="noise"),
        "fan, loud faults": lambda: simulated("fan", 709, loud=True),
        "gearbox, loud faults": lambda: simulated("gearbox", 710, loud=True),
        "pump, sessions": lambda: simulated("pump", 711, sessions=7),
    }
    if real is not None:
        out |= {
            "uav (realmix)": lambda: recorded(real, "uav"),
            "motor (realmix)": lambda: recorded(real, "motor"),
            "motor (realmix), far is noise": lambda: recorded(real, "motor", far="noise"),
        }
    return out


def features(recipe: Recipe, recordings: list[Audio]) -> dict[str, torch.Tensor]:
    """Features of every scored view; every recording is one window, whatever its length."""
    longest = max(audio.shape[1] for audio in recordings) / RATE
    extractor = build_extractor(recipe.with_changes(**{"audio.clip_seconds": longest}))
    entries = [Recording(str(number), audio, RATE) for number, audio in enumerate(recordings)]
    return {view: rows[0] for view, rows in extract(extractor, entries).features.items()}


@dataclass
class Measured:
    """Official score and AUC in percent, and percent of false alarms by drift."""

    official: float
    auc: float
    alarms: dict[str, float]
    reason: str | None = None

    @property
    def speed_alarms(self) -> float:
        return (self.alarms["speed +5 %"] + self.alarms["speed -5 %"]) / 2


Tables = dict[str, dict[str, torch.Tensor]]


def extracted(recipe: Recipe, case: Case) -> Tables:
    sets = {"train": case.train, "test": case.test} | case.drifted()
    return {name: features(recipe, recordings) for name, recordings in sets.items()}


def measure(recipe: Recipe, case: Case, tables: Tables) -> Measured:
    tables = {name: {view: rows[view] for view in recipe.scoring.views} for name, rows in tables.items()}
    target = torch.tensor(case.target)
    scorer = MachineScorer(tables["train"], target, recipe.scoring_plan())
    groups = np.unique(case.groups, return_inverse=True)[1]
    threshold = conformal_threshold(left_out_scores(tables["train"], target, groups, recipe).fused, 0.05)
    scores = scorer.score(tables["test"]).fused
    domains = auc_source_target(case.anomalous, case.domains, scores)
    alarms = {
        name: 100.0 * float((scorer.score(rows).fused > threshold).mean())
        for name, rows in tables.items()
        if name not in ("train", "test")
    }
    official = official_score([[*domains, partial_auc(case.anomalous, scores)]])
    return Measured(100.0 * official, 100.0 * auc(case.anomalous, scores), alarms, scorer.reason)


def left_out_choices(measured: dict[str, dict[str, Measured]], near: dict[str, Measured]) -> list[str]:
    """For each machine, the variant that is best on all others and its AUC here."""
    rows = ["| left out | choice on the others | its AUC here | auto here |", "|---|---|---:|---:|"]
    for name in measured:
        others = [other for other in measured if other != name]
        allowed = np.mean([near[other].speed_alarms for other in others]) / 2
        candidates = {
            variant: np.mean([measured[other][variant].auc for other in others])
            for variant in VARIANTS
            if np.mean([measured[other][variant].speed_alarms for other in others]) <= allowed
        }
        choice = max(candidates, key=lambda variant: candidates[variant])
        here = measured[name]
        rows.append(f"| {name} | {choice} | {here[choice].auc:.1f} | {here['auto'].auc:.1f} |")
    return rows


def print_tables(results: dict[str, dict[str, Measured]], variants: dict[str, dict[str, Measured]]) -> None:
    print("| machine | official score near / best / auto | AUC near / best / auto |\n|---|---:|---:|")
    for name, row in [*results.items(), ("**mean**", None)]:
        rows = [row] if row is not None else list(results.values())
        texts = [
            " / ".join(f"{np.mean([getattr(one[recipe], what) for one in rows]):.1f}" for recipe in RECIPES)
            for what in ("official", "auc")
        ]
        print(f"| {name} | {texts[0]} | {texts[1]} |")
    print("\n| false alarms in %, nominal 5 % | near | best | auto |\n|---|---:|---:|---:|")
    for drift in next(iter(results.values()))["auto"].alarms:
        found = [row for row in results.values() if drift in row["auto"].alarms]
        means = [np.mean([row[recipe].alarms[drift] for row in found]) for recipe in RECIPES]
        print(f"| {drift} | " + " | ".join(f"{value:.1f}" for value in means) + " |")
    print("\n| variant | AUC | speed ±5 %: false alarms in % |\n|---|---:|---:|")
    for variant in VARIANTS:
        found = [row[variant] for row in variants.values()]
        print(
            f"| {variant} | {np.mean([one.auc for one in found]):.1f} | "
            f"{np.mean([one.speed_alarms for one in found]):.1f} |"
        )
    print()
    print("\n".join(left_out_choices(variants, {name: row["near"] for name, row in results.items()})))
    print()
    for name, row in results.items():
        print(f"- {name}: {row['auto'].reason}")


def measured(case: Case) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """The three recipes, and the variants of auto, on one machine."""
    both = load_recipe("nearfar-best").with_changes(**{"scoring.views": ["near", "cancelled"]})
    plain, scaled = extracted(both, case), extracted(load_recipe("auto"), case)
    recipes = {
        short: measure(load_recipe(recipe), case, scaled if short == "auto" else plain)
        for short, recipe in RECIPES.items()
    }
    variants = {"auto": recipes["auto"]} | {
        variant: measure(load_recipe("auto").with_changes(**changes), case, scaled)
        for variant, changes in VARIANTS.items()
        if changes
    }
    return recipes, variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with the machines uav and motor")
    parser.add_argument("--out", type=Path, required=True, help="folder of results by machine, which are reused")
    parser.add_argument("--only", help="machines whose names start so, separated by ;")
    arguments = parser.parse_args()
    results: dict[str, dict[str, Measured]] = {}
    variants: dict[str, dict[str, Measured]] = {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, make in cases(arguments.real).items():
        if arguments.only and not name.startswith(tuple(arguments.only.split(";"))):
            continue
        file = arguments.out / f"{name}.json"
        if not file.is_file():
            found = [{key: asdict(one) for key, one in part.items()} for part in measured(make())]
            write_json(file, found)
        results[name], variants[name] = (
            {key: Measured(**one) for key, one in part.items()} for part in json.loads(file.read_text())
        )
    print_tables(results, variants)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
