"""Facts about the signal of a recording, and whether they are like those of the normal recordings.

A recording that differs in how it was made, and not in the sound of the machine, must not raise an alarm: a
microphone that is dead, overdriven or exchanged with the other one, a recording that is far quieter, shorter, or
from another recorder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nearfar.data.channel_check import is_clipped
from nearfar.data.clips import CHANNELS, Channel
from nearfar.settings import Settings
from nearfar.threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor

Waveform = NDArray[np.float32]

BANDS = 16
"""Bands of equal width from 0 to half the sample rate."""
_FFT = 1024
_QUIETER_DB = 10.0
"""A channel is quiet where it is this far below the quietest normal recording."""
_DEAD_DB = 30.0
_LOST_DB = 15.0
"""The highest two bands are missing where both are this far below those of all normal recordings."""
_FLOOR_DB = -120.0
_SHORT, _OTHER_LENGTH = 0.9, 1.5
_CLIPPED_NORMALS = 0.05
"""More clipped normal recordings than this fraction: clipping is usual here."""
_SWAP_DB = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class ChannelFacts:
    """One channel of a recording: mean power by band in dB relative to full scale, and whether peaks are cut."""

    bands_db: NDArray[np.float64]
    clipped: bool

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
    """

    residual_db: float
    coherence: float


@dataclass(frozen=True, slots=True, eq=False)
class SignalFacts:
    """A recording: the rate it was recorded at, its length, its channels by name, and what two have in common."""

    sample_rate_hz: int
    seconds: float
    channels: dict[str, ChannelFacts]
    pair: PairFacts | None = None


class ChannelProfile(Settings):
    """The range of one channel over normal recordings, in dB."""

    lowest_db: float
    highest_db: float
    lowest_shape_db: tuple[float, ...]


class Profile(Settings):
    """Ranges of the signals of the normal recordings of a machine.

    ``difference_db`` is the lowest and highest level of near minus that of far, and ``residual_db`` and
    ``coherence`` are medians of :class:`PairFacts`, where both are recorded.
    """

    sample_rates_hz: tuple[int, ...]
    shortest_s: float
    longest_s: float
    clipped: float
    channels: dict[str, ChannelProfile]
    difference_db: tuple[float, float] | None = None
    residual_db: float | None = None
    coherence: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A way in which a recording differs from the normal ones that is not the machine's.

    Attributes:
        check: ``clipped``, ``dead``, ``quiet``, ``short``, ``chain``, ``swapped`` or ``length``.
        message: what was found and expected.
        comparable: whether the recording can still be compared with the normal ones.
    """

    check: str
    message: str
    comparable: bool = False


def signal_facts(
    channels: Mapping[Channel, Waveform], recorded_hz: int, sample_rate_hz: int, *, pair: bool = False
) -> SignalFacts:
    """The facts of a recording.

    Args:
        channels: (samples,) float32 by name.
        recorded_hz: the rate that it was recorded at.
        sample_rate_hz: of the samples.
        pair: also measure what near and far have in common, where there are both.
    """
    spectra = {name: _spectra(waveform) for name, waveform in channels.items()}
    facts = {str(name): _channel_facts(spectra[name], waveform) for name, waveform in channels.items()}
    samples = next(iter(channels.values())).size
    is_pair = pair and set(CHANNELS) <= set(channels)
    shared = _pair_facts(spectra["near"], spectra["far"], samples, sample_rate_hz) if is_pair else None
    return SignalFacts(recorded_hz, samples / sample_rate_hz, facts, shared)


def channel_facts(waveform: Waveform) -> ChannelFacts:
    """The facts of (samples,) float32 of one channel."""
    return _channel_facts(_spectra(waveform), waveform)


def pair_facts(near: Waveform, far: Waveform, sample_rate_hz: int) -> PairFacts:
    """The facts of two channels (samples,) float32, by Welch's method."""
    return _pair_facts(_spectra(near), _spectra(far), len(near), sample_rate_hz)


