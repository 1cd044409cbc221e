"""Random rooms: impulse responses from a machine and from noises in the corners to both microphones.

Rooms are shoeboxes, computed by the image source method (Allen and Berkley, 1979) of pyroomacoustics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.pretraining.noise_aware.recipe import Rooms
from nearfar.training.batches import rms

_ROOM = 200
"""Purpose of the random stream of rooms."""

SABINE_S_PER_M = 0.161
MOST_ABSORBED = 0.99

Responses = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class RoomResponses:
    """Impulse responses at 16 kHz.

    Attributes:
        machine: (2, taps), from the machine to the near and the far microphone.
        noises: (noises, 2, taps).
        wanted: (taps,), the first part of the machine's response at the near microphone.
    """

    machine: Responses
    noises: Responses
    wanted: Responses


@lru_cache(maxsize=2_000)
def build_room(rooms: Rooms, seed: int, number: int) -> RoomResponses:
    """Room ``number``, a function of settings, seed and number."""
    rng = np.random.default_rng((seed, _ROOM, number))
    size = rng.uniform(*rooms.side_m, 3)
    shortest = SABINE_S_PER_M * size.prod() / (_surface(size) * MOST_ABSORBED)
    reverberation_s = rng.uniform(max(shortest, rooms.reverberation_s[0]), max(shortest, rooms.reverberation_s[1]))
    margin = max(min(rooms.far_m[1] + 0.1, 0.4 * size.min()), rooms.near_m + 0.1)
    machine = rng.uniform(margin, size - margin)
    near = machine + rooms.near_m * _direction(rng)
    far = np.clip(machine + rng.uniform(*rooms.far_m) * _direction(rng), 0.05, size - 0.05)
    corners = np.array(list(product(*((rooms.corner_m, side - rooms.corner_m) for side in size))))
    noises = corners[rng.permutation(len(corners))[: rooms.noises]]
    responses = _responses(size, reverberation_s, np.stack([machine, *noises]), (near, far), rooms)
    wanted = responses[0, 0].copy()
    wanted[int(np.abs(wanted).argmax()) + round(rooms.clean_s * SAMPLE_RATE_HZ) :] = 0.0
    return RoomResponses(responses[0], responses[1:], wanted)


def render(
    room: RoomResponses, machine: NDArray[np.float32], noises: NDArray[np.float32], snr_db: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A machine in noise at both microphones, and the wanted signal.

    Args:
        machine: (samples,), the dry sound.
        noises: (noises, samples), one for each noise source, of any level.
        snr_db: of the machine to the sum of the noises, at the near microphone.

    Returns:
        (2, samples) near and far, and (samples,), float32.
    """
    samples = len(machine)
    length = next_fast_len(samples + room.machine.shape[-1] - 1, real=True)
    sources = np.stack([noise / np.float32(rms(noise)) for noise in noises])
    dry = rfft(np.concatenate([machine[None], sources]), length, workers=1)
    responses = rfft(np.concatenate([room.machine, room.wanted[None], *room.noises]), length, workers=1)
    noise = (dry[1:, None] * responses[3:].reshape(len(noises), 2, -1)).sum(axis=0)
    received = irfft(np.concatenate([dry[:1] * responses[:3], noise]), length, workers=1)[:, :samples]
    images, wanted, noise_images = received[:2], received[2], received[3:]
    gain = rms(images[0]) / rms(noise_images[0]) * 10 ** (-snr_db / 20)
    return images + np.float32(gain) * noise_images, wanted


def _surface(size: NDArray[np.float64]) -> float:
    length, width, height = size
    return float(2 * (length * width + length * height + width * height))


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))


def _responses(
    size: NDArray[np.float64],
    reverberation_s: float,
    sources: NDArray[np.float64],
    microphones: tuple[NDArray[np.float64], NDArray[np.float64]],
    rooms: Rooms,
) -> Responses:
    """(sources, 2, taps), cut at the reverberation time."""
    import pyroomacoustics as pra

    absorbed = min(SABINE_S_PER_M * size.prod() / (_surface(size) * reverberation_s), MOST_ABSORBED)
    box = pra.ShoeBox(size, fs=SAMPLE_RATE_HZ, materials=pra.Material(absorbed), max_order=rooms.most_reflections)
    for source in sources:
        box.add_source(source)
    box.add_microphone_array(np.stack(microphones, axis=1))
    threads = pra.constants.get("num_threads")
    pra.constants.set("num_threads", 1)  # more would sum the echoes in an order that depends on the computer
    try:
        box.compute_rir()
    finally:
        pra.constants.set("num_threads", threads)
    taps = max(int(reverberation_s * SAMPLE_RATE_HZ), round(rooms.clean_s * SAMPLE_RATE_HZ))
    responses = np.zeros((len(sources), 2, taps), np.float32)
    for microphone, row in enumerate(box.rir):
        for source, response in enumerate(row):
            cut = np.asarray(response, dtype=np.float32)[:taps]
            responses[source, microphone, : len(cut)] = cut
    return responses
