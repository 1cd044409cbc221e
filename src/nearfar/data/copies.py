"""Recordings that hold the same sound: copies in other files, and overlapping cuts of one recording.

Every recording gets landmarks: positions that its own samples determine, each with a code of the samples around
it. Recordings with several equal codes at one lag are candidates, and are compared sample by sample there: by the
coherence of their phases over all frequencies, which is near 1 for the same sound, with another gain, sample
format or container, and small for two recordings of the same hum. Cost is linear in the number of recordings.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

_NEIGHBOURHOOD = 512
"""A landmark is the largest smoothed sample within this many samples to both sides."""
_SMOOTHING, _STEP, _BITS = 4, 3, 48
"""A code is the signs of so many slopes around the landmark, between smoothed samples this many apart."""
_VOTES = 3
"""Equal codes at one lag that make two recordings candidates."""
_COMMON = 8
"""A code in more recordings than this is of a periodic sound and says nothing."""
_COHERENT = 0.5
"""Mean cosine of the phase differences from which two pieces are the same sound."""
_EQUAL = 0.5
"""The same of landmarks alone, where the samples of one are not there any more."""
_LEAST_OVERLAP = 2048
"""Shorter overlaps are not compared."""
SAME_SHARE = 0.5
"""A recording of which at least this share is in another one adds nothing of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """The landmarks of one recording: (landmarks,) int64 samples, and the uint64 code of each."""

    samples: int
    positions: NDArray[np.int64]
    codes: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Copy:
    """Two recordings that share sound.

    Attributes:
        first, second: their indices, in order.
        lag: the sample of the first at which the second begins; negative if it begins earlier.
        share: the part of the shorter one that is in the other.
    """

    first: int
    second: int
    lag: int
    share: float


