"""Runs of successive recordings that are found as groups, and the false alarms that thresholds by them give.

    python benchmarks/found_groups.py

Normal recordings of simulated machines, whose operating conditions alternate, as they are simulated, or come at
random; no name or attribute tells conditions or sessions. Sessions are simulated in the features: a filter
(deviation ``--decibels`` at each of 13 frequencies, interpolated), a speed (1 % per decibel) and a level (2 dB per
decibel) of their own. A bank of near alone, at one speed, is fitted on 20 sessions of 5 recordings, thresholds are
conformal at 5 % (where so few groups do not support it, 1.5 / (groups + 1), as in detectors), and 160 recordings
of 40 new sessions are scored. Recordings of each machine are simulated once and drawn from in every round.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from nearfar.config import Recipe, load_recipe
from nearfar.data.clips import normal_clip
from nearfar.data.grouping import find_groups
from nearfar.data.simulate import rooms
from nearfar.data.simulate.factory import FactoryPlan, plan_clips, simulate_clip
from nearfar.frontends.kaldi import mel_centres_hz
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.scoring import left_out_scores
from nearfar.pipeline.windows import Recording
from nearfar.scoring import MachineScorer
from nearfar.scoring.banded import speed_matrix
from nearfar.thresholds import conformal_threshold

POOL, SESSIONS, EACH, NEW, NEW_EACH, RATE = 400, 20, 5, 40, 4, 0.05
POINTS_HZ = np.concatenate([[60.0], np.geomspace(100.0, 8000.0, 12)])
UNIT = np.log(10.0) / 10.0
"""Of the natural logarithm of a power, per decibel."""
Labels = NDArray[np.int64]


def near_alone() -> Recipe:
    changes = {"scoring.views": ["near"], "scoring.fusion": "mean", "scoring.speed_tolerance": 0.0}
    return load_recipe("auto").with_changes(**changes, **{"audio.clip_seconds": 2.0})


def normal_features(machine: str, seed: int) -> Tensor:
    """(POOL, 1 + statistics, 128) of normal recordings of the source domain, in the order of simulation."""
    plan = FactoryPlan((machine,), POOL, 1, 1, 2.0, (8.0, 18.0), seed=seed)
    room = rooms.build_room(seed, machine, "source")
    clips = [clip for clip in plan_clips(plan, machine) if clip.split == "train" and clip.domain == "source"]
    audio = (simulate_clip(plan, clip, room)[0].T.astype(np.float32) / 2**15 for clip in clips)
    entries = [Recording(str(number), np.ascontiguousarray(one), 16_000) for number, one in enumerate(audio)]
    return extract(build_extractor(near_alone()), entries).features["near"][0]


def of_session(features: Tensor, seed: int, decibels: float) -> Tensor:
    """Recordings with the filter, speed and level of one session."""
    random, out = np.random.default_rng(seed), features.clone()
    used = (features[:, 1:] != 0).any(dim=0).any(dim=0)
    hz = mel_centres_hz().numpy().clip(30.0)
    gains = np.interp(np.log(hz), np.log(POINTS_HZ), decibels * random.normal(size=13)) * UNIT
    offset = torch.from_numpy(gains).float()
    out[:, 1:] = out[:, 1:] @ speed_matrix(used, 1.0 + 0.01 * decibels * random.normal()).T
    out[:, 1] += (offset - offset[used].mean()) * used
    out[:, 0, 0] += 2.0 * decibels * random.normal() * UNIT
    return out


def grouped(features: Tensor) -> Labels:
    clips = [normal_clip(Path(f"/normal/{number:04d}.wav"), "machine") for number in range(len(features))]
    labels = find_groups(clips, features=features.flatten(1).double().numpy()).labels
    return np.unique(labels, return_inverse=True)[1]


def threshold_of(left_out: NDArray[np.float64], groups: Labels) -> tuple[float, float]:
    """The threshold and the rate that it promises."""
    count = len(set(groups.tolist()))
    finest = (1.0 if count == len(groups) else 1.5) / (count + 1)
    rate = RATE if 1.0 / (count + 1) <= RATE else finest
    return conformal_threshold(left_out, rate, groups), rate


def measured(pool: Tensor, seed: int, decibels: float, *, at_random: bool) -> dict[str, tuple[float, ...]]:
    """By the way of grouping: groups, agreement with the sessions, and promised and measured rates in percent."""
    random = np.random.default_rng(seed)
    session = np.repeat(np.arange(SESSIONS), EACH)
    chosen = random.permutation(POOL) if at_random else np.roll(np.arange(POOL), -int(random.integers(12)))
    fitted, others = pool[chosen[: len(session)]], pool[random.permutation(chosen[len(session) :])]
    normals = torch.cat([of_session(fitted[session == s], 1000 * seed + s, decibels) for s in range(SESSIONS)])
    new = torch.cat(
        [of_session(others[NEW_EACH * s :][:NEW_EACH], 1000 * seed + 500 + s, decibels) for s in range(NEW)]
    )
    target, recipe = torch.zeros(len(session), dtype=torch.bool), near_alone()
    scores = MachineScorer({"near": normals}, target, recipe.scoring_plan()).score({"near": new}).fused
    out = {}
    for name, groups in (("recording", np.arange(len(session))), ("found", grouped(normals)), ("true", session)):
        left_out = left_out_scores({"near": normals}, target, groups, recipe).fused
        threshold, rate = threshold_of(left_out, groups)
        alarms = 100.0 * float((scores > threshold).mean())
        out[name] = (len(set(groups.tolist())), adjusted_rand_score(session, groups), 100.0 * rate, alarms)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", default="fan,gearbox,valve,slider")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=9400)
    parser.add_argument("--decibels", default="0,1,2", help="strengths of the sessions' effects")
    arguments = parser.parse_args()
    print("| machine | conditions | sessions, dB | found | agreement | by recording | by found | by session |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for machine in arguments.machines.split(","):
        pool = normal_features(machine, arguments.seed)
        for decibels in map(float, arguments.decibels.split(",")):
            for at_random in (False, True):
                rounds = [
                    measured(pool, arguments.seed + number, decibels, at_random=at_random)
                    for number in range(arguments.rounds)
                ]
                means = {name: np.mean([one[name] for one in rounds], axis=0) for name in rounds[0]}
                rates = [f"{means[name][2]:.1f} / {means[name][3]:.1f}" for name in ("recording", "found", "true")]
                found = means["found"]
                order = "at random" if at_random else "alternate"
                print(
                    f"| {machine} | {order} | {decibels:g} | {found[0]:.0f} | {found[1]:.2f} | "
                    + " | ".join(rates)
                    + " |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
