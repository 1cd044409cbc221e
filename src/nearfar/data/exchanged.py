"""Whether near and far of a recording are exchanged, from what has the opposite sign then.

These are the difference of levels, the difference of spectra and the direction of the delay between the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nearfar.data.signals import BANDS, ChannelFacts, SignalFacts
from nearfar.settings import Settings

_SWAP_DB, _SWAP_BELOW_DB = 6.0, 12.0
"""The difference of levels of exchanged channels is a normal one with the opposite sign, give or take these."""
_LEVEL_DRIFT_DB, _LEAD_DRIFT_DB, _SHAPE_DRIFT_DB = 6.0, 3.0, 1.0
"""How much the three signs of exchanged channels change between recordings by gains, noise and the machine."""
_SWAP_EVIDENCE = 3.0
"""Least log-likelihood ratio of exchanged channels. Of 2,040 normal and faulty recordings of realmix and of four
simulated machines, with gains of one channel changed by 6 dB and noise raised by 6 dB among them, none had more
than 2.1; exchanged ones of the simulated machines had 24 to 36, with these changes 0.1 to 36."""


class Usual(Settings):
    """Median over normal recordings, and the median of the distances from it times 1.48, in dB.

    A few recordings with exchanged channels among the normal ones leave both as they are.
    """

    median: float
    spread: float


class PairProfile(Settings):
    """What has the opposite sign where near and far are exchanged.

    Attributes:
        level: of the level of near minus that of far.
        lead: of :attr:`nearfar.data.signals.PairFacts.lead_db`.
        contrast_db: (BANDS,) median of the shape of near minus that of far.
        shape: of the difference of the two shapes of a recording, in the direction of ``contrast_db``.
    """

    level: Usual
    lead: Usual
    contrast_db: tuple[float, ...]
    shape: Usual


def pair_profile(facts: Sequence[SignalFacts]) -> PairProfile | None:
    """The profile of those normal recordings that have both channels; None of none."""
    both = [entry for entry in facts if entry.pair is not None]
    leads = [entry.pair.lead_db for entry in both if entry.pair is not None]
    if not leads or np.isnan(leads).any():
        return None
    contrasts = np.array([_contrast(entry.channels) for entry in both])
    typical = np.median(contrasts, axis=0)
    differences = [level_difference(entry.channels) for entry in both]
    return PairProfile(
        level=_usual([entry for entry in differences if entry is not None]),
        lead=_usual(leads),
        contrast_db=tuple(typical.tolist()),
        shape=_usual([_along(contrast, typical) for contrast in contrasts]),
    )


def _usual(values: Sequence[float]) -> Usual:
    median = float(np.median(values))
    return Usual(median=median, spread=1.4826 * float(np.median(np.abs(np.array(values) - median))))


def is_exchanged(facts: SignalFacts, difference_db: tuple[float, float], normal: PairProfile | None) -> bool:
    """Whether near and far of a recording are rather exchanged than not, compared with normal recordings.

    The three change their signs where the channels are exchanged. Each is taken as normally distributed, with the
    spread of the normal recordings and what gains, noise and the machine change between recordings; the sum of the
    logarithms of the ratio of both likelihoods decides.

    Args:
        facts: of the recording.
        difference_db: the lowest and highest level of near minus that of far of the normal recordings.
        normal: of the normal recordings, where it is known.
    """
    difference = level_difference(facts.channels)
    if difference is None:
        return False
    lowest, highest = difference_db
    if not lowest - _SWAP_BELOW_DB <= -difference <= highest + _SWAP_DB:
        return False
    middle = Usual(median=(lowest + highest) / 2, spread=(highest - lowest) / 4)
    return _exchange_evidence(facts, middle if normal is None else normal.level, normal) > _SWAP_EVIDENCE


def exchanged_among(facts: Sequence[SignalFacts]) -> list[int]:
    """Indices of the recordings whose near and far are exchanged with respect to the others; the smaller part.

    The recordings are first brought to one orientation: by the sign of their projections on the direction in
    which the differences of their channels vary most about zero. Each is then compared with all in that
    orientation, as new recordings are. Unless there is evidence for both orientations, the list is empty.
    """
    pairs = [entry.pair for entry in facts]
    if len(facts) < 2 or any(pair is None or np.isnan(pair.lead_db) for pair in pairs):
        return []
    rows = np.array([_signature(entry) for entry in facts])
    direction = np.linalg.svd(rows, full_matrices=False)[2][0]
    turned = [_exchanged(entry) if row @ direction < 0 else entry for entry, row in zip(facts, rows, strict=True)]
    normal = pair_profile(turned)
    assert normal is not None, "all have both channels"
    evidence = [_exchange_evidence(entry, normal.level, normal) for entry in facts]
    exchanged = [index for index, value in enumerate(evidence) if value > _SWAP_EVIDENCE]
    usual = [index for index, value in enumerate(evidence) if value < -_SWAP_EVIDENCE]
    return min(exchanged, usual, key=len)


def _signature(facts: SignalFacts) -> NDArray[np.float64]:
    """What has the opposite sign in exchanged channels, in units of its changes between recordings."""
    assert facts.pair is not None
    difference = level_difference(facts.channels)
    assert difference is not None, "both channels are there"
    contrast = _contrast(facts.channels) / (np.sqrt(BANDS) * _SHAPE_DRIFT_DB)
    return np.array([*contrast, difference / _LEVEL_DRIFT_DB, facts.pair.lead_db / _LEAD_DRIFT_DB])


def _exchanged(facts: SignalFacts) -> SignalFacts:
    assert facts.pair is not None
    channels = {"near": facts.channels["far"], "far": facts.channels["near"]}
    return replace(facts, channels=channels, pair=replace(facts.pair, lead_db=-facts.pair.lead_db))


def _exchange_evidence(facts: SignalFacts, level: Usual, normal: PairProfile | None) -> float:
    """The logarithm of the ratio of likelihoods of exchanged and usual channels."""
    difference = level_difference(facts.channels)
    assert difference is not None, "both channels are there"
    evidence = _evidence(difference, level, _LEVEL_DRIFT_DB)
    if normal is not None and facts.pair is not None and not np.isnan(facts.pair.lead_db):
        shape = _along(_contrast(facts.channels), np.array(normal.contrast_db))
        evidence += _evidence(facts.pair.lead_db, normal.lead, _LEAD_DRIFT_DB)
        evidence += _evidence(shape, normal.shape, _SHAPE_DRIFT_DB)
    return evidence


def _evidence(value: float, usual: Usual, drift: float) -> float:
    """The log-likelihood ratio of a value with the opposite sign; a value counts at most as much as the usual."""
    most = abs(usual.median)
    return -2.0 * usual.median * float(np.clip(value, -most, most)) / (usual.spread**2 + drift**2)


def _contrast(channels: Mapping[str, ChannelFacts]) -> NDArray[np.float64]:
    return channels["near"].shape_db - channels["far"].shape_db


def _along(contrast: NDArray[np.float64], mean: NDArray[np.float64]) -> float:
    """The size of a contrast in the direction of another one: root mean square over bands, in dB."""
    return float(contrast @ mean / np.sqrt(max(float(mean @ mean), 1e-12) * BANDS))


def level_difference(channels: Mapping[str, ChannelFacts]) -> float | None:
    """The level of near minus that of far in dB, None without both."""
    if "near" not in channels or "far" not in channels:
        return None
    return channels["near"].level_db - channels["far"].level_db
