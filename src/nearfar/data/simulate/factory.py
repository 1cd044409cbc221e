"""A two-microphone factory in the DCASE 2026 layout: from a plan to WAV files.

How loud a clip is must not tell whether the machine is healthy, so that a detector has to listen:

* the machine's sound is brought to one level at each microphone after the fault has been added;
* signal-to-noise ratio, noise, its path, level and point of operation are drawn without regard to the label,
  and the normal and the anomalous test clips of a domain get the same list of them in another order;
* the RMS of the near channel is set at last to a level from that list; the far channel gets the same gain.

Each clip has generators of its own, keyed by seed, machine, split, domain, label and index, so it is the same bit
for bit whatever other machines are made and in which order.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from nearfar.data.clips import Domain, Label, Split
from nearfar.data.simulate.background import NOISES
from nearfar.data.simulate.conditions import Fault, Operation, Trace
from nearfar.data.simulate.machines import MACHINES
from nearfar.data.simulate.plan import FactoryPlan
from nearfar.data.simulate.rooms import PATHS, Room, build_room, carry, carry_moving
from nearfar.data.simulate.signals import SAMPLE_RATE_HZ, decibels, rms, stream
from nearfar.errors import InputError

NOISES_OF_DOMAIN: dict[Domain, tuple[str, ...]] = {
    "source": ("ventilation", "forklift", "conveyor"),
    "target": ("hammering", "air_gun", "grinder"),
}
LEVEL_DBFS = (-38.0, -30.0)
"""RMS of the near channel; low enough that blows of a valve stay below full scale."""
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


@dataclass(frozen=True, slots=True)
class Condition:
    """What is drawn for a clip without regard to its label."""

    operation: Operation
    snr_db: float
    level_dbfs: float
    noise: str
    path: int
    noise_from: float
    noise_to: float


@dataclass(frozen=True, slots=True)
class Shot:
    """One clip to be rendered."""

    machine: str
    split: Split
    domain: Domain
    label: Label
    index: int
    condition: Condition
    fault: Fault | None

    @property
    def key(self) -> tuple[str | int, ...]:
        """What, with the seed, keys every random number of the clip."""
        return (self.machine, self.split, self.domain, self.label, self.index)

    @property
    def name(self) -> str:
        """The file name in the grammar of :mod:`nearfar.data.clips`."""
        attributes = self.condition.operation.attributes
        told = "_".join(f"{key}_{value}" for key, value in attributes) if attributes else "noAttribute"
        return f"section_00_{self.domain}_{self.split}_{self.label}_{self.index:04d}_{told}.wav"


def simulate_factory(plan: FactoryPlan, out: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Render a factory into an empty or new folder.

    Writes ``<out>/<machine>/{train,test}/*.wav`` (16 kHz, 16 bit, channel 0 near, channel 1 far),
    ``<out>/<machine>/attributes_00.csv``, ``<out>/truth.csv`` with what was simulated in each clip (for people:
    it tells the answers), and ``<out>/SIMULATED.md``.

    Args:
        plan: what to make.
        out: where; nothing that is there is ever overwritten.
        progress: called after each clip with the number of clips done and in all.

    Returns:
        ``out``.

    Raises:
        InputError: if ``out`` is a file or a folder with something in it.
    """
    _claim(out)
    (out / "SIMULATED.md").write_text(_readme(plan), encoding="utf-8")
    with (out / "truth.csv").open("w", encoding="utf-8", newline="") as file:
        truth = csv.writer(file, lineterminator="\n")
        truth.writerow(TRUTH_COLUMNS)
        done = 0
        for machine in plan.machines:
            rooms: dict[Domain, Room] = {
                "source": build_room(plan.seed, machine, "source"),
                "target": build_room(plan.seed, machine, "target"),
            }
            shots = list(plan_shots(plan, machine))
            _write_attributes(out / machine, shots)
            for shot in shots:
                room = rooms[shot.domain]
                audio, trace = render(plan, shot, room)
                _write_wav(out / machine / shot.split / shot.name, audio)
                truth.writerow(_truth(shot, room, trace))
                done += 1
                if progress is not None:
                    progress(done, plan.clips)
    return out


def plan_shots(plan: FactoryPlan, machine: str) -> Iterator[Shot]:
    """Every clip of a machine, training clips first."""
    counts: dict[Domain, int] = {"source": plan.train_source, "target": plan.train_target}
    for domain, count in counts.items():
        conditions = _conditions(plan, machine, "train", domain, count)
        for index, condition in enumerate(conditions):
            yield Shot(machine, "train", domain, "normal", index, condition, None)
    labels: tuple[Label, Label] = ("normal", "anomaly")
    for domain in counts:
        conditions = _conditions(plan, machine, "test", domain, plan.test_per_group)
        for label in labels:
            order = stream(plan.seed, machine, "order", domain, label).permutation(len(conditions))
            faults = _faults(plan, machine, domain, len(order)) if label == "anomaly" else [None] * len(order)
            for index, (place, fault) in enumerate(zip(order, faults, strict=True)):
                yield Shot(machine, "test", domain, label, index, conditions[place], fault)


