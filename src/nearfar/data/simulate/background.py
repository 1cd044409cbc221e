"""Background noises of a factory, without a room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nearfar.data.simulate.signals import (
    SAMPLE_RATE_HZ,
    Modes,
    Signal,
    harmonics,
    impacts,
    noise,
    passing_times,
    seconds,
    shaft_angle,
    unit_rms,
    wander,
)

ROLLER: Modes = ((520.0, 0.006, 1.0), (1250.0, 0.004, 0.8), (2700.0, 0.003, 0.5))
ANVIL: Modes = ((830.0, 0.06, 1.0), (1970.0, 0.05, 0.9), (3350.0, 0.03, 0.7), (5200.0, 0.02, 0.4))


def ventilation(rng: np.random.Generator, samples: int) -> Signal:
    """Air from a duct: pink-like, with draughts."""
    air = noise(rng, samples, (60.0, 300.0, 1.0, 1.0), (300.0, 2500.0, 1.0, 0.5))
    return air * (1 + 0.15 * np.clip(wander(rng, samples, 1.0), -2, 2))


def forklift(rng: np.random.Generator, samples: int) -> Signal:
    """An engine that revs up and down as it drives by."""
    engine = shaft_angle(rng, samples, float(rng.uniform(18.0, 32.0)), unsteadiness=0.05)
    firing = harmonics(2 * engine, 1 / np.arange(1, 25) ** 0.7, rng)
    exhaust = noise(rng, samples, (100.0, 1800.0, 1.5, 1.0)) * (1 + 0.5 * np.cos(4 * np.pi * engine))
    return unit_rms(firing) + exhaust


def conveyor(rng: np.random.Generator, samples: int) -> Signal:
    """Rattling rollers of a belt over its rumble."""
    belt = shaft_angle(rng, samples, float(rng.uniform(6.0, 11.0)), unsteadiness=0.01)
    times = passing_times(belt, 1.0, rng, slip=0.2)
    rattle = impacts(times, rng.lognormal(0.0, 0.5, len(times)), ROLLER, samples)
    return unit_rms(rattle) + 0.8 * noise(rng, samples, (80.0, 900.0, 1.0, 1.0))


def hammering(rng: np.random.Generator, samples: int) -> Signal:
    """Hammering on sheet metal: irregular ringing impacts over background noise."""
    arm = shaft_angle(rng, samples, float(rng.uniform(1.5, 3.0)), unsteadiness=0.1)
    times = passing_times(arm, 1.0, rng, slip=0.3)
    blows = impacts(times, rng.lognormal(0.0, 0.4, len(times)), ANVIL, samples)
    return unit_rms(blows) + 0.8 * noise(rng, samples, (80.0, 1200.0, 1.0, 1.0))


def air_gun(rng: np.random.Generator, samples: int) -> Signal:
    """Bursts of compressed air."""
    trigger = np.clip(3.0 * wander(rng, samples, 2.5), -3.0, 3.0)
    opening = 1 / (1 + np.exp(-3.0 * trigger))
    jet = noise(rng, samples, (1200.0, 6000.0, 1.5, 1.0))
    return opening * jet + 0.5 * noise(rng, samples, (80.0, 1200.0, 1.0, 1.0))


def grinder(rng: np.random.Generator, samples: int) -> Signal:
    """An angle grinder: gear whine that slows under load, and scraping of the disc."""
    pressed = 0.5 + 0.5 * np.tanh(2.0 * wander(rng, samples, 1.5))
    rate_hz = float(rng.uniform(480.0, 620.0)) * (1 - 0.12 * pressed)
    whine = harmonics(np.cumsum(rate_hz) / SAMPLE_RATE_HZ, [1.0, 0.6, 0.5, 0.3, 0.2], rng)
    scrape = noise(rng, samples, (900.0, 5000.0, 1.0, 1.0))
    flutter = 1 + 0.3 * np.cos(2 * np.pi * 90.0 * seconds(samples))
    return 0.7 * whine + 1.2 * pressed * flutter * scrape


NOISES: dict[str, Callable[[np.random.Generator, int], Signal]] = {
    function.__name__: function for function in (ventilation, forklift, conveyor, hammering, air_gun, grinder)
}
"""Background noises by name: functions of a generator and a number of samples; levels are arbitrary."""
