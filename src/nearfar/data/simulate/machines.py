"""The simulated machine types: their sounds, faults and operating points.

Fan, gearbox, bearing and pump have sounds tied to the rotation of a shaft; slider and valve work in strokes.
Each machine's function takes an operating point, the severity of each fault, ``body`` (the factor on this unit's
structural resonances), a generator and the number of samples. It returns the dry sound at the machine,
``(samples,) float64`` of arbitrary level, and the time-frequency region of each fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from nearfar.data.clips import Attributes, Domain
from nearfar.data.simulate.signals import (
    SAMPLE_RATE_HZ,
    Modes,
    Signal,
    harmonics,
    impacts,
    noise,
    once_a_turn,
    passing_times,
    ring,
    seconds,
    shaft_angle,
    spread_db,
    stretched,
    unit_rms,
    wander,
)

Intervals = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operating point: speed in revolutions or strokes per second, load from 0 to 1.

    ``attributes`` encode them in the file name; empty for machines without attributes.
    """

    speed: float
    load: float
    attributes: Attributes = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """A defect with a severity from 0 (just begun) to 1 (obvious to a listener)."""

    name: str
    severity: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Band in Hz and intervals in seconds affected by a fault; no intervals means the whole clip."""

    low_hz: float
    high_hz: float
    intervals_s: Intervals = ()


Severities = Sequence[float]
"""The severity of each fault in the order of ``MachineType.faults``; 0 for an absent one."""
Simulated = tuple[Signal, dict[str, Trace]]
"""A dry signal, and the trace of each fault in it by name."""

FAN_BLADES = 7
FAN_CASING: Modes = ((260.0, 0.02, 1.0), (1150.0, 0.010, 1.2), (2350.0, 0.006, 1.0))


def fan(operation: Operation, severities: Severities, body: float, rng: Generator, samples: int) -> Simulated:
    """An axial fan: turbulence, the blade-pass tone and its harmonics, a little residual imbalance.

    Faults: ``imbalance`` raises the tone at shaft rate with a few harmonics and lets the blade-pass tone and the
    flow swell once a turn; ``broken_blade`` fills the gaps between blade-pass harmonics with shaft orders, for
    the blades are no longer alike, and adds a puff of turbulence a turn; ``looseness`` adds half orders of the
    shaft and a rattle of the casing in most turns.
    """
    imbalance, broken, loose = severities
    angle = shaft_angle(rng, samples, operation.speed)
    swell = 1 + (0.08 + 0.4 * imbalance) * np.cos(2 * np.pi * angle + 1.0)
    wake = 1 + 0.3 * np.cos(2 * np.pi * FAN_BLADES * angle) + 1.2 * broken * once_a_turn(angle, 0.06)
    high_level = (0.3 + 0.3 * operation.load) * spread_db(rng, 1.0)
    flow = noise(rng, samples, (120.0, 700.0, 1.5, 1.0), (700.0, 3500.0 * body, 2.0, high_level))
    blade_tone = harmonics(FAN_BLADES * angle, [1.0, 0.55, 0.35, 0.2, 0.12], rng)
    sound = swell * (wake * flow + 0.45 * spread_db(rng, 1.5) * blade_tone)
    sound += spread_db(rng, 2.0) * harmonics(angle, [0.12, 0.08, 0.05], rng)
    sound += 0.3 * imbalance * harmonics(angle, [1.0, 0.5, 0.35, 0.2, 0.1], rng)
    orders = np.arange(1, 31)
    sound += 0.25 * broken * harmonics(angle, np.exp(-0.5 * ((orders - 1.5 * FAN_BLADES) / 7.0) ** 2), rng)
    if loose:
        sound += 0.18 * loose * harmonics(angle / 2, 1 / np.sqrt(np.arange(1, 25)), rng)
        times = passing_times(angle, 1.0, rng, slip=0.05)
        blows = rng.lognormal(0.0, 0.6, len(times)) * (rng.random(len(times)) < 0.8)
        sound += 0.6 * loose * impacts(times, blows, stretched(FAN_CASING, body), samples)
    return sound, {
        "imbalance": Trace(operation.speed / 2, 900.0),
        "broken_blade": Trace(operation.speed / 2, 900.0),
        "looseness": Trace(operation.speed / 2, 3000.0 * body),
    }


PINION_TEETH, WHEEL_TEETH = 21, 53
GEAR_HOUSING: Modes = ((410.0, 0.012, 0.8), (980.0, 0.008, 1.0), (1870.0, 0.006, 1.2), (3240.0, 0.004, 1.0))


def gearbox(operation: Operation, severities: Severities, body: float, rng: Generator, samples: int) -> Simulated:
    """One pair of spur gears: mesh tones with sidebands at both shaft rates, filtered by the housing.

    Faults: ``chipped_tooth`` gives an impact once a turn of the pinion and a short dip and phase slip of the mesh,
    so sidebands spread; ``tooth_wear`` raises the higher mesh harmonics and their sidebands and makes the mesh
    rough; ``looseness`` of the mounts adds shaft harmonics and rattling when the load turns over.
    """
    chipped, worn, loose = severities
    housing = stretched(GEAR_HOUSING, body)
    angle = shaft_angle(rng, samples, operation.speed)
    wheel = angle * PINION_TEETH / WHEEL_TEETH
    nick = chipped * once_a_turn(angle, 0.03)
    mesh = PINION_TEETH * angle + 0.25 * nick + (0.01 + 0.02 * worn) * np.sin(2 * np.pi * angle)
    amplitudes = [1.0, 0.6 + 0.5 * worn, 0.3 + 0.7 * worn, 0.15 + 0.5 * worn, 0.08 + 0.3 * worn]
    ripple = (0.12 + 0.25 * worn) * np.cos(2 * np.pi * angle) + (0.08 + 0.1 * worn) * np.cos(2 * np.pi * wheel)
    force = (0.5 + operation.load) * (1 + ripple - 0.7 * nick) * harmonics(mesh, amplitudes, rng)
    force *= spread_db(rng, 1.0)
    roughness = noise(rng, samples, (300.0, 5000.0, 1.0, 1.0))
    force += spread_db(rng, 1.0) * (0.35 + 0.4 * worn * (1 + np.cos(2 * np.pi * mesh))) * roughness
    sound = unit_rms(ring(force, housing)) + 0.1 * harmonics(angle, [1.0, 0.6, 0.3], rng)
    times = passing_times(angle, 1.0, rng)
    sound += 1.6 * chipped * impacts(times, rng.lognormal(0.0, 0.2, len(times)), housing, samples)
    if loose:
        sound += 0.3 * loose * harmonics(angle, 1 / np.sqrt(np.arange(1, 13)), rng)
        times = passing_times(wheel, 2.0, rng, slip=0.15)
        sound += 1.0 * loose * impacts(times, rng.lognormal(0.0, 0.45, len(times)), housing, samples)
    mesh_hz = PINION_TEETH * operation.speed
    return sound, {
        "chipped_tooth": Trace(mesh_hz / 2, 3800.0 * body),
        "tooth_wear": Trace(mesh_hz / 2, 3800.0 * body),
        "looseness": Trace(operation.speed, 3600.0 * body),
    }


BALLS, BALL_RATIO = 9, 0.2
"""Balls of the bearing and ball over pitch diameter, contact angle 0."""
BPFO_ORDER = BALLS / 2 * (1 - BALL_RATIO)
"""Ball-pass frequency of the outer race in turns of the shaft."""
BPFI_ORDER = BALLS / 2 * (1 + BALL_RATIO)
"""Ball-pass frequency of the inner race in turns of the shaft."""
RACE: Modes = ((1420.0, 0.004, 0.6), (2650.0, 0.003, 1.0), (4300.0, 0.002, 1.0))
ROTOR_SLOTS = 28


def bearing(operation: Operation, severities: Severities, body: float, rng: Generator, samples: int) -> Simulated:
    """A rolling bearing on an induction motor: magnetic hum, slot tones, rolling noise.

    The supply makes ``operation.speed`` turns a second; slip, 1 to 5 % with the load, keeps the shaft below it.
    Faults: ``outer_race`` gives impacts at the ball-pass frequency of the fixed ring, all alike; ``inner_race``
    at that of the turning ring, swelling and fading once a turn as the defect passes the loaded zone; both ring
    in the resonances of the race and jitter because the balls slide. ``dry`` is lack of lubricant: friction
    noise at high frequencies that surges at random.
    """
    outer, inner, dry = severities
    race = stretched(RACE, body)
    slip = 0.01 + 0.04 * operation.load
    angle = shaft_angle(rng, samples, operation.speed * (1 - slip), unsteadiness=0.002)
    supply = shaft_angle(rng, samples, operation.speed, unsteadiness=0.0003)
    sound = 0.5 * spread_db(rng, 1.5) * harmonics(2 * supply, [1.0, 0.5, 0.2, 0.25, 0.1, 0.12], rng)
    slots = 1 + (0.3 + 0.3 * operation.load) * np.cos(4 * np.pi * supply)
    sound += 0.25 * spread_db(rng, 1.5) * slots * harmonics(ROTOR_SLOTS * angle, [1.0, 0.4], rng)
    sound += 0.15 * harmonics(angle, [1.0, 0.5, 0.2], rng)
    sound += 0.5 * spread_db(rng, 1.0) * noise(rng, samples, (200.0, 1500.0, 1.0, 1.0))
    rolling = ring(noise(rng, samples, (500.0, 6000.0, 1.0, 1.0)), race)
    sound += 0.3 * spread_db(rng, 1.0) * unit_rms(rolling)
    if outer:
        times = passing_times(angle, BPFO_ORDER, rng, slip=0.015)
        sound += 1.5 * outer * impacts(times, rng.lognormal(0.0, 0.15, len(times)), race, samples)
    if inner:
        times = passing_times(angle, BPFI_ORDER, rng, slip=0.015)
        turn = np.interp(times, seconds(samples), angle)
        load_zone = np.clip(0.35 + np.cos(2 * np.pi * turn), 0.05, None)
        sound += 1.8 * inner * impacts(times, load_zone, race, samples)
    if dry:
        surge = np.exp(0.4 * wander(rng, samples, 15.0))
        sound += 0.32 * dry * surge * noise(rng, samples, (2500.0, 6500.0, 2.0, 1.0))
    return sound, {
        "outer_race": Trace(1200.0 * body, 5000.0 * body),
        "inner_race": Trace(1200.0 * body, 5000.0 * body),
        "dry": Trace(2000.0, 8000.0),
    }


VANES = 6
VOLUTE: Modes = ((320.0, 0.012, 0.8), (870.0, 0.008, 1.0), (2050.0, 0.004, 0.8))
BUBBLES: Modes = ((2600.0, 0.0006, 1.0), (4300.0, 0.0004, 1.0), (6400.0, 0.0003, 0.8))


def pump(operation: Operation, severities: Severities, body: float, rng: Generator, samples: int) -> Simulated:
    """A centrifugal pump: vane-pass tone, motor hum, the rush of the flow through the volute.

    Faults: ``cavitation`` is the crackle of bubbles that collapse, hundreds a second, most of them as a vane
    passes the cut-water; ``imbalance`` raises the shaft orders and lets the vane-pass tone swell once a turn;
    ``leak`` is a thin jet at the shaft seal, a steady hiss that the turning shaft modulates a little.
    """
    cavitation, imbalance, leak = severities
    angle = shaft_angle(rng, samples, operation.speed)
    supply = shaft_angle(rng, samples, 50.0, unsteadiness=0.0003)
    swell = 1 + (0.06 + 0.5 * imbalance) * np.cos(2 * np.pi * angle)
    vane_tone = harmonics(VANES * angle, [1.0, 0.5, 0.3, 0.2, 0.1], rng)
    sound = (0.4 + 0.4 * operation.load) * spread_db(rng, 1.5) * swell * vane_tone
    sound += 0.3 * spread_db(rng, 1.5) * harmonics(2 * supply, [1.0, 0.4, 0.25], rng)
    rush = noise(rng, samples, (150.0, 1800.0, 1.5, 1.0), (1800.0, 5000.0, 1.5, 0.25 * spread_db(rng, 1.0)))
    sound += unit_rms(ring(rush, stretched(VOLUTE, body))) + 0.5 * spread_db(rng, 1.0) * rush
    sound += (0.1 + 0.9 * imbalance) * harmonics(angle, [1.0, 0.5, 0.4, 0.2], rng)
    if cavitation:
        times = passing_times(angle, VANES * (2 + 4 * rng.random()), rng, slip=0.6)
        near_vane = 0.3 + once_a_turn(VANES * np.interp(times, seconds(samples), angle), 0.15)
        strengths = near_vane * rng.lognormal(0.0, 0.5, len(times))
        sound += 1.5 * cavitation * impacts(times, strengths, BUBBLES, samples)
    if leak:
        jet = noise(rng, samples, (3000.0, 7000.0, 2.0, 1.0))
        sound += 0.4 * leak * (1 + 0.3 * np.cos(2 * np.pi * angle)) * jet
    return sound, {
        "cavitation": Trace(1000.0, 8000.0),
        "imbalance": Trace(operation.speed, (VANES + 2) * operation.speed),
        "leak": Trace(2500.0, 8000.0),
    }


STOP: Modes = ((95.0, 0.035, 1.0), (310.0, 0.020, 1.0), (740.0, 0.010, 0.7), (1650.0, 0.005, 0.35))
HARD_STOP: Modes = ((740.0, 0.012, 1.0), (1650.0, 0.010, 1.2), (2900.0, 0.007, 1.2), (4600.0, 0.004, 0.8))
RAIL: Modes = ((640.0, 0.006, 0.7), (1900.0, 0.005, 1.0), (3300.0, 0.003, 0.8))


def slider(operation: Operation, severities: Severities, body: float, rng: Generator, samples: int) -> Simulated:
    """A linear slider: friction and drive whine that follow its velocity, a thud at each end of the stroke.

    ``operation.speed`` is in strokes (one way) a second; each is a run with ramps and a dwell. Faults:
    ``looseness`` lets the carriage rebound, so each thud is followed by a few weaker and ever quicker ones;
    ``dry_rail`` turns smooth sliding into stick-slip, a chatter at a rate that follows the velocity;
    ``worn_damper`` makes the end stops metal on metal.
    """
    loose, dry, worn = severities
    stroke = shaft_angle(rng, samples, operation.speed, unsteadiness=0.01)
    velocity = _trapezium(stroke % 1.0)
    travel = np.cumsum(velocity) * operation.speed / SAMPLE_RATE_HZ
    rail = stretched(RAIL, body)
    friction = noise(rng, samples, (500.0, 3500.0, 1.5, 1.0))
    sliding = 0.6 * friction + 0.6 * unit_rms(ring(friction, rail))
    sound = 0.8 * spread_db(rng, 1.0) * (0.6 + 0.6 * operation.load) * velocity * sliding
    whine = harmonics(260.0 * travel, [1.0, 0.4, 0.25], rng)
    sound += 0.35 * spread_db(rng, 1.5) * np.sqrt(velocity) * whine
    sound += 0.06 * noise(rng, samples, (80.0, 1200.0, 1.0, 1.0))
    ends = _times_at_phase(stroke, RUN)
    force = (2.0 + 1.5 * operation.load) * rng.lognormal(0.0, 0.12, len(ends))
    sound += impacts(ends, force * (1 - 0.3 * worn), stretched(STOP, body), samples)
    sound += 1.9 * worn * impacts(ends, force, stretched(HARD_STOP, body), samples)
    if loose:
        times, strengths = _rebounds(ends, force, rng)
        sound += 1.2 * loose * impacts(times, strengths, (*stretched(STOP, body), *rail), samples)
    if dry:
        times = passing_times(travel, 70.0, rng, slip=0.25)
        grip = rng.lognormal(0.0, 0.5, len(times)) * np.interp(times, seconds(samples), velocity)
        sound += 1.5 * dry * impacts(times, grip, rail, samples)
    return sound, {
        "looseness": Trace(40.0, 3500.0 * body, _intervals(ends, ends + 0.30, samples)),
        "dry_rail": Trace(500.0 * body, 3700.0 * body, _intervals(ends - RUN / operation.speed, ends, samples)),
        "worn_damper": Trace(600.0 * body, 5200.0 * body, _intervals(ends, ends + 0.08, samples)),
    }


RUN = 0.72
"""Fraction of a slider's stroke in which it moves; otherwise it rests at an end."""