def _conditions(plan: FactoryPlan, machine: str, split: Split, domain: Domain, count: int) -> list[Condition]:
    """``count`` conditions; points of operation and noises take turns, so that each comes equally often."""
    operations, noises = MACHINES[machine].operations(domain), NOISES_OF_DOMAIN[domain]
    conditions = []
    for index in range(count):
        rng = stream(plan.seed, machine, "condition", split, domain, index)
        conditions.append(
            Condition(
                operation=operations[index % len(operations)],
                snr_db=float(rng.uniform(*plan.snr_db)),
                level_dbfs=float(rng.uniform(*LEVEL_DBFS)),
                noise=noises[index // len(operations) % len(noises)],
                path=int(rng.integers(PATHS)),
                noise_from=float(rng.random()),
                noise_to=float(rng.random()),
            )
        )
    return conditions


def _faults(plan: FactoryPlan, machine: str, domain: Domain, count: int) -> list[Fault]:
    """The machine's faults in turn, in random order, each with its severity."""
    rng = stream(plan.seed, machine, "faults", domain)
    names = MACHINES[machine].faults
    return [Fault(names[turn % len(names)], float(rng.uniform(*plan.severity))) for turn in rng.permutation(count)]


def render(plan: FactoryPlan, shot: Shot, room: Room) -> tuple[NDArray[np.int16], Trace | None]:
    """One clip as (samples, 2) int16, and where its fault shows."""
    samples = round(plan.clip_seconds * SAMPLE_RATE_HZ)
    condition = shot.condition
    body = 1 + BODY_DEVIATION * float(stream(plan.seed, shot.machine, "body").standard_normal())
    dry, trace = MACHINES[shot.machine].sound(
        condition.operation, shot.fault, body, stream(plan.seed, *shot.key, "machine"), samples
    )
    rng = stream(plan.seed, *shot.key, "noise")
    noise = carry_moving(
        room, NOISES[condition.noise](rng, samples), condition.path, condition.noise_from, condition.noise_to
    )
    mixed = mix(carry(room, dry), noise, room.far_over_near, condition.snr_db)
    mixed += decibels(MICROPHONE_NOISE_DB) * rng.standard_normal(mixed.shape)
    mixed *= decibels(condition.level_dbfs) / rms(mixed[0])
    scaled = np.round(np.clip(mixed, -1.0, 1.0 - 2.0**-15) * 2.0**15)
    return np.ascontiguousarray(scaled.T.astype(np.int16)), trace


def mix(
    machine: NDArray[np.float64], noise: NDArray[np.float64], far_over_near: float, snr_db: float
) -> NDArray[np.float64]:
    """Machine and noise at both microphones, (2, samples), with levels that do not depend on the fault.

    The machine gets RMS 1 near and ``far_over_near`` far; were it left as the room made it, a fault that moves
    energy to frequencies which the room carries better would show in the ratio of the channels. The noise gets
    the gain that makes the ratio of RMS at the near microphone ``snr_db`` and keeps its own ratio of near to far.
    """
    level = np.array([[1.0 / rms(machine[0])], [far_over_near / rms(machine[1])]])
    return np.asarray(machine * level + noise * (decibels(-snr_db) / rms(noise[0])))


def _claim(out: Path) -> None:
    """Make the folder, or refuse one that holds anything."""
    if out.exists() and not out.is_dir():
        found = "a file"
    elif out.is_dir() and any(out.iterdir()):
        found = "a folder that is not empty"
    else:
        out.mkdir(parents=True, exist_ok=True)
        return
    raise InputError(
        out,
        found=found,
        expected="a new or empty folder, for nothing is overwritten",
        remedy="Name another folder, or empty this one yourself",
    )


def _write_wav(path: Path, audio: NDArray[np.int16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, SAMPLE_RATE_HZ, subtype="PCM_16")


def _write_attributes(folder: Path, shots: list[Shot]) -> None:
    """``attributes_00.csv``: the file and its attributes as name and value columns, d1p, d1v, d2p, d2v..."""
    folder.mkdir(parents=True)
    widest = max(len(shot.condition.operation.attributes) for shot in shots)
    with (folder / "attributes_00.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file_name", *(f"d{n}{part}" for n in range(1, widest + 1) for part in "pv")])
        for shot in shots:
            pairs = [text for pair in shot.condition.operation.attributes for text in pair]
            table.writerow([f"{shot.machine}/{shot.split}/{shot.name}", *pairs])


def _truth(shot: Shot, room: Room, trace: Trace | None) -> list[str]:
    """A row of the truth table; what a healthy machine lacks is left empty."""
    condition, fault = shot.condition, shot.fault
    intervals = trace.intervals_s if trace else ()
    return [
        *(f"{shot.machine}/{shot.split}/{shot.name}", shot.machine, shot.split, shot.domain, shot.label),
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

Every sound in this folder was computed by `nearfar simulate`; no machine was recorded. Results on it say
whether the software works, not how well it would do on a real machine.

The layout is that of DCASE 2026 Task 2: `<machine>/train` (normal clips), `<machine>/test`, 16 kHz, 16 bit;
channel 0 is the near microphone, channel 1 the far one. `truth.csv` lists each clip's fault and its severity,
the band and the intervals in which it shows (no intervals: all through the clip), noise and level. It tells
the answers: do not feed it to a detector.

Made with:

{options}
"""
