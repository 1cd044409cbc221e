"""Fan, gearbox, bearing and pump: sounds tied to the turning of a shaft.

Each function takes the point of operation, a fault or None, ``body`` (the factor by which this unit's structural
resonances differ from the drawing), a generator and the number of samples. It returns the dry sound at the
machine, ``(samples,) float64`` of no particular level, and where the fault shows.
"""

from __future__ import annotations

import numpy as np

from nearfar.data.simulate.conditions import Fault, Operation, Trace, severity
from nearfar.data.simulate.signals import (
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

FAN_BLADES = 7
FAN_CASING: Modes = ((260.0, 0.02, 1.0), (1150.0, 0.010, 1.2), (2350.0, 0.006, 1.0))


def fan(
    operation: Operation, fault: Fault | None, body: float, rng: np.random.Generator, samples: int
) -> tuple[Signal, Trace | None]:
    """An axial fan: turbulence, the blade-pass tone and its harmonics, a little residual imbalance.

    Faults: ``imbalance`` raises the tone at shaft rate with a few harmonics and lets the blade-pass tone and the
    flow swell once a turn; ``broken_blade`` fills the gaps between blade-pass harmonics with shaft orders, for
    the blades are no longer alike, and adds a puff of turbulence a turn; ``looseness`` adds half orders of the
    shaft and a rattle of the casing in most turns.
    """
    imbalance, broken, loose = (severity(fault, name) for name in ("imbalance", "broken_blade", "looseness"))
    angle = shaft_angle(rng, samples, operation.speed)
    swell = 1 + (0.08 + 0.4 * imbalance) * np.cos(2 * np.pi * angle + 1.0)
    wake = 1 + 0.3 * np.cos(2 * np.pi * FAN_BLADES * angle) + 1.2 * broken * once_a_turn(angle, 0.06)
    flow = noise(
        rng,
        samples,
        (120.0, 700.0, 1.5, 1.0),
        (700.0, 3500.0 * body, 2.0, (0.3 + 0.3 * operation.load) * spread_db(rng, 1.0)),
    )
    blade_tone = harmonics(FAN_BLADES * angle, np.array([1.0, 0.55, 0.35, 0.2, 0.12]), rng)
    sound = swell * (wake * flow + 0.45 * spread_db(rng, 1.5) * blade_tone)
    sound += spread_db(rng, 2.0) * harmonics(angle, np.array([0.12, 0.08, 0.05]), rng)
    sound += 0.3 * imbalance * harmonics(angle, np.array([1.0, 0.5, 0.35, 0.2, 0.1]), rng)
    orders = np.arange(1, 31)
    sound += 0.25 * broken * harmonics(angle, np.exp(-0.5 * ((orders - 1.5 * FAN_BLADES) / 7.0) ** 2), rng)
    if loose:
        sound += 0.18 * loose * harmonics(angle / 2, 1 / np.sqrt(np.arange(1, 25)), rng)
        times = passing_times(angle, 1.0, rng, slip=0.05)
        blows = rng.lognormal(0.0, 0.6, len(times)) * (rng.random(len(times)) < 0.8)
        sound += 0.6 * loose * impacts(times, blows, stretched(FAN_CASING, body), samples)
    bands = {
        "imbalance": Trace(operation.speed / 2, 900.0),
        "broken_blade": Trace(operation.speed / 2, 900.0),
        "looseness": Trace(operation.speed / 2, 3000.0 * body),
    }
    return sound, bands[fault.name] if fault else None


PINION_TEETH, WHEEL_TEETH = 21, 53
GEAR_HOUSING: Modes = ((410.0, 0.012, 0.8), (980.0, 0.008, 1.0), (1870.0, 0.006, 1.2), (3240.0, 0.004, 1.0))


def gearbox(
    operation: Operation, fault: Fault | None, body: float, rng: np.random.Generator, samples: int
) -> tuple[Signal, Trace | None]:
    """One pair of spur gears: mesh tones with sidebands at both shaft rates, heard through a ringing housing.

    Faults: ``chipped_tooth`` gives a blow once a turn of the pinion and a short dip and phase slip of the mesh,
    so sidebands spread; ``tooth_wear`` raises the higher mesh harmonics and their sidebands and makes the mesh
    rough; ``looseness`` of the mounts adds shaft harmonics and rattling when the load turns over.
    """
    chipped, worn, loose = (severity(fault, name) for name in ("chipped_tooth", "tooth_wear", "looseness"))
    housing = stretched(GEAR_HOUSING, body)
    angle = shaft_angle(rng, samples, operation.speed)
    wheel = angle * PINION_TEETH / WHEEL_TEETH
    nick = chipped * once_a_turn(angle, 0.03)
    mesh = PINION_TEETH * angle + 0.25 * nick + (0.01 + 0.02 * worn) * np.sin(2 * np.pi * angle)
    amplitudes = np.array([1.0, 0.6 + 0.5 * worn, 0.3 + 0.7 * worn, 0.15 + 0.5 * worn, 0.08 + 0.3 * worn])
    ripple = (0.12 + 0.25 * worn) * np.cos(2 * np.pi * angle) + (0.08 + 0.1 * worn) * np.cos(2 * np.pi * wheel)
    force = (0.5 + operation.load) * (1 + ripple - 0.7 * nick) * harmonics(mesh, amplitudes, rng)
    force *= spread_db(rng, 1.0)
    roughness = noise(rng, samples, (300.0, 5000.0, 1.0, 1.0))
    force += spread_db(rng, 1.0) * (0.35 + 0.4 * worn * (1 + np.cos(2 * np.pi * mesh))) * roughness
    sound = unit_rms(ring(force, housing)) + 0.1 * harmonics(angle, np.array([1.0, 0.6, 0.3]), rng)
    times = passing_times(angle, 1.0, rng)
    sound += 1.6 * chipped * impacts(times, rng.lognormal(0.0, 0.2, len(times)), housing, samples)
    if loose:
        sound += 0.3 * loose * harmonics(angle, 1 / np.sqrt(np.arange(1, 13)), rng)
        times = passing_times(wheel, 2.0, rng, slip=0.15)
        sound += 1.0 * loose * impacts(times, rng.lognormal(0.0, 0.45, len(times)), housing, samples)
    mesh_hz = PINION_TEETH * operation.speed
    bands = {
        "chipped_tooth": Trace(mesh_hz / 2, 3800.0 * body),
        "tooth_wear": Trace(mesh_hz / 2, 3800.0 * body),
        "looseness": Trace(operation.speed, 3600.0 * body),
    }
    return sound, bands[fault.name] if fault else None


BALLS, BALL_RATIO = 9, 0.2
"""Balls of the bearing and ball over pitch diameter, contact angle 0."""
BPFO_ORDER = BALLS / 2 * (1 - BALL_RATIO)
"""Ball-pass frequency of the outer race in turns of the shaft."""
BPFI_ORDER = BALLS / 2 * (1 + BALL_RATIO)
"""Ball-pass frequency of the inner race in turns of the shaft."""
RACE: Modes = ((1420.0, 0.004, 0.6), (2650.0, 0.003, 1.0), (4300.0, 0.002, 1.0))
ROTOR_SLOTS = 28


def bearing(
    operation: Operation, fault: Fault | None, body: float, rng: np.random.Generator, samples: int
) -> tuple[Signal, Trace | None]:
    """A rolling bearing on an induction motor: magnetic hum, slot tones, rolling noise.

    The supply makes ``operation.speed`` turns a second; slip, 1 to 5 % with the load, keeps the shaft below it.
    Faults: ``outer_race`` gives impacts at the ball-pass frequency of the fixed ring, all alike; ``inner_race``
    at that of the turning ring, swelling and fading once a turn as the defect passes the loaded zone; both ring
    in the resonances of the race and jitter because the balls slide. ``dry`` is lack of lubricant: friction
    noise at high frequencies that surges at random.
    """
    outer, inner, dry = (severity(fault, name) for name in ("outer_race", "inner_race", "dry"))
    race = stretched(RACE, body)
    slip = 0.01 + 0.04 * operation.load
    angle = shaft_angle(rng, samples, operation.speed * (1 - slip), unsteadiness=0.002)
    supply = shaft_angle(rng, samples, operation.speed, unsteadiness=0.0003)
    sound = 0.5 * spread_db(rng, 1.5) * harmonics(2 * supply, np.array([1.0, 0.5, 0.2, 0.25, 0.1, 0.12]), rng)
    slots = 1 + (0.3 + 0.3 * operation.load) * np.cos(4 * np.pi * supply)
    sound += 0.25 * spread_db(rng, 1.5) * slots * harmonics(ROTOR_SLOTS * angle, np.array([1.0, 0.4]), rng)
    sound += 0.15 * harmonics(angle, np.array([1.0, 0.5, 0.2]), rng)
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
    bands = {
        "outer_race": Trace(1200.0 * body, 5000.0 * body),
        "inner_race": Trace(1200.0 * body, 5000.0 * body),
        "dry": Trace(2000.0, 8000.0),
    }
    return sound, bands[fault.name] if fault else None


VANES = 6
VOLUTE: Modes = ((320.0, 0.012, 0.8), (870.0, 0.008, 1.0), (2050.0, 0.004, 0.8))
BUBBLES: Modes = ((2600.0, 0.0006, 1.0), (4300.0, 0.0004, 1.0), (6400.0, 0.0003, 0.8))


def pump(
    operation: Operation, fault: Fault | None, body: float, rng: np.random.Generator, samples: int
) -> tuple[Signal, Trace | None]:
    """A centrifugal pump: vane-pass tone, motor hum, the rush of the flow through the volute.

    Faults: ``cavitation`` is the crackle of bubbles that collapse, hundreds a second, most of them as a vane
    passes the cut-water; ``imbalance`` raises the shaft orders and lets the vane-pass tone swell once a turn;
    ``leak`` is a thin jet at the shaft seal, a steady hiss that the turning shaft modulates a little.
    """
    cavitation, imbalance, leak = (severity(fault, name) for name in ("cavitation", "imbalance", "leak"))
    angle = shaft_angle(rng, samples, operation.speed)
    supply = shaft_angle(rng, samples, 50.0, unsteadiness=0.0003)
    swell = 1 + (0.06 + 0.5 * imbalance) * np.cos(2 * np.pi * angle)
    vane_tone = harmonics(VANES * angle, np.array([1.0, 0.5, 0.3, 0.2, 0.1]), rng)
    sound = (0.4 + 0.4 * operation.load) * spread_db(rng, 1.5) * swell * vane_tone
    sound += 0.3 * spread_db(rng, 1.5) * harmonics(2 * supply, np.array([1.0, 0.4, 0.25]), rng)
    rush = noise(rng, samples, (150.0, 1800.0, 1.5, 1.0), (1800.0, 5000.0, 1.5, 0.25 * spread_db(rng, 1.0)))
    sound += unit_rms(ring(rush, stretched(VOLUTE, body))) + 0.5 * spread_db(rng, 1.0) * rush
    sound += (0.1 + 0.9 * imbalance) * harmonics(angle, np.array([1.0, 0.5, 0.4, 0.2]), rng)
    if cavitation:
        times = passing_times(angle, VANES * (2 + 4 * rng.random()), rng, slip=0.6)
        near_vane = 0.3 + once_a_turn(VANES * np.interp(times, seconds(samples), angle), 0.15)
        strengths = near_vane * rng.lognormal(0.0, 0.5, len(times))
        sound += 1.5 * cavitation * impacts(times, strengths, BUBBLES, samples)
    if leak:
        jet = noise(rng, samples, (3000.0, 7000.0, 2.0, 1.0))
        sound += 0.4 * leak * (1 + 0.3 * np.cos(2 * np.pi * angle)) * jet
    bands = {
        "cavitation": Trace(1000.0, 8000.0),
        "imbalance": Trace(operation.speed, (VANES + 2) * operation.speed),
        "leak": Trace(2500.0, 8000.0),
    }
    return sound, bands[fault.name] if fault else None
