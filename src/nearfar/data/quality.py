"""How a recording differs from the normal ones by the microphones or the recorder.

A recording that differs in how it was made, and not in the sound of the machine, must not raise an alarm: a
microphone that is dead, overdriven or exchanged with the other one, a recording that is far quieter, shorter, or
from another recorder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.data.exchanged import PairProfile, is_exchanged, level_difference, pair_profile
from nearfar.data.signals import BANDS, ChannelFacts, SignalFacts
from nearfar.settings import Settings

_QUIETER_DB = 10.0
"""A channel is quiet where it is this far below the quietest normal recording."""
_DEAD_DB = 30.0
_LOST_DB = 15.0
"""The highest two bands are missing where both are this far below those of all normal recordings."""
_EDGE_DB = 30.0
"""Normal recordings have no sound in their highest bands where it drops by this much from one band to the next."""
_SHORT, _OTHER_LENGTH = 0.9, 1.5
_USUAL = 0.05
"""Clipping or lost samples in more of the normal recordings than this fraction are usual here."""
_LOST = 0.01
"""Recordings with a larger fraction of lost samples have lost some."""
_COARSE_DB = 3.0
"""Quantisation decides the level of a band that is at most this far above its noise."""


class ChannelProfile(Settings):
    """The range of one channel over normal recordings, in dB."""

    lowest_db: float
    highest_db: float
    lowest_shape_db: tuple[float, ...]
    highest_shape_db: tuple[float, ...] | None = None


class Profile(Settings):
    """Ranges of the signals of the normal recordings of a machine.

    ``difference_db`` is the lowest and highest level of near minus that of far, and ``residual_db`` and
    ``coherence`` are medians of :class:`nearfar.data.signals.PairFacts`, where both are recorded. ``bits`` is the
    smallest and largest number of bits that samples have, 0 for floating-point ones, ``clipped`` and ``lost`` the
    fractions of recordings with cut peaks and with lost samples. Detectors of earlier versions have no ``pair``
    and ``bits``.
    """

    sample_rates_hz: tuple[int, ...]
    shortest_s: float
    longest_s: float
    clipped: float
    channels: dict[str, ChannelProfile]
    difference_db: tuple[float, float] | None = None
    residual_db: float | None = None
    coherence: float | None = None
    pair: PairProfile | None = None
    bits: tuple[int, int] | None = None
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """A way in which a recording differs from the normal ones that is not the machine's.

    Attributes:
        check: ``clipped``, ``lost``, ``dead``, ``quiet``, ``short``, ``chain``, ``swapped`` or ``length``.
        message: what was found and expected.
        comparable: whether the recording can still be compared with the normal ones.
    """

    check: str
    message: str
    comparable: bool = False


def profile(facts: Sequence[SignalFacts]) -> Profile:
    """The profile of normal recordings, one or more, and of the channels that all of them have."""
    channels = {}
    shared = [name for name in facts[0].channels if all(name in entry.channels for entry in facts)]
    for name in shared:
        levels = [entry.channels[name].level_db for entry in facts]
        shapes = np.array([entry.channels[name].shape_db for entry in facts])
        channels[name] = ChannelProfile(
            lowest_db=min(levels),
            highest_db=max(levels),
            lowest_shape_db=tuple(shapes.min(axis=0).tolist()),
            highest_shape_db=tuple(shapes.max(axis=0).tolist()),
        )
    differences = [found for entry in facts if (found := level_difference(entry.channels)) is not None]
    pairs = [entry.pair for entry in facts if entry.pair is not None]
    bits = [entry.bits or 0 for entry in facts]
    return Profile(
        sample_rates_hz=tuple(sorted({entry.sample_rate_hz for entry in facts})),
        shortest_s=min(entry.seconds for entry in facts),
        longest_s=max(entry.seconds for entry in facts),
        clipped=float(np.mean([any(c.clipped for c in entry.channels.values()) for entry in facts])),
        lost=float(np.mean([any(c.lost > _LOST for c in entry.channels.values()) for entry in facts])),
        channels=channels,
        difference_db=(min(differences), max(differences)) if differences else None,
        residual_db=float(np.median([pair.residual_db for pair in pairs])) if pairs else None,
        coherence=float(np.median([pair.coherence for pair in pairs])) if pairs else None,
        pair=pair_profile(facts),
        bits=(min(bits, key=_fineness), max(bits, key=_fineness)),
    )


def problems(facts: SignalFacts, normal: Profile, window_s: float) -> list[Problem]:
    """How a recording differs from the normal ones, the gravest first.

    Args:
        facts: of the recording.
        normal: of the normal recordings of the machine.
        window_s: the length of a window in seconds; shorter recordings are padded.
    """
    found: list[Problem] = []
    for name, channel in facts.channels.items():
        if name in normal.channels:
            found += _channel_problems(name, channel, normal)
    if normal.difference_db is not None and is_exchanged(facts, normal.difference_db, normal.pair):
        message = (
            "near and far look exchanged: their levels, spectra and delays are those of the normal recordings the "
            "other way round"
        )
        found.append(Problem("swapped", message))
    if (coarse := _other_bits(facts, normal)) is not None:
        found = [entry for entry in found if entry.check != "chain"]  # rounding is sound where there was none
        found.append(Problem("chain", coarse))
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


def _channel_problems(name: str, channel: ChannelFacts, normal: Profile) -> list[Problem]:
    usual, found = normal.channels[name], []
    below = usual.lowest_db - channel.level_db
    if below > _DEAD_DB:
        found.append(Problem("dead", f"the {name} channel is {below:.0f} dB below every normal recording"))
    elif below > _QUIETER_DB:
        message = (
            f"the {name} channel is quiet: its level of {channel.level_db:.0f} dB is {below:.0f} dB below "
            "every normal recording"
        )
        found.append(Problem("quiet", message))
    if channel.clipped and normal.clipped <= _USUAL:
        found.append(Problem("clipped", f"the {name} channel is clipped: its peaks are cut off at one value"))
    if channel.lost > _LOST and normal.lost <= _USUAL:
        message = (
            f"the {name} channel lost samples: {channel.lost:.0%} of it repeats one value for 10 ms or longer"
        )
        found.append(Problem("lost", message))
    missing = _from_the_top(np.array(usual.lowest_shape_db) - channel.shape_db > _LOST_DB)
    if below <= _QUIETER_DB and missing >= 2:
        message = f"the {name} channel lacks the sound above {_edge(missing)} of the sample rate"
        found.append(Problem("chain", f"{message} that every normal recording has"))
    if usual.highest_shape_db is not None:
        highest = np.array(usual.highest_shape_db)
        silent = _from_the_top(highest < highest[0] - _EDGE_DB)
        has = silent < BANDS and highest[BANDS - silent - 1] - highest[BANDS - silent :].max(initial=-np.inf)
        more = channel.shape_db[BANDS - silent :] - highest[BANDS - silent :]
        if silent and has > _EDGE_DB / 2 and more.min() > _LOST_DB:
            message = f"the {name} channel has sound above {_edge(silent)} of the sample rate"
            found.append(Problem("chain", f"{message}, where every normal recording ends"))
    return found


def _from_the_top(bands: NDArray[np.bool_]) -> int:
    """How many of the highest bands are true, one after the other."""
    return BANDS if bands.all() else int(np.argmin(bands[::-1]))


def _edge(bands: int) -> str:
    """The lower end of the highest bands, as a fraction of the sample rate."""
    return f"{(BANDS - bands) / (2 * BANDS):.2f}"


def _other_bits(facts: SignalFacts, normal: Profile) -> str | None:
    """A message if samples of another resolution change the level of bands; None if they do not.

    The same samples in another format are no difference, and a loud recording hides the noise of quantisation.
    """
    if normal.bits is None:
        return None
    coarsest, finest = normal.bits
    own = facts.bits or 0
    if _fineness(own) < _fineness(coarsest):
        bands = _quantised(lambda channel: facts.channels[channel].bands_db, own, facts, normal)
        if bands:
            usual = f"normal recordings have {_bits_text(coarsest)}"
            return f"samples of {_bits_text(own)}, whose rounding drowns {bands} of {BANDS} bands; {usual}"
    if _fineness(own) > _fineness(finest):
        bands = _quantised(
            lambda channel: (
                normal.channels[channel].lowest_db + np.array(normal.channels[channel].lowest_shape_db)
            ),
            finest,
            facts,
            normal,
        )
        if bands:
            usual = f"those of normal recordings, {_bits_text(finest)}, drown {bands} of {BANDS} bands in rounding"
            return f"samples of {_bits_text(own)}; {usual}"
    return None


def _quantised(
    bands_db: Callable[[str], NDArray[np.float64]], bits: int, facts: SignalFacts, normal: Profile
) -> int:
    """The most bands of a channel that hardly exceed the noise of samples of so many bits."""
    if not bits:
        return 0
    step_db = 20 * np.log10(2.0 ** (1 - bits)) - 10 * np.log10(12.0)
    noise_db = step_db - 10 * np.log10(BANDS * max(1.0, facts.sample_rate_hz / SAMPLE_RATE_HZ))
    names = [name for name in facts.channels if name in normal.channels]
    return max((int((bands_db(name) < noise_db + _COARSE_DB).sum()) for name in names), default=0)


def _fineness(bits: int) -> int:
    """Bits in their order: 0, of floating-point samples, is the finest."""
    return bits or 64


def _bits_text(bits: int) -> str:
    return f"{bits} bits" if bits else "floating point"
