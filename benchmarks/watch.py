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

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from field import session_effect, write
from scipy.signal import lfilter
from scipy.stats import norm

from nearfar import Detector, load_recipe
from nearfar.data import read_dataset
from nearfar.data.clips import normal_clip
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.scores import Score
from nearfar.watch.alarm import AlarmRule, AlarmState, WindowInput, step
from nearfar.watch.config import checked_config
from nearfar.watch.detectors import WatchedMachine
from nearfar.watch.engine import Watch
from nearfar.watch.events import ScoredWindow
from nearfar.watch.memory import Memory
from nearfar.watch.sources import AUDIO_SOURCES, AudioBlock, SourceKind

RATE_HZ = 16_000
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
    return norm.cdf(lfilter([1.0], [1.0, -CORRELATION], noise))


def residuals(levels: dict) -> np.ndarray:
    """Levels of windows around the means of their sessions, with the spread of single windows."""
    sessions = [np.array(session) for session in levels["sessions"] if len(session) > 1]
    return np.concatenate([(s - s.mean()) * np.sqrt(len(s) / (len(s) - 1)) for s in sessions])


def month(levels: dict, drift: float, random: np.random.Generator) -> np.ndarray:
    """(windows,) levels of a month of normal operation."""
    around, means = residuals(levels), [np.mean(session) for session in levels["sessions"]]
    out = [
        means[random.integers(len(means))] + np.quantile(around, correlated(SESSION_WINDOWS, random))
        for _ in range(MONTH_WINDOWS // SESSION_WINDOWS)
    ]
    return np.concatenate(out) + drift * np.linspace(0, 1, MONTH_WINDOWS)


def raised_at(levels: np.ndarray, rule: AlarmRule) -> list[int]:
    """The windows that raise alarms, by the rule of :func:`nearfar.watch.alarm.step`; faster."""
    high, low = levels >= rule.raise_level, levels < rule.clear_level
    total = np.concatenate([[0], np.cumsum(high)])
    run = np.arange(len(levels)) - np.maximum.accumulate(np.where(low, -1, np.arange(len(levels))))
    cleared = np.flatnonzero(run >= rule.clear_count)
    ends = np.arange(1, len(levels) + 1)
    candidates = np.flatnonzero(total[ends] - total[np.maximum(ends - rule.of, 0)] >= rule.count)
    found, since = [], 0
    for window in candidates.tolist():
        if window < since or total[window + 1] - total[max(since, window + 1 - rule.of)] < rule.count:
            continue
        found.append(window)
        later = np.searchsorted(cleared, window + rule.clear_count)
        if later == len(cleared):
            break
        since = int(cleared[later]) + 1
    return found


def check(levels: np.ndarray, rule: AlarmRule) -> None:
    """Compare :func:`raised_at` with the rule itself."""
    state, expected = AlarmState(), []
    for number, level in enumerate(levels.tolist()):
        before = state.active
        state, _ = step(state, WindowInput(level, -20.0), float(number), rule)
        expected += [number] if state.active and not before else []
    assert raised_at(levels, rule) == expected


def fault_found(levels: dict, rule: AlarmRule, random: np.random.Generator) -> float:
    """The share of faults that raise an alarm within ten minutes."""
    around, faults = residuals(levels), levels["faults"][0]
    rows = [level + np.quantile(around, correlated(TEN_MINUTES, random)) for level in faults]
    return float(np.mean([bool(raised_at(row, rule)) for row in rows]))


def rules(by_machine: dict[str, dict], months: int, seed: int) -> None:
    """Print false alarms and faults found of rules."""
    random = np.random.default_rng(seed)
    machines = list(by_machine)
    drifts = (0.0, 0.3)
    simulated = {
        (name, drift): [month(by_machine[name], drift, random) for _ in range(months)]
        for name in machines
        for drift in drifts
    }
    print("false alarms a month without drift / with a drift of 0.3, faults found within ten minutes")
    for raise_level, count, of, clear_count in RULES:
        rule = AlarmRule(raise_level=raise_level, count=count, of=of, clear_count=clear_count)
        check(simulated[machines[0], 0.3][0][:20_000], rule)
        cells = []
        for name in machines:
            alarms = [np.mean([len(raised_at(m, rule)) for m in simulated[name, drift]]) for drift in drifts]
            found = fault_found(by_machine[name], rule, random)
            cells.append(f"{name} {alarms[0]:.1f} / {alarms[1]:.1f}, {100 * found:.0f} %")
        print(f"level {raise_level:g}, {count} of {of}, cleared by {clear_count}: " + "; ".join(cells), flush=True)


RULES = [
    (1.0, 1, 1, 5),
    (1.0, 3, 5, 5),
    *((level, 3, 5, 30) for level in (1.0, 1.5, 2.0)),
    *((level, 3, 5, 60) for level in (1.0, 1.5, 2.0)),
    *((level, 5, 6, 30) for level in (1.0, 1.5, 2.0)),
    *((level, 15, 20, 60) for level in (1.0, 1.5, 2.0)),
    *((level, 25, 30, 60) for level in (1.0, 1.5, 2.0)),
]
"""Level, count, of, and successive windows that clear an alarm."""


class Played:
    """A source of recordings in memory, one after the other; in real time if it is live."""

    def __init__(self, name: str, recordings: list[np.ndarray], live: bool) -> None:
        self.name, self.recordings, self.live = name, recordings, live

    def blocks(self, taken: object, stop: threading.Event) -> Iterator[AudioBlock]:
        begin_s, done = time.time(), 0
        size = RATE_HZ // 10 if self.live else self.recordings[0].shape[1]
        for samples in self.recordings:
            for first in range(0, samples.shape[1], size):
                block = samples[:, first : first + size]
                if self.live:
                    time.sleep(max(0.0, begin_s + (done + block.shape[1]) / RATE_HZ - time.time()))
                yield AudioBlock(block, RATE_HZ, f"{self.name} {begin_s}", done, begin_s, self.name)
                done += block.shape[1]


def watched(detector: Path, recordings: list[list[np.ndarray]], live: bool, folder: Path) -> list[ScoredWindow]:
    """Watch a machine for each list of recordings until they end, and print the time; returns the windows."""
    sources = iter([Played(f"machine {number}", entries, live) for number, entries in enumerate(recordings)])
    AUDIO_SOURCES["played"] = SourceKind(
        build=lambda settings, base: next(sources), live=live, description="played"
    )
    table = {"detector": str(detector), "machine": "fan", "source": "played"}
    config = checked_config({"machines": {f"machine {n}": table for n in range(len(recordings))}}, "benchmark")
    memory, windows = Memory.open(folder / f"{len(recordings)}-{live}.sqlite"), []
    watch = Watch(config, folder, memory)
    begun_s, cpu_s = time.monotonic(), time.process_time()
    watch.run(threading.Event(), on_windows=windows.extend)
    wall_s, cpu_s = time.monotonic() - begun_s, time.process_time() - cpu_s
    seconds = sum(window.seconds for window in windows)
    print(
        f"{len(recordings)} machines, {len(windows)} windows of {windows[0].seconds:g} s: {wall_s:.1f} s, "
        f"processor {1000 * cpu_s / len(windows):.1f} ms a window, so {seconds / cpu_s:.0f} machines a core",
        flush=True,
    )
    memory.close()
    return windows


def load(machines: int, windows: int, seed: int) -> None:
    """Print how many machines a core holds, and how late alarms are."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = FactoryPlan(
            ("fan",), train_source=60, train_target=1, test_per_group=16, clip_seconds=SECONDS, seed=seed
        )
        dataset = read_dataset(simulate_factory(plan, folder / "factory"))
        Detector.fit(dataset, load_recipe("auto"), machine="fan").save(folder / "fan.detector")
        tests = [clip for clip in dataset.test("fan") if clip.domain == "source"]
        normal, faulty = (
            [soundfile.read(c.path, dtype="float32")[0].T for c in tests if c.label == label]
            for label in ("normal", "anomaly")
        )
        detector = folder / "fan.detector"
        watched(detector, [normal[:4]], False, folder)  # warms up
        every = [[normal[(machine + n) % len(normal)] for n in range(windows)] for machine in range(machines)]
        watched(detector, every, False, folder)
        found = watched(detector, [[*normal[:3], *faulty[:9]]], True, folder)
        late = sorted(window.late_s for window in found)
        print(
            f"one live machine: a window is decided at most {late[-1]:.2f} s after its end, median {late[6]:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    of_rules = commands.add_parser("rules")
    of_rules.add_argument("--machines", default="fan,gearbox,valve,pump")
    of_rules.add_argument("--place", choices=list(PLACES), default="fixed")
    of_rules.add_argument("--levels", type=Path, help="a JSON file, written if it does not exist")
    of_rules.add_argument("--months", type=int, default=6)
    of_rules.add_argument("--seed", type=int, default=40)
    of_load = commands.add_parser("load")
    of_load.add_argument("--machines", type=int, default=300)
    of_load.add_argument("--windows", type=int, default=3, help="of each machine")
    of_load.add_argument("--seed", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.command == "rules":
        if arguments.levels is None or not arguments.levels.exists():
            found = {}
            for number, machine in enumerate(arguments.machines.split(",")):
                with tempfile.TemporaryDirectory() as folder:
                    seed = arguments.seed + number
                    found[machine] = machine_levels(machine, arguments.place, seed, Path(folder))
            if arguments.levels is not None:
                arguments.levels.write_text(json.dumps(found), encoding="utf-8")
        else:
            found = json.loads(arguments.levels.read_text(encoding="utf-8"))
        rules(found, arguments.months, arguments.seed)
    else:
        load(arguments.machines, arguments.windows, arguments.seed)


if __name__ == "__main__":
    main()
