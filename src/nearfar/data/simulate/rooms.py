"""The room a machine stands in: impulse responses from the machine and from paths of noise to both microphones.

Rooms are shoeboxes by the image source method (Allen and Berkley, 1979) as pyroomacoustics computes it. They
are computed once for each machine and domain; clips are then rendered by multiplying spectra.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from nearfar.data.clips import Domain
from nearfar.data.simulate.signals import SAMPLE_RATE_HZ, Signal, noise, rms, stream

NEAR_METRES = (0.4, 0.6)
FAR_METRES = (2.5, 3.5)
WAYPOINTS = 5
"""Points of a noise path for which responses are computed; between them a moving source is cross-faded."""
PATHS = 2

Point = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Room:
    """Impulse responses at 16 kHz.

    Attributes:
        machine: (2, taps) float64, from the machine to the near and the far microphone.
        paths: (PATHS, WAYPOINTS, 2, taps) float64, from points of the noise's paths to both microphones.
        far_over_near: how much of the machine arrives far, as the ratio of RMS at the far and near microphone
            for a broadband source.
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
    near = _around(rng, source, NEAR_METRES, size)
    far = _around(rng, source, FAR_METRES, size)
    paths = [_path(rng, size, (source, near, far)) for _ in range(PATHS)]
    responses = _responses(size, reverberation_s, np.stack([source, *np.concatenate(paths)]), (near, far))
    probe = noise(rng, 2 * SAMPLE_RATE_HZ, (150.0, 4000.0, 1.0, 1.0))
    heard = [rms(image) for image in _convolved(probe, responses[0])]
    return Room(
        machine=responses[0],
        paths=responses[1:].reshape(PATHS, WAYPOINTS, 2, -1),
        far_over_near=heard[1] / heard[0],
        near_m=float(np.linalg.norm(near - source)),
        far_m=float(np.linalg.norm(far - source)),
    )


def carry(room: Room, dry: Signal) -> NDArray[np.float64]:
    """What the microphones hear of the machine: (2, samples)."""
    return _convolved(dry, room.machine)


def carry_moving(room: Room, dry: Signal, path: int, start: float, end: float) -> NDArray[np.float64]:
    """What the microphones hear of a source that moves along a path during the clip: (2, samples).

    The dry signal is shared out between neighbouring waypoints with equal power, according to where the source
    is at each moment, and each share goes through the response of its waypoint.

    Args:
        path: which path.
        start, end: where on it the source is at first and at last; 0 is one end and 1 the other.
    """
    place = np.linspace(start, end, len(dry)) * (WAYPOINTS - 1)
    images = np.zeros((2, len(dry)))
    for waypoint in range(WAYPOINTS):
        share = np.cos(np.pi / 2 * np.minimum(np.abs(place - waypoint), 1.0))
        if share.max() > 1e-9:
            images += _convolved(share * dry, room.paths[path, waypoint])
    return images


def _convolved(dry: Signal, responses: NDArray[np.float64]) -> NDArray[np.float64]:
    length = next_fast_len(len(dry) + responses.shape[-1] - 1, real=True)
    spectra = rfft(dry, length) * rfft(responses, length)
    return np.asarray(irfft(spectra, length)[..., : len(dry)])


def _around(rng: np.random.Generator, centre: Point, metres: tuple[float, float], size: Point) -> Point:
    """A point at a distance within ``metres`` from the centre, off the walls, at about the height of a table."""
    while True:
        heading, height = rng.uniform(0.0, 2 * np.pi), rng.uniform(-0.2, 0.3)
        flat = np.sqrt(max(rng.uniform(*metres) ** 2 - height**2, 0.0))
        point = centre + np.array([flat * np.cos(heading), flat * np.sin(heading), height])
        if np.all(point > 0.3) and np.all(point < size - 0.3):
            return np.asarray(point)


def _path(rng: np.random.Generator, size: Point, keep_off: tuple[Point, ...]) -> NDArray[np.float64]:
    """Waypoints of a straight aisle of at least 3 m, at least 1.2 m from the machine and the microphones."""
    while True:
        ends = rng.uniform(0.5, size - 0.5, (2, 3))
        ends[:, 2] = rng.uniform(0.8, 1.8)
        points = ends[0] + np.linspace(0.0, 1.0, WAYPOINTS)[:, None] * (ends[1] - ends[0])
        gaps = [np.min(np.linalg.norm(points[:, :2] - other[:2], axis=1)) for other in keep_off]
        if np.linalg.norm(ends[1] - ends[0]) >= 3.0 and min(gaps) >= 1.2:
            return np.asarray(points)


def _responses(
    size: Point, reverberation_s: float, sources: NDArray[np.float64], microphones: tuple[Point, Point]
) -> NDArray[np.float64]:
    """Responses (sources, 2, taps), cut where they have died away."""
    import pyroomacoustics as pra

    absorption, order = pra.inverse_sabine(reverberation_s, size)
    room = pra.ShoeBox(size, fs=SAMPLE_RATE_HZ, materials=pra.Material(absorption), max_order=min(order, 20))
    for source in sources:
        room.add_source(source)
    room.add_microphone_array(np.stack(microphones, axis=1))
    threads = pra.constants.get("num_threads")
    pra.constants.set("num_threads", 1)  # more would sum the echoes in another order on another computer
    try:
        room.compute_rir()
    finally:
        pra.constants.set("num_threads", threads)
    taps = int(reverberation_s * SAMPLE_RATE_HZ)
    responses = np.zeros((len(sources), 2, taps))
    for microphone, row in enumerate(room.rir):
        for source_index, response in enumerate(row):
            kept = np.asarray(response, dtype=np.float64)[:taps]
            responses[source_index, microphone, : len(kept)] = kept
    return responses
