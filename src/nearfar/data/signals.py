"""Facts about the signal of a recording: levels by band, peaks that are cut off, what two channels have in common.

They describe the microphones and the recorder rather than the machine; :mod:`nearfar.data.quality` compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.data.channel_check import is_clipped
from nearfar.data.clips import CHANNELS
from nearfar.data.delay import HIGH_HZ, LOW_HZ, correlate, lag_s
from nearfar.threads import one_thread

Waveform = NDArray[np.float32]
Spectra = NDArray[np.complex64]

BANDS = 16
"""Bands of equal width from 0 to half the sample rate."""
FLOOR_DB = -120.0

_FFT = 1024
_EDGE_S = 0.0003
"""Delays up to this are of no direction."""
_MOST_BITS = 24
"""Of integer samples; finer steps cannot be distinguished from floating-point samples."""
_FIRST = 4096
_HELD_S = 0.01
"""One value for so long, between samples that differ, is of samples that were lost."""
_BITS_OF = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24}


@dataclass(frozen=True, slots=True, eq=False)
class ChannelFacts:
    """One channel of a recording.

    Attributes:
        bands_db: mean power by band in dB relative to full scale.
        clipped: whether peaks are cut off.
        lost: fraction of the samples that repeat the one before for at least 10 ms, as where samples were lost.
    """

    bands_db: NDArray[np.float64]
    clipped: bool
    lost: float = 0.0

    @property
    def level_db(self) -> float:
        """Total power in dB."""
        return float(10 * np.log10(np.power(10, self.bands_db / 10).sum()))

    @property
    def shape_db(self) -> NDArray[np.float64]:
        """(BANDS,) power relative to the total."""
        return self.bands_db - self.level_db


@dataclass(frozen=True, slots=True, eq=False)
class PairFacts:
    """Relations between near and far.

    Attributes:
        residual_db: power of near that a linear filter of far does not explain, relative to near.
        coherence: mean magnitude-squared coherence below 1 kHz.
        lead_db: energy of the correlation of both at delays of far relative to that at delays of near: above 0
            where the loudest sound arrives at near first. NaN where an earlier version measured the rest.
    """

    residual_db: float
    coherence: float
    lead_db: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class SignalFacts:
    """A recording: the rate it was recorded at, its length, its channels by name, and what two have in common.

    ``bits`` is the smallest number of bits that hold its samples, whatever the format of the file; None for
    floating-point samples.
    """

    sample_rate_hz: int
    seconds: float
    channels: dict[str, ChannelFacts]
    pair: PairFacts | None = None
    bits: int | None = None


def bits_of(samples: NDArray[np.floating], most: int | None = None) -> int | None:
    """The smallest number of bits that hold all samples in [-1, 1), at least 2; None if 24 do not.

    Args:
        samples: (channels, samples).
        most: that hold all samples, where it is known. Mostly the first samples need as many.
    """
    if most is not None and samples.shape[1] > _FIRST and bits_of(samples[:, :_FIRST]) == most:
        return most
    scaled = samples * samples.dtype.type(2 ** (_MOST_BITS - 1))
    if not np.abs(scaled).max(initial=0) <= 2 ** (_MOST_BITS - 1):  # also of NaN
        return None
    integers = scaled.astype(np.int32)
    if (integers != scaled).any():
        return None
    union = int(np.bitwise_or.reduce(integers, axis=None))
    unused = (union & -union).bit_length() - 1 if union else _MOST_BITS
    return max(_MOST_BITS - unused, 2)


def bits_of_format(subtype: str) -> int | None:
    """The bits of the samples of a file by libsndfile's name for its format; None for floating-point samples."""
    return _BITS_OF.get(subtype)


def channel_facts(waveform: Waveform) -> ChannelFacts:
    """The facts of (samples,) float32 of one channel."""
    return _channel_facts(waveform, _power(_spectra(waveform)), SAMPLE_RATE_HZ)


def pair_facts(near: Waveform, far: Waveform, sample_rate_hz: int) -> PairFacts:
    """The facts of two channels (samples,) float32, by Welch's method."""
    spectra = _spectra(near), _spectra(far)
    return _pair_facts(_power(spectra[0]), _power(spectra[1]), _cross(*spectra), sample_rate_hz)


def aligned_residual_db(near: Waveform, far: Waveform, sample_rate_hz: int) -> float:
    """:attr:`PairFacts.residual_db` once far is shifted by its delay, for a far that repeats near later."""
    found = correlate(near, far, sample_rate_hz)
    lag = 0 if found is None else round(lag_s(found.whole, sample_rate_hz) * sample_rate_hz)
    length = len(near) - abs(lag)
    begins = (0, lag) if lag >= 0 else (-lag, 0)
    one, other = (x[begin : begin + length] for x, begin in zip((near, far), begins, strict=True))
    return pair_facts(one, other, sample_rate_hz).residual_db


