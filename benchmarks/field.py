"""False alarms promised and measured, and faults found, on recordings as a factory gives them.

    python benchmarks/field.py
    python benchmarks/field.py --realmix FOLDER        with real machines, by source recording

Simulated factories, in which every session has its own position of the microphones (a random filter of 1 dB, gains
of 2 dB) and its own speed (1 %): detectors are fitted on some sessions and score others. ``by`` is how recordings
are grouped: ``recording`` takes each as independent. Then sessions that differ more: speed, gain, noise, another
recorder. Real machines (surrogate data, see the folder's README): clips that were cut from the same recordings.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.signal import firwin2, oaconvolve, resample_poly

from nearfar import Detector
from nearfar.data import Clip, read_dataset
from nearfar.data.clips import normal_clip
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.detector import Score

RATE_HZ = 16_000
FITTED, NEW, PER_SESSION = 20, 10, 5
Waveform = NDArray[np.float64]
Change = Callable[[Waveform, np.random.Generator], Waveform]


def session_effect(seed: int, filter_db: float = 1.0, gain_db: float = 2.0) -> Change:
    """A filter, gains and a speed that all recordings of one session share; waveforms are (samples, channels)."""
    random = np.random.default_rng(seed)
    bands = np.concatenate([[0], np.geomspace(100, 8000, 12)]) / 8000
    filters = [firwin2(129, bands, 10 ** (random.normal(0, filter_db, size=13) / 20)) for _ in range(2)]
    gains, speed = 10 ** (random.normal(0, gain_db, size=2) / 20), 1 + 0.01 * random.normal()

    def change(waveform: Waveform, _: np.random.Generator) -> Waveform:
        made = [oaconvolve(waveform[:, c], filters[c], mode="same") * gains[c] for c in range(2)]
        return faster(np.stack(made, axis=1), speed)

    return change


def faster(waveform: Waveform, speed: float) -> Waveform:
    """The recording played at another speed, cut or repeated to its length."""
    positions = np.arange(0, len(waveform) - 1, speed)
    made = np.stack([np.interp(positions, np.arange(len(waveform)), channel) for channel in waveform.T], axis=1)
    return np.resize(made, waveform.shape)


def noisier(waveform: Waveform, random: np.random.Generator, decibels: float = 3.0) -> Waveform:
    """Pink-like noise in far and, weaker, in near, so that the power of far rises by so much."""
    noise = np.cumsum(random.normal(size=len(waveform)))
    noise = np.diff(noise, prepend=0) + 0.3 * random.normal(size=len(waveform))
    noise *= waveform[:, 1].std() * np.sqrt(10 ** (decibels / 10) - 1) / noise.std()
    return waveform + np.stack([0.3 * noise, noise], axis=1)


DRIFTS: dict[str, Change] = {
    "as fitted": lambda x, _: x,
    "speed +5 %": lambda x, _: faster(x, 1.05),
    "speed -5 %": lambda x, _: faster(x, 0.95),
    "gain +3 dB": lambda x, _: x * 10**0.15,
    "gain -3 dB": lambda x, _: x * 10**-0.15,
    "noise +3 dB": noisier,
    "recorded at 32 kHz": lambda x, _: resample_poly(resample_poly(x, 2, 1, axis=0), 1, 2, axis=0),
    "20 dB quieter": lambda x, _: 0.1 * x,
}


def write(clips: list[Clip], folder: Path, changes: list[Change], seed: int) -> list[Path]:
    """Copies of clips, each with the change of its session, named so that names say nothing of sessions."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    paths = []
    for number, clip in enumerate(clips):
        waveform, _ = soundfile.read(clip.path)
        paths.append(folder / f"{number:04d}.wav")
        made = changes[number % len(changes)](waveform, random)
        soundfile.write(paths[-1], np.clip(made, -1, 1), RATE_HZ, subtype="PCM_24")
    return paths


def rate_text(scores: list[Score]) -> str:
    alarms = sum(bool(score.anomalous) for score in scores)
    withheld = sum(score.status == "not comparable" for score in scores)
    text = f"{100 * alarms / len(scores):.0f} %"
    return text + (f" (and {withheld} not comparable)" if withheld else "")