def _trapezium(phase: Signal) -> Signal:
    """Velocity from 0 to 1 over a stroke: ramp up, run, ramp down, stand."""
    ramp = 0.12
    return np.clip(np.minimum(phase / ramp, (RUN - phase) / ramp), 0.0, 1.0)


def _rebounds(ends: Signal, force: Signal, rng: Generator) -> tuple[Signal, Signal]:
    """Times and strengths of the rebounds of a loose carriage after each end of stroke."""
    restitution = rng.uniform(0.6, 0.75, len(ends))
    first_gap_s = rng.uniform(0.05, 0.08, len(ends))
    order = np.arange(1, 7)
    gaps = first_gap_s[:, None] * restitution[:, None] ** (order - 1)
    strengths = force[:, None] * restitution[:, None] ** order
    return (ends[:, None] + np.cumsum(gaps, axis=1)).ravel(), strengths.ravel()


def _times_at_phase(cycle: Signal, phase: float) -> Signal:
    """Times in seconds at which ``cycle`` is at ``phase`` of a turn, from one turn before the clip to one after.

    Events outside the clip have effects in it; their times follow from the mean speed.
    """
    turns = np.arange(np.floor(cycle[0]) - 1, np.ceil(cycle[-1]) + 2) + phase
    end_s = len(cycle) / SAMPLE_RATE_HZ
    per_turn_s = end_s / (cycle[-1] - cycle[0])
    inside = np.interp(turns, cycle, seconds(len(cycle)))
    before = (np.minimum(turns, cycle[0]) - cycle[0]) * per_turn_s
    after = (np.maximum(turns, cycle[-1]) - cycle[-1]) * per_turn_s
    return np.asarray(inside + before + after)