def landmarks(waveform: Waveform) -> Landmarks:
    """The landmarks of (samples,) float32."""
    padded = np.pad(waveform.astype(np.float64), (_SMOOTHING // 2, (_SMOOTHING - 1) // 2), mode="symmetric")
    smooth = np.convolve(padded, np.full(_SMOOTHING, 1 / _SMOOTHING), mode="valid")
    half = (_BITS // 2 + 1) * _STEP
    positions = _peaks(np.abs(smooth))
    positions = positions[(positions >= half) & (positions < len(waveform) - half)]
    offsets = (np.arange(_BITS + 1) - _BITS // 2) * _STEP
    around = smooth[positions[:, None] + offsets] * np.sign(smooth[positions])[:, None]
    bits = np.diff(around, axis=1) > 0
    codes = (bits.astype(np.uint64) << np.arange(_BITS, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return Landmarks(len(waveform), positions.astype(np.int64), codes)


def _peaks(size: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions of the positive samples that are the largest within the neighbourhood.

    Such a sample is the largest of its block, so that few neighbourhoods are compared.
    """
    blocks = -(-len(size) // _NEIGHBOURHOOD)
    padded = np.zeros((blocks + 2) * _NEIGHBOURHOOD)  # a block of zeros at both ends
    padded[_NEIGHBOURHOOD : _NEIGHBOURHOOD + len(size)] = size
    rows = padded.reshape(-1, _NEIGHBOURHOOD)[1:-1]
    candidates = np.flatnonzero((rows == rows.max(axis=1, keepdims=True)) & (rows > 0))
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURHOOD + 1)
    # Clipped sound has many equal samples: a part of them at a time.
    parts = [candidates[begin : begin + 4096] for begin in range(0, max(1, len(candidates)), 4096)]
    largest = np.concatenate([around[part].max(axis=1) for part in parts])
    peaks: NDArray[np.intp] = candidates[size[candidates] == largest]
    return peaks


def joined_landmarks(pieces: Sequence[tuple[int, Landmarks]]) -> Landmarks:
    """The landmarks of a recording from those of its pieces, each with its first sample."""
    positions = np.concatenate([start + piece.positions for start, piece in pieces])
    codes = np.concatenate([piece.codes for _, piece in pieces])
    _, first = np.unique(positions, return_index=True)  # pieces overlap
    return Landmarks(pieces[-1][0] + pieces[-1][1].samples, positions[first], codes[first])


def find_copies(
    marks: Sequence[Landmarks], read: Callable[[int], Waveform | None], *, since: int = 0
) -> list[Copy]:
    """Pairs of recordings that share sound.

    Args:
        marks: of every recording.
        read: from the index of a recording to its samples, for the candidates alone. Where it gives None, as of a
            file that is gone, a pair shares sound if :data:`_EQUAL` of the landmarks of its overlap have one code.
        since: only pairs whose second recording has at least this index.
    """
    of_code: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, mark in enumerate(marks):
        for position, code in zip(mark.positions.tolist(), mark.codes.tolist(), strict=True):
            of_code[code].append((index, position))
    votes: Counter[tuple[int, int, int]] = Counter()
    for places in of_code.values():
        sharing = len({index for index, _ in places})
        if not 1 < sharing <= max(_COMMON, len(marks) // 2) or len(places) > 4 * len(marks):
            continue
        for number, (first, begin) in enumerate(places):
            for second, at in places[number + 1 :]:
                if first != second and second >= since:
                    votes[first, second, begin - at] += 1
    best: dict[tuple[int, int], tuple[int, int]] = {}  # the number of votes for the best lag, and that lag
    for (first, second, lag), count in votes.items():
        if count >= _VOTES and count > best.get((first, second), (0, 0))[0]:
            best[first, second] = count, lag
    found = []
    for (first, second), (count, lag) in sorted(best.items()):
        begin, end = max(0, lag), min(marks[first].samples, lag + marks[second].samples)
        if end - begin < _LEAST_OVERLAP:
            continue
        one, other = read(first), read(second)
        if one is None or other is None:
            inside = [
                int(((mark.positions >= start) & (mark.positions < start + end - begin)).sum())
                for mark, start in ((marks[first], begin), (marks[second], begin - lag))
            ]
            same = count >= _EQUAL * min(inside)
        else:
            same = _coherence(one[begin:end], other[begin - lag : end - lag]) >= _COHERENT
        if same:
            shorter = min(marks[first].samples, marks[second].samples)
            found.append(Copy(first, second, lag, (end - begin) / shorter))
    return found


def without_copies(
    copies: Sequence[Copy], least: float = SAME_SHARE, samples: Sequence[int] | None = None
) -> dict[int, int]:
    """The recordings to leave out, each with the one that holds at least the share ``least`` of it.

    Args:
        copies: pairs of recordings that share sound.
        least: smallest share for which one is left out.
        samples: the length of every recording; of two, the shorter one is left out. By default the second.
    """

    def longer_first(copy: Copy) -> tuple[int, int]:
        first, second = copy.first, copy.second
        return (second, first) if samples is not None and samples[second] > samples[first] else (first, second)

    def order(copy: Copy) -> tuple[int, int, int]:
        return -samples[longer_first(copy)[0]] if samples is not None else 0, copy.first, copy.second

    repeats: dict[int, int] = {}
    for copy in sorted(copies, key=order):
        kept, repeat = longer_first(copy)
        if copy.share >= least and kept not in repeats and repeat not in repeats:
            repeats[repeat] = kept
    return repeats


def joined_groups(labels: Sequence[str], copies: Sequence[Copy]) -> tuple[str, ...]:
    """Group labels in which recordings that share sound are in one group."""
    parent = {label: label for label in labels}

    def root(label: str) -> str:
        while parent[label] != label:
            label = parent[label]
        return label

    for copy in copies:
        first, second = root(labels[copy.first]), root(labels[copy.second])
        parent[second] = first
    return tuple(root(label) for label in labels)


def _coherence(first: Waveform, second: Waveform) -> float:
    """Mean cosine of the phase differences of two equally long pieces, at most 1; the sign of both may differ.

    Bins without any power are left out.
    """
    window = np.hanning(len(first))  # keeps strong tones out of the bins of the noise between them
    a, b = (np.fft.rfft(window * (piece - piece.mean(dtype=np.float64))) for piece in (first, second))
    cross = a * b.conj()
    power = np.abs(cross)
    loud = power > 1e-12 * power.max()
    if not loud.any():
        return 0.0
    return float(abs((cross[loud].real / power[loud]).mean()))