def simulated(machines: str, recipes: list[str], seed: int, folder: Path) -> Iterator[tuple[str, ...]]:
    """Rows of the table of simulated factories."""
    plan = FactoryPlan(
        tuple(machines.split(",")),
        train_source=FITTED * PER_SESSION,
        train_target=1,
        test_per_group=NEW * PER_SESSION,
        clip_seconds=2.0,
        seed=seed,
    )
    dataset = read_dataset(simulate_factory(plan, folder / "factory"))
    for machine in dataset.machines:
        train = [clip for clip in dataset.train(machine) if clip.domain == "source"]
        test = [clip for clip in dataset.test(machine) if clip.domain == "source"]
        normal, faulty = ([c for c in test if c.label == label] for label in ("normal", "anomaly"))
        fitted = [session_effect(seed + number) for number in range(FITTED)]
        new = [session_effect(seed + 1000 + number) for number in range(NEW)]
        # Recordings of one session follow each other, as recorders write them.
        ordered = [effect for effect in fitted for _ in range(PER_SESSION)]
        paths = write(train, folder / machine / "normal", ordered, seed)
        for recipe in recipes:
            for by in ("recording", "auto"):
                name = f"{machine}-{recipe}-{by}"
                detector = Detector.fit(
                    [normal_clip(path, machine) for path in paths], with_groups(recipe, by), machine=machine
                )
                threshold = detector.thresholds[0]
                promised = f"{100 * (threshold.false_alarm_rate or 0):.1f} % of {threshold.groups}"
                cells = [machine, recipe, by, promised]
                for drift, change in DRIFTS.items():
                    if by == "recording" and drift != "as fitted":
                        cells.append("")
                        continue
                    changes = [composed(effect, change) for effect in new]
                    scores = detector.score_many(write(normal, folder / name / drift, changes, seed))
                    cells.append(rate_text(list(scores)))
                found = list(detector.score_many(write(faulty, folder / name / "faults", new, seed)))
                yield (*cells, rate_text(found))


def composed(first: Change, second: Change) -> Change:
    return lambda waveform, random: second(first(waveform, random), random)


def with_groups(recipe: str, by: str):  # type: ignore[no-untyped-def]
    from nearfar import load_recipe

    return load_recipe(recipe).with_changes(**{"calibration.group_by": by})


def realmix(folder: Path, recipes: list[str]) -> Iterator[tuple[str, ...]]:
    """Rows of the table of real machines in simulated rooms, whose clips were cut from fewer recordings."""
    with (folder / "MANIFEST.csv").open(encoding="utf-8") as file:
        source = {row["file"]: row["source_file"] for row in csv.DictReader(file)}
    dataset = read_dataset(folder)
    for machine in ("motor", "uav"):
        train = [clip for clip in dataset.train(machine) if clip.domain == "source"]
        named = [
            Clip(c.path, machine, "00", "train", "source", "normal", c.index, (("recording", source[name]),))
            for c in train
            if (name := str(c.path.relative_to(folder)))
        ]
        test = [clip for clip in dataset.test(machine) if clip.domain == "source"]
        for recipe in recipes:
            for by in ("recording", "session"):
                detector = Detector.fit(named, with_groups(recipe, "recording" if by == "recording" else by))
                threshold = detector.thresholds[0]
                cells = [
                    machine,
                    recipe,
                    by,
                    f"{100 * (threshold.false_alarm_rate or 0):.1f} % of {threshold.groups}",
                ]
                for label in ("normal", "anomaly"):
                    paths = [clip.path for clip in test if clip.label == label]
                    cells.append(rate_text(list(detector.score_many(paths))))
                yield tuple(cells)


def show(title: str, headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    table = Table(*headings, title=title)
    for row in rows:
        table.add_row(*row)
        print(", ".join(row), flush=True)
    Console(width=240).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", default="fan,gearbox")
    parser.add_argument("--recipes", default="frozen-near,nearfar-best")
    parser.add_argument("--seed", type=int, default=40)
    parser.add_argument("--realmix", type=Path)
    arguments = parser.parse_args()
    recipes = arguments.recipes.split(",")
    headings = ("machine", "recipe", "by", "promised")
    with tempfile.TemporaryDirectory() as folder:
        rows = simulated(arguments.machines, recipes, arguments.seed, Path(folder))
        show("Simulated factories with sessions", (*headings, *DRIFTS, "faults found"), rows)
    if arguments.realmix is not None:
        rows = realmix(arguments.realmix, recipes)
        show("Real machines in simulated rooms", (*headings, "false alarms", "faults found"), rows)


if __name__ == "__main__":
    main()
