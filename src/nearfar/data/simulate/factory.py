"""A simulated factory with two microphones in the DCASE 2026 layout, from a plan to WAV files.

Levels carry no information about faults:

* the machine's sound is scaled to one level at each microphone after the fault has been added;
* signal-to-noise ratio, noise, its path, level and operating point are drawn independently of the label: the
  normal and the anomalous test clips of a domain get the same list of them in another order;
* the near channel is scaled to an RMS from that list, the far channel with the same gain.

Each clip has its own random generators, keyed by seed, machine, split, domain, label and index, so that it is bit
for bit the same whatever other machines are simulated.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from nearfar.data.clips import Domain, Label, Split, attributes_text
from nearfar.data.simulate.acoustics import Relation, related
from nearfar.data.simulate.background import NOISES
from nearfar.data.simulate.machines import MACHINES, Fault, Operation, Trace
from nearfar.data.simulate.presets import PRESETS
from nearfar.data.simulate.rooms import PATHS, Images, Room, build_room, convolve_moving
from nearfar.data.simulate.signals import SAMPLE_RATE_HZ, convolve, decibels, rms, stream
from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.progress import StepProgress

NOISES_OF_DOMAIN: dict[Domain, tuple[str, ...]] = {
    "source": ("ventilation", "forklift", "conveyor"),
    "target": ("hammering", "air_gun", "grinder"),
}
LEVEL_DBFS = (-38.0, -30.0)
"""RMS of the near channel; low enough that impacts of a valve stay below full scale."""
MICROPHONE_NOISE_DB = -50.0
"""Self-noise of a microphone, relative to the machine at the near one."""
BODY_DEVIATION = 0.04
"""Deviation of the structural resonances between units of a type, as a fraction."""
TRUTH_COLUMNS = (
    *("file_name", "machine", "split", "domain", "label", "fault", "severity"),
    *("fault_low_hz", "fault_high_hz", "fault_intervals_s"),
    *("snr_db", "level_dbfs", "noise", "noise_path", "noise_from", "noise_to", "speed", "load"),
    *("near_m", "far_m"),
)
MOST_CLIPS = 10_000
"""Of one machine, split, domain and label: the index in a file name has four digits."""


@dataclass(frozen=True, slots=True)
class FactoryPlan:
    """The settings of a simulated factory.

    Attributes:
        machines: machine types, each once; see :func:`nearfar.data.simulate.machine_types`.
        train_source, train_target: normal training clips of each domain and machine.
        test_per_group: test clips of each machine in each of source/target × normal/anomaly.
        clip_seconds: length of a clip, 1 to 60 s.
        snr_db: range of the machine-to-noise ratio at the near microphone in decibels, drawn uniformly.
        severity: range of the faults' severity, drawn uniformly; above 0, up to 1 (obvious).
        seed: the same seed gives the same files, bit for bit.
        preset: whose acoustics recordings are brought to; see :mod:`nearfar.data.simulate.presets`.

    Raises:
        InputError: if a setting is outside its range.
    """

    machines: tuple[str, ...] = ("fan", "gearbox", "bearing", "slider", "valve")
    train_source: int = 60
    train_target: int = 10
    test_per_group: int = 15
    clip_seconds: float = 4.0
    snr_db: tuple[float, float] = (8.0, 18.0)
    severity: tuple[float, float] = (0.4, 1.0)
    seed: int = 0
    preset: str = "plain"

    def __post_init__(self) -> None:
        unknown = [machine for machine in self.machines if machine not in MACHINES]
        machines = ", ".join(unknown or self.machines) or "none"
        each_once = 0 < len(self.machines) == len(set(self.machines))
        count = f"a number of clips from 1 to {MOST_CLIPS}"
        (low_db, high_db), (mildest, worst) = self.snr_db, self.severity
        for name, found, valid, expected in (
            ("machines", machines, not unknown, f"machine types out of {', '.join(MACHINES)}"),
            ("machines", machines, each_once, "one or more machine types, each once"),
            ("train_source", self.train_source, 1 <= self.train_source <= MOST_CLIPS, count),
            ("train_target", self.train_target, 1 <= self.train_target <= MOST_CLIPS, count),
            ("test_per_group", self.test_per_group, 1 <= self.test_per_group <= MOST_CLIPS, count),
            ("clip_seconds", self.clip_seconds, 1 <= self.clip_seconds <= 60, "a length from 1 to 60 s"),
            ("snr_db", self.snr_db, -40 <= low_db <= high_db <= 60, "two ascending ratios from -40 to 60 dB"),
            ("severity", self.severity, 0 < mildest <= worst <= 1, "two ascending severities above 0, up to 1"),
            ("seed", self.seed, self.seed >= 0, "a whole number from 0 up"),
            ("preset", self.preset, self.preset in PRESETS, f"one of {', '.join(PRESETS)}"),
        ):
            if not valid:
                raise InputError(f"simulate {name}", found=str(found), expected=expected, remedy=f"Change {name}")

    @property
    def clips(self) -> int:
        """Total number of clips."""
        return len(self.machines) * (self.train_source + self.train_target + 4 * self.test_per_group)


@dataclass(frozen=True, slots=True)
class Condition:
    """The random properties of a clip that do not depend on its label."""

    operation: Operation
    snr_db: float
    level_dbfs: float
    noise: str
    path: int
    noise_from: float
    noise_to: float
    relation: Relation | None = None


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """One clip to be simulated."""

    machine: str
    split: Split
    domain: Domain
    label: Label
    index: int
    condition: Condition
    fault: Fault | None

    @property
    def path(self) -> str:
        """The path in the simulated folder, with slashes; the name has the form of :mod:`nearfar.data.clips`."""
        text = attributes_text(self.condition.operation.attributes)
        name = f"section_00_{self.domain}_{self.split}_{self.label}_{self.index:04d}_{text}.wav"
        return f"{self.machine}/{self.split}/{name}"


def simulate_factory(plan: FactoryPlan, out: Path, progress: StepProgress | None = None) -> Path:
    """Simulate a factory into an empty or new folder.

    Writes ``<out>/<machine>/{train,test}/*.wav`` (16 kHz, 16 bit, channel 0 near, channel 1 far),
    ``<out>/<machine>/attributes_00.csv``, ``<out>/truth.csv`` with the simulated properties of each clip,
    faults included, and ``<out>/SIMULATED.md``.

    ``progress`` is called with the number of clips done and in all. Returns ``out``.

    Raises:
        InputError: if ``out`` is a file or a folder that is not empty, or pyroomacoustics is not installed.
    """
    require_extras("simulation", "simulate")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(
            out,
            found="a folder that is not empty" if out.is_dir() else "a file",
            expected="a new or empty folder, as nothing is overwritten",
            remedy="Choose another folder, or empty this one",
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "SIMULATED.md").write_text(_readme(plan), encoding="utf-8")
    with (out / "truth.csv").open("w", encoding="utf-8", newline="") as file:
        truth = csv.writer(file, lineterminator="\n")
        truth.writerow(TRUTH_COLUMNS)
        done = 0
        for machine in plan.machines:
            rooms = rooms_of(plan, machine)
            clips = list(plan_clips(plan, machine))
            _write_attributes(out / machine, clips)
            for clip in clips:
                room = rooms[clip.domain]
                audio, trace = simulate_clip(plan, clip, room)
                (out / clip.path).parent.mkdir(exist_ok=True)
                soundfile.write(out / clip.path, audio, SAMPLE_RATE_HZ, subtype="PCM_16")
                truth.writerow(_truth(clip, room, trace))
                done += 1
                if progress is not None:
                    progress(done, plan.clips)
    return out


def rooms_of(plan: FactoryPlan, machine: str) -> dict[Domain, Room]:
    """The room of a machine in each domain."""
    shared = PRESETS[plan.preset].shares_room(machine)
    return {name: build_room(plan.seed, machine, "source" if shared else name) for name in NOISES_OF_DOMAIN}


def plan_clips(plan: FactoryPlan, machine: str) -> Iterator[ClipPlan]:
    """Every clip of a machine, training clips first."""
    counts: dict[Domain, int] = {"source": plan.train_source, "target": plan.train_target}
    for domain, count in counts.items():
        for index in range(count):
            condition = draw_condition(plan, machine, "train", domain, index)
            yield ClipPlan(machine, "train", domain, "normal", index, condition, None)
    count = plan.test_per_group
    for domain in counts:
        conditions = [draw_condition(plan, machine, "test", domain, index) for index in range(count)]
        faults: dict[Label, Sequence[Fault | None]] = {
            "normal": [None] * count,
            "anomaly": _faults(plan, machine, domain, count),
        }
        for label, of_clips in faults.items():
            order = stream(plan.seed, machine, "order", domain, label).permutation(count)
            for index, (position, fault) in enumerate(zip(order, of_clips, strict=True)):
                yield ClipPlan(machine, "test", domain, label, index, conditions[position], fault)


def draw_condition(plan: FactoryPlan, machine: str, split: Split, domain: Domain, index: int) -> Condition:
    """The condition of one clip; operating points and noises alternate, so that all are equally frequent."""
    operations = MACHINES[machine].operations(domain)
    noises = tuple(NOISES) if PRESETS[plan.preset].shares_room(machine) else NOISES_OF_DOMAIN[domain]
    rng = stream(plan.seed, machine, "condition", split, domain, index)
    acoustics, relation, level_dbfs = PRESETS[plan.preset].acoustics.get(machine), None, LEVEL_DBFS
    if acoustics is not None:
        draw = stream(plan.seed, machine, "relation", split, domain, index).uniform
        low, middle, high = (float(draw(*band)) for band in acoustics.coherence)
        relation = Relation((low, middle, high), float(draw(*acoustics.far_to_near)))
        level_dbfs = acoustics.level_dbfs
    return Condition(
        operation=operations[index % len(operations)],
        snr_db=float(rng.uniform(*plan.snr_db)),
        level_dbfs=float(rng.uniform(*level_dbfs)),
        noise=noises[index // len(operations) % len(noises)],
        path=int(rng.integers(PATHS)),
        noise_from=float(rng.random()),
        noise_to=float(rng.random()),
        relation=relation,
    )


def _faults(plan: FactoryPlan, machine: str, domain: Domain, count: int) -> list[Fault]:
    """Equally many of each of the machine's faults, in random order, with severities."""
    rng = stream(plan.seed, machine, "faults", domain)
    names = MACHINES[machine].faults
    return [Fault(names[turn % len(names)], float(rng.uniform(*plan.severity))) for turn in rng.permutation(count)]


def simulate_clip(plan: FactoryPlan, clip: ClipPlan, room: Room) -> tuple[NDArray[np.int16], Trace | None]:
    """One clip as (samples, 2) int16, and the region of its fault."""
    samples = round(plan.clip_seconds * SAMPLE_RATE_HZ)
    condition, key = clip.condition, (clip.machine, clip.split, clip.domain, clip.label, clip.index)
    body = 1 + BODY_DEVIATION * float(stream(plan.seed, clip.machine, "body").standard_normal())
    rng = stream(plan.seed, *key, "machine")
    dry, trace = MACHINES[clip.machine].sound(condition.operation, clip.fault, body, rng, samples)
    rng = stream(plan.seed, *key, "noise")
    dry_noise = NOISES[condition.noise](rng, samples)
    noise = convolve_moving(room, dry_noise, condition.path, condition.noise_from, condition.noise_to)
    mixed = mix(convolve(dry, room.machine), noise, room.far_over_near, condition.snr_db)
    if condition.relation is not None:
        mixed = related(mixed, condition.relation, stream(plan.seed, *key, "background"))
    mixed += decibels(MICROPHONE_NOISE_DB) * rng.standard_normal(mixed.shape)
    mixed *= decibels(condition.level_dbfs) / rms(mixed[0])
    scaled = np.round(np.clip(mixed, -1.0, 1.0 - 2.0**-15) * 2.0**15)
    return np.ascontiguousarray(scaled.T.astype(np.int16)), trace


def mix(machine: Images, noise: Images, far_over_near: float, snr_db: float) -> Images:
    """Machine plus noise at both microphones, with levels that do not depend on the fault.

    The machine gets RMS 1 near and ``far_over_near`` far, as a fault that changes the spectrum would otherwise
    change the ratio of the channels. The noise is scaled to ``snr_db`` at the near microphone and keeps its ratio
    of near to far.
    """
    level = np.array([[1.0 / rms(machine[0])], [far_over_near / rms(machine[1])]])
    return np.asarray(machine * level + noise * (decibels(-snr_db) / rms(noise[0])))


def _write_attributes(folder: Path, clips: list[ClipPlan]) -> None:
    """Write ``attributes_00.csv``: file names, and names and values of attributes in columns d1p, d1v, d2p, ..."""
    folder.mkdir(parents=True)
    widest = max(len(clip.condition.operation.attributes) for clip in clips)
    with (folder / "attributes_00.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file_name", *(f"d{n}{part}" for n in range(1, widest + 1) for part in "pv")])
        for clip in clips:
            pairs = [text for pair in clip.condition.operation.attributes for text in pair]
            table.writerow([clip.path, *pairs])


def _truth(clip: ClipPlan, room: Room, trace: Trace | None) -> list[str]:
    """A row of the truth table; columns of faults are empty for a healthy machine."""
    condition, fault = clip.condition, clip.fault
    intervals = trace.intervals_s if trace else ()
    return [
        *(clip.path, clip.machine, clip.split, clip.domain, clip.label),
        *((fault.name, f"{fault.severity:.3f}") if fault else ("", "")),
        *((f"{trace.low_hz:.0f}", f"{trace.high_hz:.0f}") if trace else ("", "")),
        ";".join(f"{start:.3f}-{end:.3f}" for start, end in intervals),
        *(f"{condition.snr_db:.2f}", f"{condition.level_dbfs:.2f}", condition.noise, str(condition.path)),
        *(f"{condition.noise_from:.3f}", f"{condition.noise_to:.3f}"),
        *(f"{condition.operation.speed:g}", f"{condition.operation.load:g}"),
        *(f"{room.near_m:.2f}", f"{room.far_m:.2f}"),
    ]


def _readme(plan: FactoryPlan) -> str:
    options = "\n".join(f"- {field.name}: {getattr(plan, field.name)}" for field in fields(plan))
    return f"""# Simulated recordings

All recordings in this folder were simulated by `nearfar simulate`. Results on them show whether the software
works, not how well it performs on real machines.

The layout is that of DCASE 2026 Task 2: `<machine>/train` (normal clips), `<machine>/test`, 16 kHz, 16 bit;
channel 0 is the near microphone, channel 1 the far one. `truth.csv` lists each clip's fault and its severity,
the band and the intervals of the fault (no intervals: the whole clip), noise and level. It contains the labels: do
not use it in a detector.

Settings:

{options}
"""