def signal_facts(
    channels: Mapping[str, Waveform], sample_rate_hz: int, recorded_hz: int, bits: int | None = None
) -> SignalFacts:
    """The facts of a recording from the samples (samples,) float32 of its channels.

    Args:
        channels: ``near``, ``far`` or both, of one length, at ``sample_rate_hz``.
        sample_rate_hz: of the samples.
        recorded_hz: the rate that they were recorded at.
        bits: of the samples as they were recorded, see :func:`bits_of`.
    """
    spectra = {name: _spectra(samples) for name, samples in channels.items()}
    seconds = next(iter(channels.values())).size / sample_rate_hz
    power = {name: _power(values) for name, values in spectra.items()}
    found = {name: _channel_facts(samples, power[name], sample_rate_hz) for name, samples in channels.items()}
    pair = None
    if len(spectra) > 1:
        cross = _cross(spectra["near"], spectra["far"])
        pair = _pair_facts(power["near"], power["far"], cross, sample_rate_hz)
    return SignalFacts(recorded_hz, seconds, found, pair, bits)


def _spectra(waveform: Waveform) -> Spectra:
    """(segments, bins) complex64 of half-overlapping segments without their means, as in Welch's method.

    The power spectrum of Welch is the mean over segments of the squared magnitude; one-sided, of power 1 for a
    signal of mean square 1.
    """
    length = min(_FFT, len(waveform))
    window, scale = _window_and_scale(length)
    hop = max(1, length - length // 2)
    found: Spectra
    if (torch := sys.modules.get("torch")) is None:  # as where exported detectors score
        segments = np.lib.stride_tricks.sliding_window_view(waveform, length)[::hop]
        centred = (segments - segments.mean(axis=1, keepdims=True)) * window
        found = np.fft.rfft(centred).astype(np.complex64)
    else:  # a tenth of the time
        with one_thread():
            segments = torch.from_numpy(waveform).unfold(0, length, hop)
            centred = segments - segments.mean(dim=1, keepdim=True)
            found = torch.fft.rfft(centred.mul_(torch.from_numpy(window))).numpy()
    found *= scale
    return found


@lru_cache(maxsize=8)
def _window_and_scale(length: int) -> tuple[Waveform, Waveform]:
    """A Hann window (length,), and factors of the bins after which a spectrum has the power of its signal."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    scale = np.full(length // 2 + 1, np.sqrt(2.0), np.float32)
    scale[0] = 1.0
    if length % 2 == 0:
        scale[-1] = 1.0
    return window, scale / np.float32(np.sqrt(np.square(window, dtype=np.float64).sum() * length))


def _power(spectra: Spectra) -> NDArray[np.float64]:
    squares = np.square(spectra.view(np.float32)).mean(axis=0, dtype=np.float64)
    power: NDArray[np.float64] = squares.reshape(-1, 2).sum(axis=1)
    return power


def _cross(near: Spectra, far: Spectra) -> NDArray[np.complex128]:
    """(bins,) mean of far times the conjugate of near."""
    if (torch := sys.modules.get("torch")) is None:
        total: Any = np.einsum("tf,tf->f", near.conj(), far)
    else:
        with one_thread():
            total = torch.linalg.vecdot(torch.from_numpy(near), torch.from_numpy(far), dim=0).numpy()
    return np.asarray(total / len(near), np.complex128)


def _channel_facts(waveform: Waveform, power: NDArray[np.float64], sample_rate_hz: int) -> ChannelFacts:
    edges = np.linspace(0, len(power), BANDS + 1).astype(int)[:-1]
    sums = np.add.reduceat(power, edges)
    bands_db = np.maximum(10 * np.log10(sums + 1e-30), FLOOR_DB)
    return ChannelFacts(bands_db, is_clipped(waveform), lost_fraction(waveform, sample_rate_hz))


def lost_fraction(waveform: Waveform, sample_rate_hz: int) -> float:
    """The fraction of (samples,) that repeat the sample before in runs of at least 10 ms."""
    same = waveform[1:] == waveform[:-1]
    least = round(_HELD_S * sample_rate_hz)
    if np.count_nonzero(same) < least:
        return 0.0
    bounds = np.flatnonzero(np.diff(same, prepend=False, append=False))
    lengths = bounds[1::2] - bounds[::2]
    return float(lengths[lengths >= least].sum() / len(waveform))


def _pair_facts(
    near_power: NDArray[np.float64],
    far_power: NDArray[np.float64],
    cross: NDArray[np.complex128],
    sample_rate_hz: int,
) -> PairFacts:
    coherence = np.abs(cross) ** 2 / np.maximum(near_power * far_power, 1e-60)
    residual = float((near_power * np.clip(1 - coherence, 0, 1)).sum() / max(float(near_power.sum()), 1e-30))
    hz = np.arange(len(cross)) * sample_rate_hz / (2 * (len(cross) - 1))
    low = float(coherence[hz < 1000].mean())
    return PairFacts(10 * np.log10(max(residual, 1e-12)), low, _lead_db(cross, hz, sample_rate_hz))


def _lead_db(cross: NDArray[np.complex128], hz: NDArray[np.float64], sample_rate_hz: int) -> float:
    """How much more of the correlation of both is at delays of far than at delays of near, in dB."""
    weight = ((hz >= LOW_HZ) & (hz <= HIGH_HZ)) / np.maximum(np.abs(cross), 1e-30)
    energy = np.square(np.fft.irfft(cross * weight))
    edge, longest = round(_EDGE_S * sample_rate_hz), len(energy) // 2
    later, earlier = energy[edge + 1 : longest].sum(), energy[-longest + 1 : len(energy) - edge].sum()
    return float(10 * np.log10(max(later, 1e-30) / max(earlier, 1e-30)))


def merged_facts(pieces: Sequence[SignalFacts], seconds: float) -> SignalFacts:
    """The facts of a recording of that length from those of its pieces."""
    channels = {}
    for name in pieces[0].channels:
        of_channel = [piece.channels[name] for piece in pieces]
        power = np.mean([np.power(10, entry.bands_db / 10) for entry in of_channel], axis=0)
        clipped, lost = any(entry.clipped for entry in of_channel), np.mean([entry.lost for entry in of_channel])
        channels[name] = ChannelFacts(10 * np.log10(power), clipped, float(lost))
    pairs = [piece.pair for piece in pieces if piece.pair is not None]
    pair = None
    if pairs:
        residual = np.mean([10 ** (entry.residual_db / 10) for entry in pairs])
        coherence, lead_db = (
            np.mean([getattr(entry, name) for entry in pairs]) for name in ("coherence", "lead_db")
        )
        pair = PairFacts(float(10 * np.log10(residual)), float(coherence), float(lead_db))
    bits = [entry.bits for entry in pieces]
    most = None if None in bits else max(entry for entry in bits if entry is not None)
    return SignalFacts(pieces[0].sample_rate_hz, seconds, channels, pair, most)


def facts_to_arrays(facts: Sequence[SignalFacts]) -> dict[str, NDArray[np.generic]]:
    """Facts of recordings as arrays (recordings, ...) by name; NaN or 0 stands for what a recording lacks."""
    missing = np.full(BANDS, np.nan)
    pairs = [
        [np.nan] * 3 if f.pair is None else [f.pair.residual_db, f.pair.coherence, f.pair.lead_db] for f in facts
    ]
    out: dict[str, NDArray[np.generic]] = {
        "sample_rate_hz": np.array([entry.sample_rate_hz for entry in facts], np.int64),
        "seconds": np.array([entry.seconds for entry in facts], np.float64),
        "pairs": np.array(pairs, np.float64).reshape(-1, 3),
        "bits": np.array([entry.bits or 0 for entry in facts], np.int64),
    }
    for name in CHANNELS:
        of = [entry.channels.get(name) for entry in facts]
        bands = [missing if one is None else one.bands_db for one in of]
        out[f"bands_db/{name}"] = np.array(bands, np.float64).reshape(-1, BANDS)
        out[f"clipped/{name}"] = np.array([one is not None and one.clipped for one in of], np.uint8)
        out[f"lost/{name}"] = np.array([0.0 if one is None else one.lost for one in of], np.float64)
    return out


def facts_from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[SignalFacts, ...]:
    """The inverse of :func:`facts_to_arrays`; other arrays are ignored."""
    facts = []
    for index, rate in enumerate(arrays["sample_rate_hz"].tolist()):
        channels: dict[str, ChannelFacts] = {
            name: ChannelFacts(
                np.asarray(bands, np.float64),
                bool(arrays[f"clipped/{name}"][index]),
                float(arrays[f"lost/{name}"][index]) if f"lost/{name}" in arrays else 0.0,
            )
            for name in CHANNELS
            if np.isfinite(bands := arrays[f"bands_db/{name}"][index]).all()
        }
        of_pair = arrays["pairs"][index].tolist()  # of two numbers in detectors of earlier versions
        pair = None if np.isnan(of_pair[0]) else PairFacts(*of_pair)
        bits = int(arrays["bits"][index]) or None if "bits" in arrays else None
        facts.append(SignalFacts(rate, float(arrays["seconds"][index]), channels, pair, bits))
    return tuple(facts)