def _seconds_since(time: Signal, events: Signal) -> Signal:
    """Seconds since the last of the events; 10 s before the first."""
    latest = np.searchsorted(events, time, side="right") - 1
    return np.where(latest >= 0, time - events[np.maximum(latest, 0)], 10.0)


def _intervals(starts: Signal, ends: Signal, samples: int) -> Intervals:
    """The intervals as far as they lie in the clip."""
    last = samples / SAMPLE_RATE_HZ
    pairs = ((max(float(start), 0.0), min(float(end), last)) for start, end in zip(starts, ends, strict=True))
    return tuple((start, end) for start, end in pairs if start < end)


ARMATURE: Modes = ((380.0, 0.010, 1.0), (2150.0, 0.004, 1.0), (3900.0, 0.0025, 1.0), (5600.0, 0.0018, 0.8))
"""Resonances that the armature of a solenoid excites when it hits its stop."""


def valve(operation: Operation, severities: Severities, body: float, rng: Generator, samples: int) -> Simulated:
    """A pneumatic solenoid valve: a click and a hiss of air as it opens, a click and a puff as it closes.

    ``operation.speed`` is in switchings a second, ``operation.load`` the air pressure. Faults: ``leak`` is a jet
    of air past the seat while the valve is shut; ``sticking`` lets the armature move late and slowly, so clicks
    are weaker and doubled and the air starts slowly; ``loose_armature`` hums and chatters at twice the mains
    frequency while the coil is fed.
    """
    leak, sticking, loose = severities
    cycle = shaft_angle(rng, samples, operation.speed, unsteadiness=0.01)
    opening = _times_at_phase(cycle, 0.0)
    opening = opening + 0.004 * rng.standard_normal(len(opening))
    closing = opening + (0.42 + 0.01 * rng.standard_normal()) / operation.speed
    late = opening + sticking * rng.uniform(0.02, 0.10, len(opening))
    time = seconds(samples)
    since_open, since_shut = _seconds_since(time, late), _seconds_since(time, closing)
    rise_s = 0.004 + 0.06 * sticking
    state = np.where(since_open < since_shut, 1 - np.exp(-since_open / rise_s), np.exp(-since_shut / 0.004))
    pressure = 0.6 + 0.6 * operation.load
    jet = noise(rng, samples, (1800.0, 6500.0 * body, 1.5, 1.0))
    sound = 0.55 * spread_db(rng, 1.0) * pressure * state * jet
    click = stretched(ARMATURE, body)
    strength = rng.lognormal(0.0, 0.12, len(opening)) * spread_db(rng, 1.0)
    sound += 2.6 * (1 - 0.55 * sticking) * impacts(late, strength, click, samples)
    sound += 1.8 * impacts(closing, strength, stretched(click, 0.9), samples)
    puff = np.exp(-since_shut / 0.035)
    sound += 0.5 * pressure * puff * noise(rng, samples, (600.0, 3000.0, 1.5, 1.0))
    sound += 0.03 * noise(rng, samples, (80.0, 2500.0, 1.0, 1.0))
    if sticking:
        second = late + rng.uniform(0.015, 0.035, len(late))
        sound += 1.6 * sticking * impacts(second, strength, stretched(click, 0.85), samples)
    if leak:
        sound += 0.14 * leak * pressure * (1 - state) * noise(rng, samples, (2600.0, 7000.0, 2.0, 1.0))
    if loose:
        supply = shaft_angle(rng, samples, 50.0, unsteadiness=0.0003)
        buzz = harmonics(2 * supply, 1 / np.sqrt(np.arange(1, 20)), rng)
        times = passing_times(2 * supply, 1.0, rng, slip=0.02)
        chatter = impacts(times, rng.lognormal(0.0, 0.4, len(times)), click, samples)
        sound += loose * state * (0.15 * buzz + 0.5 * chatter)
    return sound, {
        "leak": Trace(2200.0, 8000.0, _intervals(closing[:-1], late[1:], samples)),
        "sticking": Trace(150.0, 5800.0 * body, _intervals(opening, opening + 0.15, samples)),
        "loose_armature": Trace(100.0, 5800.0 * body, _intervals(opening, closing, samples)),
    }


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type. ``source`` and ``target`` are the operating points of the two domains."""

    simulate: Callable[[Operation, Severities, float, Generator, int], Simulated]
    faults: tuple[str, ...]
    source: tuple[Operation, ...]
    target: tuple[Operation, ...]

    def operations(self, domain: Domain) -> tuple[Operation, ...]:
        """The operating points of a domain."""
        return self.source if domain == "source" else self.target

    def sound(
        self, operation: Operation, fault: Fault | None, body: float, rng: Generator, samples: int
    ) -> tuple[Signal, Trace | None]:
        """The dry sound of a clip, and the trace of its fault."""
        severities = [fault.severity if fault and fault.name == name else 0.0 for name in self.faults]
        signal, traces = self.simulate(operation, severities, body, rng, samples)
        return signal, traces[fault.name] if fault else None


def _operations(speeds: dict[str, float], loads: dict[str, float] | float) -> tuple[Operation, ...]:
    """Operating points by the names of their attributes' values; a single load is no attribute."""
    if isinstance(loads, float):
        return tuple(Operation(speed, loads, (("spd", name),)) for name, speed in speeds.items())
    return tuple(
        Operation(speed, load, (("spd", speed_name), ("load", load_name)))
        for speed_name, speed in speeds.items()
        for load_name, load in loads.items()
    )


