"""Simulated rooms: impulse responses from the machine and from paths of noise sources to both microphones.

Rooms are shoeboxes, computed by the image source method (Allen and Berkley, 1979) of pyroomacoustics, once for
each machine and domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.data.clips import Domain
from nearfar.data.simulate.signals import SAMPLE_RATE_HZ, Signal, convolve, noise, rms, stream

NEAR_METRES = (0.4, 0.6)
FAR_METRES = (2.5, 3.5)
WAYPOINTS = 5
"""Points of a noise path with a computed response; a moving source is cross-faded between them."""
PATHS = 2

Point = NDArray[np.float64]
Images = NDArray[np.float64]
"""A sound at the near and the far microphone, (2, samples) float64."""


@dataclass(frozen=True, slots=True)
class Room:
    """Impulse responses at 16 kHz.

    Attributes:
        machine: (2, taps) float64, from the machine to the near and the far microphone.
        paths: (PATHS, WAYPOINTS, 2, taps) float64, from points of the noise paths to both microphones.
        far_over_near: ratio of the machine's RMS at the far and the near microphone, for a broadband source.
        near_m, far_m: distances of the microphones from the machine in metres.
    """

    machine: NDArray[np.float64]
    paths: NDArray[np.float64]
    far_over_near: float
    near_m: float
    far_m: float


def build_room(seed: int, machine: str, domain: Domain) -> Room:
    """The room of a machine in a domain. The target room is larger and more reverberant than the source room."""
    rng = stream(seed, machine, "room", domain)
    if domain == "source":
        size = rng.uniform((6.0, 6.0, 3.0), (8.0, 7.5, 3.6))
        reverberation_s = float(rng.uniform(0.22, 0.32))
    else:
        size = rng.uniform((8.0, 7.0, 3.6), (11.0, 9.0, 5.0))
        reverberation_s = float(rng.uniform(0.32, 0.42))
    source = size * rng.uniform(0.38, 0.62, 3)
    source[2] = rng.uniform(0.8, 1.2)
    near = _point_near(rng, source, NEAR_METRES, size)
    far = _point_near(rng, source, FAR_METRES, size)
    paths = [_path(rng, size, (source, near, far)) for _ in range(PATHS)]
    responses = _responses(size, reverberation_s, np.stack([source, *np.concatenate(paths)]), (near, far))
    probe = noise(rng, 2 * SAMPLE_RATE_HZ, (150.0, 4000.0, 1.0, 1.0))
    near_rms, far_rms = map(rms, convolve(probe, responses[0]))
    return Room(
        machine=responses[0],
        paths=responses[1:].reshape(PATHS, WAYPOINTS, 2, -1),
        far_over_near=far_rms / near_rms,
        near_m=float(np.linalg.norm(near - source)),
        far_m=float(np.linalg.norm(far - source)),
    )


def convolve_moving(room: Room, dry: Signal, path: int, start: float, end: float) -> Images:
    """The sound at both microphones of a source that moves along a path during the clip.

    The dry signal is cross-faded with equal power between the responses of neighbouring waypoints. ``start`` and
    ``end`` are positions on the path at the start and the end of the clip, from 0 to 1.
    """
    position = np.linspace(start, end, len(dry)) * (WAYPOINTS - 1)
    images = np.zeros((2, len(dry)))
    for waypoint in range(WAYPOINTS):
        gain = np.cos(np.pi / 2 * np.minimum(np.abs(position - waypoint), 1.0))
        if gain.max() > 1e-9:
            images += convolve(gain * dry, room.paths[path, waypoint])
    return images


def _point_near(rng: np.random.Generator, centre: Point, metres: tuple[float, float], size: Point) -> Point:
    """A point at a distance within ``metres`` from the centre, away from the walls, at about the same height."""
    while True:
        heading, height = rng.uniform(0.0, 2 * np.pi), rng.uniform(-0.2, 0.3)
        flat = np.sqrt(max(rng.uniform(*metres) ** 2 - height**2, 0.0))
        point = centre + np.array([flat * np.cos(heading), flat * np.sin(heading), height])
        if np.all(point > 0.3) and np.all(point < size - 0.3):
            return np.asarray(point)


def _path(rng: np.random.Generator, size: Point, devices: tuple[Point, ...]) -> NDArray[np.float64]:
    """Waypoints of a straight aisle of at least 3 m, at least 1.2 m from the machine and the microphones."""
    while True:
        ends = rng.uniform(0.5, size - 0.5, (2, 3))
        ends[:, 2] = rng.uniform(0.8, 1.8)
        points = ends[0] + np.linspace(0.0, 1.0, WAYPOINTS)[:, None] * (ends[1] - ends[0])
        gaps = [np.min(np.linalg.norm(points[:, :2] - other[:2], axis=1)) for other in devices]
        if np.linalg.norm(ends[1] - ends[0]) >= 3.0 and min(gaps) >= 1.2:
            return np.asarray(points)


def _responses(
    size: Point, reverberation_s: float, sources: NDArray[np.float64], microphones: tuple[Point, Point]
) -> NDArray[np.float64]:
    """Responses (sources, 2, taps), cut at the reverberation time."""
    import pyroomacoustics as pra

    absorption, order = pra.inverse_sabine(reverberation_s, size)
    room = pra.ShoeBox(size, fs=SAMPLE_RATE_HZ, materials=pra.Material(absorption), max_order=min(order, 20))
    for source in sources:
        room.add_source(source)
    room.add_microphone_array(np.stack(microphones, axis=1))
    threads = pra.constants.get("num_threads")
    pra.constants.set("num_threads", 1)  # more would sum the echoes in an order that depends on the computer
    try:
        room.compute_rir()
    finally:
        pra.constants.set("num_threads", threads)
    taps = int(reverberation_s * SAMPLE_RATE_HZ)
    responses = np.zeros((len(sources), 2, taps))
    for microphone, row in enumerate(room.rir):
        for source_index, response in enumerate(row):
            cut = np.asarray(response, dtype=np.float64)[:taps]
            responses[source_index, microphone, : len(cut)] = cut
    return responses
