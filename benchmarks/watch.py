"""Alarms of `nearfar watch`: false alarms a month and faults found by alarm rule, latency, machines a core holds.

    python benchmarks/watch.py rules           about 10 minutes of one core
    python benchmarks/watch.py rules --levels FILE       keeps the levels of the detectors, or reads them
    python benchmarks/watch.py load            about 3 minutes of one core

All on simulated machines. `rules`: detectors (`auto`) are fitted on sessions of simulated recordings and score
new sessions and faults, all of 10 s; a session has its own filter (1 dB), gains (2 dB) and speed (1 %), as in
field.py. Their levels (0 the median of normal recordings, 1 the threshold) become months of windows: every 8 hours
the mean of another of the new sessions is drawn, and around it levels as those of windows around the means of
their sessions, with a correlation of 0.9 between successive windows; a drift raises all levels in a straight line
over the month. A fault sets in at a random time, and its windows have the level of one recording of a fault, with
the same spread and correlation around it.
`load`: `Watch` with as many machines as asked for, from sound in memory, on one core.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from field import session_effect, write
from scipy.stats import norm

from nearfar import Detector, load_recipe
from nearfar.data import read_dataset
from nearfar.data.clips import normal_clip
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.detector.results import Score
from nearfar.watch.detectors import WatchedMachine

SECONDS, FITTED, NEW, PER_SESSION, FAULTS = 10.0, 20, 30, 3, 40
SESSION_WINDOWS, MONTH_WINDOWS, CORRELATION = 2880, 259_200, 0.9
TEN_MINUTES = 60

PLACES = {"fixed": (0.3, 0.5), "moved": (1.0, 2.0)}
"""Filter and gains of a session in dB: of microphones that stay where they are, and that are put up anew."""


def machine_levels(machine: str, place: str, seed: int, folder: Path) -> dict[str, list[list[float]]]:
    """Levels of new sessions and of faults of one simulated machine."""
    plan = FactoryPlan(
        (machine,),
        train_source=(FITTED + NEW) * PER_SESSION,
        train_target=1,
        test_per_group=FAULTS,
        clip_seconds=SECONDS,
        seed=seed,
    )
    dataset = read_dataset(simulate_factory(plan, folder / machine))
    normal = [clip for clip in dataset.train(machine) if clip.domain == "source"]
    faulty = [c for c in dataset.test(machine) if c.domain == "source" and c.label == "anomaly"]
    effects = [
        session_effect(seed + number, *PLACES[place]) for number in range(FITTED) for _ in range(PER_SESSION)
    ]
    new = [session_effect(seed + 1000 + number, *PLACES[place]) for number in range(NEW)]
    count = FITTED * PER_SESSION
    paths = write(normal[:count], folder / f"{machine}-normal", effects, seed)
    detector = Detector.fit([normal_clip(path, machine) for path in paths], load_recipe("auto"), machine=machine)
    watched = WatchedMachine(detector, machine, "", "")

    def levels(files: list[Path]) -> list[float | None]:
        scores = detector.score_many(files, machine, explain=False)
        return [watched.level(score) for score in scores if isinstance(score, Score)]

    of_new = levels(write(normal[count:], folder / f"{machine}-new", new, seed))
    of_faults = levels(write(faulty, folder / f"{machine}-faults", new, seed))
    sessions = [[v for v in of_new[number::NEW] if v is not None] for number in range(NEW)]
    return {"sessions": [s for s in sessions if s], "faults": [[v for v in of_faults if v is not None]]}


def correlated(count: int, random: np.random.Generator) -> np.ndarray:
    """(count,) uniform numbers; successive ones are correlated."""
    noise = random.normal(size=count) * np.sqrt(1 - CORRELATION**2)
    noise[0] = random.normal()
    from scipy.signal import lfilter

    return norm.cdf(lfilter([1.0], [1.0, -CORRELATION], noise))


def month(levels: dict, drift: float, random: np.random.Generator) -> np.ndarray:
    """(windows,) levels of a month of normal operation."""
    sessions = levels["sessions"]
    residuals = np.concatenate([np.array(s) - np.mean(s) for s in sessions])
    out = []
    for _ in range(MONTH_WINDOWS // SESSION_WINDOWS):
        mean = np.mean(sessions[random.integers(len(sessions))])
        out.append(mean + np.quantile(residuals, correlated(SESSION_WINDOWS, random)))
    return np.concatenate(out) + drift * np.linspace(0, 1, MONTH_WINDOWS)