@dataclass(frozen=True, slots=True, eq=False)
class _Spectra:
    """Spectra of Hann-windowed segments that overlap by half, each without its mean, as in Welch's method.

    Attributes:
        values: (segments, bins) complex64.
        squares: (bins,) mean squared magnitude.
        scale: (bins,) from ``squares`` to power relative to full scale: all bins but the first and that of half
            the rate also stand for a negative frequency.
    """

    values: Tensor
    squares: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def power(self) -> NDArray[np.float64]:
        """(bins,) power relative to full scale."""
        return self.squares * self.scale


@lru_cache(maxsize=8)
def _window(length: int) -> Tensor:
    import torch

    return torch.hann_window(length)


def _spectra(waveform: Waveform) -> _Spectra:
    import torch

    length = min(_FFT, len(waveform))
    with one_thread():
        segments = torch.from_numpy(waveform).unfold(0, length, length - length // 2)
        window = _window(length)
        values = torch.fft.rfft((segments - segments.mean(dim=1, keepdim=True)) * window)
        squares = torch.view_as_real(values).square().mean(dim=0).sum(dim=1).double().numpy()
    scale = np.full(len(squares), 1 / (float(window.square().sum()) * length))
    scale[1 : (length + 1) // 2] *= 2
    return _Spectra(values, squares, scale)


def _channel_facts(spectra: _Spectra, waveform: Waveform) -> ChannelFacts:
    edges = np.linspace(0, len(spectra.power), BANDS + 1).astype(int)[:-1]
    sums = np.add.reduceat(spectra.power, edges)
    return ChannelFacts(np.maximum(10 * np.log10(sums + 1e-30), _FLOOR_DB), is_clipped(waveform))


def _pair_facts(near: _Spectra, far: _Spectra, length: int, sample_rate_hz: int) -> PairFacts:
    with one_thread():
        cross = (near.values.conj() * far.values).mean(dim=0).numpy().astype(np.complex128)
    coherence = np.abs(cross) ** 2 / np.maximum(near.squares * far.squares, 1e-60)
    residual = float((near.power * np.clip(1 - coherence, 0, 1)).sum() / max(float(near.power.sum()), 1e-30))
    frequency = np.fft.rfftfreq(min(_FFT, length), 1 / sample_rate_hz)
    return PairFacts(10 * np.log10(max(residual, 1e-12)), float(coherence[frequency < 1000].mean()))


def merged_facts(pieces: Sequence[SignalFacts], seconds: float) -> SignalFacts:
    """The facts of a recording of that length from those of its pieces."""
    channels = {}
    for name in pieces[0].channels:
        of_channel = [piece.channels[name] for piece in pieces]
        power = np.mean([np.power(10, entry.bands_db / 10) for entry in of_channel], axis=0)
        channels[name] = ChannelFacts(10 * np.log10(power), any(entry.clipped for entry in of_channel))
    pairs = [piece.pair for piece in pieces if piece.pair is not None]
    pair = None
    if pairs:
        residual = np.mean([10 ** (entry.residual_db / 10) for entry in pairs])
        pair = PairFacts(float(10 * np.log10(residual)), float(np.mean([entry.coherence for entry in pairs])))
    return SignalFacts(pieces[0].sample_rate_hz, seconds, channels, pair)


def profile(facts: Sequence[SignalFacts]) -> Profile:
    """The profile of normal recordings, one or more, and of the channels that all of them have."""
    channels = {}
    shared = [name for name in facts[0].channels if all(name in entry.channels for entry in facts)]
    for name in shared:
        levels = [entry.channels[name].level_db for entry in facts]
        shapes = np.min([entry.channels[name].shape_db for entry in facts], axis=0)
        channels[name] = ChannelProfile(
            lowest_db=min(levels), highest_db=max(levels), lowest_shape_db=tuple(shapes.tolist())
        )
    differences = [found for entry in facts if (found := _difference(entry.channels)) is not None]
    pairs = [entry.pair for entry in facts if entry.pair is not None]
    return Profile(
        sample_rates_hz=tuple(sorted({entry.sample_rate_hz for entry in facts})),
        shortest_s=min(entry.seconds for entry in facts),
        longest_s=max(entry.seconds for entry in facts),
        clipped=float(np.mean([any(c.clipped for c in entry.channels.values()) for entry in facts])),
        channels=channels,
        difference_db=(min(differences), max(differences)) if differences else None,
        residual_db=float(np.median([pair.residual_db for pair in pairs])) if pairs else None,
        coherence=float(np.median([pair.coherence for pair in pairs])) if pairs else None,
    )


def problems(facts: SignalFacts, normal: Profile, window_s: float) -> list[Problem]:
    """How a recording differs from the normal ones, the gravest first.

    Args:
        facts: of the recording.
        normal: of the normal recordings of the machine.
        window_s: the length of a window in seconds; shorter recordings are padded.
    """
    found = []
    for name, channel in facts.channels.items():
        usual = normal.channels.get(name)
        if usual is None:
            continue
        below = usual.lowest_db - channel.level_db
        if below > _DEAD_DB:
            found.append(Problem("dead", f"the {name} channel is {below:.0f} dB below every normal recording"))
        elif below > _QUIETER_DB:
            message = (
                f"the {name} channel is quiet: its level of {channel.level_db:.0f} dB is {below:.0f} dB below "
                "every normal recording"
            )
            found.append(Problem("quiet", message))
        if channel.clipped and normal.clipped <= _CLIPPED_NORMALS:
            found.append(Problem("clipped", f"the {name} channel is clipped: its peaks are cut off at one value"))
        lost = (np.array(usual.lowest_shape_db) - channel.shape_db > _LOST_DB)[::-1]
        missing = BANDS if lost.all() else int(np.argmin(lost))
        if below <= _QUIETER_DB and missing >= 2:
            edge = (BANDS - missing) / (2 * BANDS)
            message = f"the {name} channel lacks the sound above {edge:.2f} of the sample rate"
            found.append(Problem("chain", f"{message} that every normal recording has"))
    if _is_swapped(facts, normal):
        message = (
            "near and far look exchanged: their levels are those of the normal recordings the other way round"
        )
        found.append(Problem("swapped", message))
    if facts.sample_rate_hz not in normal.sample_rates_hz:
        rates = ", ".join(map(str, normal.sample_rates_hz))
        message = f"recorded at {facts.sample_rate_hz} Hz, and the detector was fitted on recordings of {rates} Hz"
        found.append(Problem("chain", message))
    if facts.seconds < _SHORT * window_s:
        message = f"{facts.seconds:.3g} s is shorter than the {window_s:.3g} s that the detector compares"
        found.append(Problem("short", message))
    elif facts.seconds > _OTHER_LENGTH * normal.longest_s and normal.longest_s <= 2 * window_s:
        message = f"{facts.seconds:.4g} s long, where normal recordings have at most {normal.longest_s:.4g} s"
        found.append(Problem("length", message, comparable=True))
    return found


def _is_swapped(facts: SignalFacts, normal: Profile) -> bool:
    """Whether the difference of the levels of near and far is a normal one with the opposite sign."""
    difference = _difference(facts.channels)
    if difference is None or normal.difference_db is None:
        return False
    lowest, highest = normal.difference_db
    outside = difference < lowest - _SWAP_DB or difference > highest + _SWAP_DB
    return outside and lowest - _SWAP_DB <= -difference <= highest + _SWAP_DB


def _difference(channels: Mapping[str, ChannelFacts]) -> float | None:
    if "near" not in channels or "far" not in channels:
        return None
    return channels["near"].level_db - channels["far"].level_db