MACHINES: dict[str, MachineType] = {
    "fan": MachineType(
        fan,
        faults=("imbalance", "broken_blade", "looseness"),
        source=_operations({"1": 18.0, "2": 22.0, "3": 27.0}, 0.4),
        target=_operations({"4": 20.0, "5": 25.0}, 0.6),
    ),
    "gearbox": MachineType(
        gearbox,
        faults=("chipped_tooth", "tooth_wear", "looseness"),
        source=_operations({"1": 14.0, "2": 19.0}, {"1": 0.3, "2": 0.8}),
        target=_operations({"3": 16.5, "4": 21.0}, {"3": 0.55}),
    ),
    "bearing": MachineType(
        bearing,
        faults=("outer_race", "inner_race", "dry"),
        source=_operations({"1": 25.0, "2": 30.0}, {"1": 0.2, "2": 0.7}),
        target=_operations({"3": 33.0}, {"1": 0.2, "3": 0.9}),
    ),
    "slider": MachineType(
        slider,
        faults=("looseness", "dry_rail", "worn_damper"),
        source=_operations({"1": 1.1, "2": 1.5}, 0.4),
        target=_operations({"3": 1.3, "4": 1.7}, 0.6),
    ),
    "valve": MachineType(
        valve,
        faults=("leak", "sticking", "loose_armature"),
        source=(Operation(1.6, 0.4), Operation(2.2, 0.4)),
        target=(Operation(1.9, 0.6), Operation(2.5, 0.6)),
    ),
    "pump": MachineType(
        pump,
        faults=("cavitation", "imbalance", "leak"),
        source=(Operation(24.0, 0.3), Operation(24.3, 0.6)),
        target=(Operation(27.0, 0.5),),
    ),
}
"""Machine types by name. Valve and pump have no attributes."""


def machine_types() -> tuple[str, ...]:
    """Names of the machine types."""
    return tuple(MACHINES)
