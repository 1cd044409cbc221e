"""The recipe auto beside near alone (frozen-near) and nearfar-best: detection, and false alarms under mild drift.

    python benchmarks/auto.py --real REALMIX --out RESULTS > auto.md              what is reported
    python benchmarks/auto.py --real REALMIX --out RESULTS --choose > choice.md   what settings were chosen on

Machines are simulated here, with seeds of their own, those of the choice others than those of the report; REALMIX
is a folder in the challenge's layout with recordings of its machines uav and motor. Kinds of machines: see KINDS.

Thresholds are conformal at 5 %, from scores of left-out normal recordings. Drift is applied to every other normal
test recording: speed (resampled by 20/21 and 21/20), gain, noise 3 dB louder (simulated machines), another
resampler (to 48 kHz and back by scipy.signal.resample_poly), and 20 dB less level at 16 bits.

The choice is of ways of comparison and of the rule of weights, by the mean AUC less twice the mean of what it
falls short, by more than a point, of the better of frozen-near and nearfar-best. For every type of machine, the
table has what is chosen on all others, and the AUC of that choice on this type.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly

from nearfar.config import Recipe, load_recipe
from nearfar.data import read_dataset, read_waveform
from nearfar.data.simulate import rooms
from nearfar.data.simulate.factory import FactoryPlan, plan_clips, simulate_clip
from nearfar.metrics import auc, auc_source_target, official_score, partial_auc
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.scoring import left_out_scores
from nearfar.pipeline.windows import Recording
from nearfar.scoring import MachineScorer, tolerant
from nearfar.scoring.weighting import WeightRule, cancelled_weight, removed_and_change
from nearfar.thresholds import conformal_threshold

Audio = NDArray[np.float32]
RATE = 16_000
NORMALS, TARGETS, TESTS, SECONDS = 60, 10, 30, 3.0
RECIPES = {"near": "frozen-near", "best": "nearfar-best", "auto": "auto"}
VARIANTS: dict[str, dict[str, object]] = {
    "auto": {},
    "near alone": {"scoring.views": ["near"]},
    "cancelled alone": {"scoring.views": ["cancelled"]},
    "equal weights": {"scoring.fusion": "mean"},
    "one speed": {"scoring.speed_tolerance": 0.0},
}
LOW, LOWER = (-3.0, 9.0), (-12.0, 0.0)
KINDS: dict[str, dict[str, Any]] = {
    "": {},
    "low SNR": {"snr_db": LOW},
    "lower SNR": {"snr_db": LOWER},
    "lower SNR, noise at rest": {"snr_db": (-15.0, 0.0), "still": True},
    "far is near": {"far": "near"},
    "far is near, low SNR": {"snr_db": LOW, "far": "near"},
    "far at 1 m, low SNR": {"snr_db": LOW, "far": "middle"},
    "far is noise": {"far": "noise"},
    "loud faults": {"loud": True},
    "sessions": {"sessions": 7},
}
"""Variants of simulated machines. "far is near" has a second microphone near the machine as far, "far is noise" a
far channel of independent noise, "loud faults" normal recordings 6 dB louder as anomalies and normal levels with a
deviation of 0.7 dB, "sessions" recordings of sessions with gains and spectra of their own."""
FAR_METRES = {"far": rooms.FAR_METRES, "noise": rooms.FAR_METRES, "near": rooms.NEAR_METRES, "middle": (0.9, 1.3)}

Id = tuple[str, str, int]
"""Machine, kind and seed."""
TYPES = ("fan", "gearbox", "bearing", "slider", "valve", "pump")
USUAL = ("", "low SNR", "lower SNR", "far is near, low SNR", "far at 1 m, low SNR", "far is noise")
CHOICE: list[Id] = [
    *((machine, kind, 9000 + i) for kind in USUAL for i, machine in enumerate(TYPES)),
    *(("valve", "", seed) for seed in range(9100, 9104)),
    *(
        (machine, "lower SNR, noise at rest", 9200 + i)
        for i, machine in enumerate(("fan", "gearbox", "slider", "valve"))
    ),
    *((machine, "far is near", 9220 + i) for i, machine in enumerate(("fan", "gearbox", "slider", "valve"))),
    *((machine, "far at 1 m, low SNR", 9240 + i) for i, machine in enumerate(("fan", "gearbox", "slider"))),
    *((machine, "loud faults", 9000 + i) for i, machine in enumerate(TYPES)),
    ("fan", "sessions", 9000),
]
REPORT: list[Id] = [
    *((machine, "", 8000 + i) for i, machine in enumerate(TYPES)),
    *(("valve", "", seed) for seed in range(8006, 8009)),
    *(("slider", "low SNR", 8013), ("pump", "low SNR", 8015), ("gearbox", "lower SNR", 8021)),
    *((machine, "far is near, low SNR", 8030 + i) for i, machine in enumerate(("fan", "slider", "pump"))),
    *(("valve", "far is near", 8044), ("bearing", "far at 1 m, low SNR", 8052), ("bearing", "far is noise", 8062)),
    *(("fan", "loud faults", 8070), ("gearbox", "loud faults", 8071), ("pump", "sessions", 8085)),
]
REAL: list[Id] = [(machine, kind, 0) for machine in ("uav", "motor") for kind in ("", "far is noise")]
DRIFTING = {*REPORT[:6], ("slider", "low SNR", 8013), ("fan", "far is near, low SNR", 8030), REPORT[-1], *REAL}
"""Machines whose false alarms under drift are measured."""


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
        """Every other normal test recording, as it is and changed."""
        normal = [audio for audio, bad in zip(self.test, self.anomalous, strict=True) if not bad][::2]
        quiet = [np.round(audio * 0.1 * 2**15) / np.float32(2**15) for audio in normal]
        out = {
            "none": normal,
            "speed +5 %": [resampled(audio, 20, 21) for audio in normal],
            "speed -5 %": [resampled(audio, 21, 20) for audio in normal],
            "gain +3 dB": [audio * np.float32(10**0.15) for audio in normal],
            "gain -3 dB": [audio * np.float32(10**-0.15) for audio in normal],
            "noise +3 dB": self.noisy[::2],
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
    still: bool = False,
) -> Case:
    """A simulated machine of one of :data:`KINDS`."""
    plan = FactoryPlan((machine,), NORMALS, TARGETS, TESTS, SECONDS, snr_db, seed=seed)
    with patch.object(rooms, "FAR_METRES", FAR_METRES[far]):
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
        if still:
            clip = replace(clip, condition=replace(clip.condition, noise_to=clip.condition.noise_from))
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


def case_of(name: Id, real: Path | None) -> Case:
    machine, kind, seed = name
    if name in REAL:
        return recorded(real, machine, "noise" if kind else "far")
    return simulated(machine, seed, **KINDS[kind])


def features(recipe: Recipe, recordings: list[Audio]) -> dict[str, torch.Tensor]:
    """Features of every scored view; every recording is one window, whatever its length."""
    longest = max(audio.shape[1] for audio in recordings) / RATE
    extractor = build_extractor(recipe.with_changes(**{"audio.clip_seconds": longest}))
    entries = [Recording(str(number), audio, RATE) for number, audio in enumerate(recordings)]
    return {view: rows[0] for view, rows in extract(extractor, entries).features.items()}


def text(name: Id) -> str:
    machine, kind, seed = name
    return ", ".join(filter(None, (machine + (" (realmix)" if name in REAL else ""), kind))) + f" ({seed})" * (
        name not in REAL
    )


@dataclass
class Tables:
    """Features by set (train, test and drifted) and view: of nearfar-best and frozen-near, and of auto."""

    plain: dict[str, dict[str, torch.Tensor]]
    scaled: dict[str, dict[str, torch.Tensor]]
    target: torch.Tensor
    groups: np.ndarray
    anomalous: list[bool]
    domains: list[str]

    def of(self, recipe: Recipe) -> dict[str, dict[str, torch.Tensor]]:
        tables = self.scaled if recipe.name == "auto" else self.plain
        return {name: {view: rows[view] for view in recipe.scoring.views} for name, rows in tables.items()}


def tables_of(name: Id, real: Path | None, out: Path) -> Tables:
    """Features of one machine, kept in a file."""
    file = out / f"{'-'.join(map(str, name))}.pt"
    if not file.is_file():
        case = case_of(name, real)
        sets = {"train": case.train, "test": case.test} | (case.drifted() if name in DRIFTING else {})
        both = load_recipe("nearfar-best").with_changes(**{"scoring.views": ["near", "cancelled"]})
        found = [
            {part: features(recipe, recordings) for part, recordings in sets.items()}
            for recipe in (both, load_recipe("auto"))
        ]
        groups = np.unique(case.groups, return_inverse=True)[1]
        torch.save((*found, torch.tensor(case.target), groups, case.anomalous, case.domains), file)
    return Tables(*torch.load(file, weights_only=False))


# --- what settings were chosen on -------------------------------------------------------------------------------

WAYS = {
    "as they are, and smoothed and decorrelated": ((0.0, False), (1.0, True)),
    "as they are": ((0.0, False),),
    "smoothed": ((1.0, False),),
    "smoothed and decorrelated": ((1.0, True),),
    "smoothed, and smoothed and decorrelated": ((1.0, False), (1.0, True)),
}
RULES = [
    WeightRule(alone_db=alone, doubtful_db=doubtful, alike=alike, unlike=unlike, least=least)
    for alone, doubtful, (alike, unlike), least in itertools.product(
        (2.0, 3.0), (3.0, 5.0), ((-0.05, 0.05), (0.0, 0.1), (0.05, 0.15)), (0.1, 0.3)
    )
]
Choices = dict[tuple[str, WeightRule], dict[Id, float]]


def areas(names: list[Id], real: Path | None, out: Path) -> tuple[Choices, dict[Id, float]]:
    """AUC in percent of all ways and rules by machine, and of the better of frozen-near and nearfar-best."""
    found: Choices = {}
    better: dict[Id, float] = {}
    for name in names:
        data = tables_of(name, real, out)
        for recipe in map(load_recipe, ("frozen-near", "nearfar-best")):
            rows = data.of(recipe)
            scores = MachineScorer(rows["train"], data.target, recipe.scoring_plan()).score(rows["test"]).fused
            better[name] = max(better.get(name, 0.0), 100.0 * auc(data.anomalous, scores))
        for way, parts in WAYS.items():
            with patch.object(tolerant, "WAYS", parts):
                scorer = MachineScorer(data.scaled["train"], data.target, load_recipe("auto").scoring_plan())
                views = scorer.score(data.scaled["test"]).views
            numbers = removed_and_change(scorer.scorers["near"], scorer.scorers["cancelled"])
            for rule in RULES:
                weight = cancelled_weight(*numbers, rule)
                fused = (1.0 - weight) * views["near"] + weight * views["cancelled"]
                found.setdefault((way, rule), {})[name] = 100.0 * auc(data.anomalous, fused)
    return found, better


def merit(found: dict[Id, float], better: dict[Id, float], names: list[Id]) -> float:
    short = [max(0.0, better[name] - 1.0 - found[name]) for name in names]
    return float(np.mean([found[name] for name in names]) - 2.0 * np.mean(short))


def print_choice(real: Path | None, out: Path) -> None:
    names = CHOICE + (REAL if real is not None else [])
    found, better = areas(names, real, out)

    def of(rule: WeightRule) -> str:
        return f"{rule.alone_db:g} / {rule.doubtful_db:g} / {rule.alike:g} to {rule.unlike:g} / {rule.least:g}"

    def best(among: list[tuple[str, WeightRule]], on: list[Id]) -> tuple[str, WeightRule]:
        return max(among, key=lambda key: merit(found[key], better, on))

    chosen = next(iter(WAYS)), WeightRule()
    print(f"{len(names)} machines\n")
    print("| ways | alone / doubtful / alike to unlike / least | merit | AUC | worst difference | below -2 |")
    print("|---|---|---:|---:|---:|---:|")
    for key in [*(best([key for key in found if key[0] == way], names) for way in WAYS), chosen]:
        over = [found[key][name] - better[name] for name in names]
        print(
            f"| {key[0]}{' (set)' * (key is chosen)} | {of(key[1])} | {merit(found[key], better, names):.2f} | "
            f"{np.mean([*found[key].values()]):.2f} | {min(over):+.1f} | {sum(value < -2 for value in over)} |"
        )
    print("\n| left out | choice on the others | its AUC here | that of the set one | better recipe |")
    print("|---|---|---:|---:|---:|")
    for machine in dict.fromkeys(name[0] for name in names):
        here, others = ([n for n in names if (n[0] == machine) == same] for same in (True, False))
        key = best([*found], others)
        means = [np.mean([areas_[n] for n in here]) for areas_ in (found[key], found[chosen], better)]
        print(f"| {machine} | {key[0]}; {of(key[1])} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")


# --- what is reported -------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """Official score and AUC in percent, and percent of false alarms by drift."""

    official: float
    auc: float
    alarms: dict[str, float]
    reason: str | None = None


def measure(recipe: Recipe, data: Tables, *, alarms_too: bool = True) -> Measured:
    tables = data.of(recipe)
    scorer = MachineScorer(tables["train"], data.target, recipe.scoring_plan())
    scores = scorer.score(tables["test"]).fused
    domains = auc_source_target(data.anomalous, data.domains, scores)
    alarms = {}
    if alarms_too and len(tables) > 2:
        left_out = left_out_scores(tables["train"], data.target, data.groups, recipe).fused
        threshold = conformal_threshold(left_out, 0.05)
        drifted = {name: rows for name, rows in tables.items() if name not in ("train", "test")}
        alarms = {
            name: 100.0 * float((scorer.score(rows).fused > threshold).mean()) for name, rows in drifted.items()
        }
    official = official_score([[*domains, partial_auc(data.anomalous, scores)]])
    return Measured(100.0 * official, 100.0 * auc(data.anomalous, scores), alarms, scorer.reason)


Results = dict[Id, dict[str, Measured]]


def print_report(results: Results) -> None:
    print("| machine | official score near / best / auto | AUC near / best / auto | auto less the better |")
    print("|---|---:|---:|---:|")
    for name, rows in [(text(name), [row]) for name, row in results.items()] + [("**mean**", [*results.values()])]:
        texts = [
            " / ".join(f"{np.mean([getattr(one[recipe], what) for one in rows]):.1f}" for recipe in RECIPES)
            for what in ("official", "auc")
        ]
        over = np.mean([one["auto"].auc - max(one["near"].auc, one["best"].auc) for one in rows])
        print(f"| {name} | {texts[0]} | {texts[1]} | {over:+.1f} |")
    print(
        "\n| variant | AUC | worst difference from the better of near and best | below -2 |\n|---|---:|---:|---:|"
    )
    for variant in VARIANTS:
        over = [one[variant].auc - max(one["near"].auc, one["best"].auc) for one in results.values()]
        mean = np.mean([one[variant].auc for one in results.values()])
        print(f"| {variant} | {mean:.1f} | {min(over):+.1f} | {sum(value < -2 for value in over)} |")
    drifting = [row for row in results.values() if row["auto"].alarms]
    print("\n| false alarms in %, nominal 5 % (machines) | near | best | auto |\n|---|---:|---:|---:|")
    for drift in dict.fromkeys(name for row in drifting for name in row["auto"].alarms):
        found = [row for row in drifting if drift in row["auto"].alarms]
        means = [np.mean([row[name].alarms[drift] for row in found]) for name in RECIPES]
        print(f"| {drift} ({len(found)}) | " + " | ".join(f"{value:.1f}" for value in means) + " |")
    print()
    for name, row in results.items():
        print(f"- {text(name)}: {row['auto'].reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with the machines uav and motor")
    parser.add_argument("--out", type=Path, required=True, help="folder of features by machine, which are reused")
    parser.add_argument("--choose", action="store_true", help="print what the settings were chosen on")
    parser.add_argument("--simulate-only", action="store_true", help="write the features and stop")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    real = arguments.real
    if arguments.choose:
        print_choice(real, arguments.out)
        return
    results: Results = {}
    for name in REPORT + (REAL if real is not None else []):
        data = tables_of(name, real, arguments.out)
        if arguments.simulate_only:
            continue
        results[name] = {short: measure(load_recipe(recipe), data) for short, recipe in RECIPES.items()}
        for variant, changes in VARIANTS.items():
            if changes:
                results[name][variant] = measure(
                    load_recipe("auto").with_changes(**changes), data, alarms_too=False
                )
    if results:
        print_report(results)


if __name__ == "__main__":
    main()
