"""Slider and valve: machines that work in strokes, with something to hear at each of its moments.

The functions have the form of those in :mod:`nearfar.data.simulate.rotating`.
"""

from __future__ import annotations

import numpy as np

from nearfar.data.simulate.conditions import Fault, Operation, Trace, severity
from nearfar.data.simulate.signals import (
    SAMPLE_RATE_HZ,
    Modes,
    Signal,
    harmonics,
    impacts,
    noise,
    passing_times,
    ring,
    seconds,
    shaft_angle,
    spread_db,
    stretched,
    unit_rms,
)

Intervals = tuple[tuple[float, float], ...]

STOP: Modes = ((95.0, 0.035, 1.0), (310.0, 0.020, 1.0), (740.0, 0.010, 0.7), (1650.0, 0.005, 0.35))
HARD_STOP: Modes = ((740.0, 0.012, 1.0), (1650.0, 0.010, 1.2), (2900.0, 0.007, 1.2), (4600.0, 0.004, 0.8))
RAIL: Modes = ((640.0, 0.006, 0.7), (1900.0, 0.005, 1.0), (3300.0, 0.003, 0.8))


def slider(
    operation: Operation, fault: Fault | None, body: float, rng: np.random.Generator, samples: int
) -> tuple[Signal, Trace | None]:
    """A linear slider: friction and drive whine that follow its velocity, a thud at each end of the stroke.

    ``operation.speed`` is in strokes (one way) a second; each is a run with ramps and a dwell. Faults:
    ``looseness`` lets the carriage rebound, so each thud is followed by a few weaker and ever quicker ones;
    ``dry_rail`` turns smooth sliding into stick-slip, a chatter at a rate that follows the velocity;
    ``worn_damper`` makes the end stops metal on metal.
    """
    loose, dry, worn = (severity(fault, name) for name in ("looseness", "dry_rail", "worn_damper"))
    stroke = shaft_angle(rng, samples, operation.speed, unsteadiness=0.01)
    velocity = _trapezium(stroke % 1.0)
    travel = np.cumsum(velocity) * operation.speed / SAMPLE_RATE_HZ
    rail = stretched(RAIL, body)
    friction = noise(rng, samples, (500.0, 3500.0, 1.5, 1.0))
    sliding = 0.6 * friction + 0.6 * unit_rms(ring(friction, rail))
    sound = 0.8 * spread_db(rng, 1.0) * (0.6 + 0.6 * operation.load) * velocity * sliding
    whine = harmonics(260.0 * travel, np.array([1.0, 0.4, 0.25]), rng)
    sound += 0.35 * spread_db(rng, 1.5) * np.sqrt(velocity) * whine
    sound += 0.06 * noise(rng, samples, (80.0, 1200.0, 1.0, 1.0))
    ends = _moments(stroke, RUN)
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
    traces = {
        "looseness": Trace(40.0, 3500.0 * body, _intervals(ends, ends + 0.30, samples)),
        "dry_rail": Trace(500.0 * body, 3700.0 * body, _intervals(ends - RUN / operation.speed, ends, samples)),
        "worn_damper": Trace(600.0 * body, 5200.0 * body, _intervals(ends, ends + 0.08, samples)),
    }
    return sound, traces[fault.name] if fault else None


RUN = 0.72
"""Fraction of a slider's stroke in which it moves; in the rest it stands at the end."""


def _trapezium(phase: Signal) -> Signal:
    """Velocity from 0 to 1 over a stroke: ramp up, run, ramp down, stand."""
    ramp = 0.12
    return np.clip(np.minimum(phase / ramp, (RUN - phase) / ramp), 0.0, 1.0)


def _rebounds(ends: Signal, force: Signal, rng: np.random.Generator) -> tuple[Signal, Signal]:
    """Times and strengths of the blows by which a loose carriage comes to rest after each end of stroke."""
    restitution = rng.uniform(0.6, 0.75, len(ends))
    first_gap_s = rng.uniform(0.05, 0.08, len(ends))
    order = np.arange(1, 7)
    gaps = first_gap_s[:, None] * restitution[:, None] ** (order - 1)
    strengths = force[:, None] * restitution[:, None] ** order
    return (ends[:, None] + np.cumsum(gaps, axis=1)).ravel(), strengths.ravel()


def _moments(cycle: Signal, phase: float) -> Signal:
    """Times in seconds at which ``cycle`` is at ``phase`` of a turn, from one turn before the clip to one after.

    Those outside the clip are needed for what they leave behind in it; they follow from the mean speed.
    """
    turns = np.arange(np.floor(cycle[0]) - 1, np.ceil(cycle[-1]) + 2) + phase
    end_s = len(cycle) / SAMPLE_RATE_HZ
    per_turn_s = end_s / (cycle[-1] - cycle[0])
    inside = np.interp(turns, cycle, seconds(len(cycle)))
    before = (np.minimum(turns, cycle[0]) - cycle[0]) * per_turn_s
    after = (np.maximum(turns, cycle[-1]) - cycle[-1]) * per_turn_s
    return np.asarray(inside + before + after)


def _since(time: Signal, events: Signal) -> Signal:
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


def valve(
    operation: Operation, fault: Fault | None, body: float, rng: np.random.Generator, samples: int
) -> tuple[Signal, Trace | None]:
    """A pneumatic solenoid valve: a click and a hiss of air as it opens, a click and a puff as it closes.

    ``operation.speed`` is in switchings a second, ``operation.load`` the air pressure. Faults: ``leak`` is a jet
    of air past the seat while the valve is shut; ``sticking`` lets the armature move late and slowly, so clicks
    are weaker and doubled and the air comes on gently; ``loose_armature`` hums and chatters at twice the mains
    frequency while the coil is fed.
    """
    leak, sticking, loose = (severity(fault, name) for name in ("leak", "sticking", "loose_armature"))
    cycle = shaft_angle(rng, samples, operation.speed, unsteadiness=0.01)
    opening = _moments(cycle, 0.0) + 0.004 * rng.standard_normal(len(_moments(cycle, 0.0)))
    closing = opening + (0.42 + 0.01 * rng.standard_normal()) / operation.speed
    late = opening + sticking * rng.uniform(0.02, 0.10, len(opening))
    time = seconds(samples)
    since_open, since_shut = _since(time, late), _since(time, closing)
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
    traces = {
        "leak": Trace(2200.0, 8000.0, _intervals(closing[:-1], late[1:], samples)),
        "sticking": Trace(150.0, 5800.0 * body, _intervals(opening, opening + 0.15, samples)),
        "loose_armature": Trace(100.0, 5800.0 * body, _intervals(opening, closing, samples)),
    }
    return sound, traces[fault.name] if fault else None
