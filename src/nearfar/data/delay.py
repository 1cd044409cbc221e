"""Delay and clock drift between two channels: generalised cross-correlation with phase transform.

Knapp and Carter, "The generalized correlation method for estimation of time delay", IEEE TASSP 24 (1976), with
the weight 1 / |cross-spectrum|, which gives all frequencies equal weight and a single source a sharp peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Correlations = NDArray[np.float64]

SEGMENT_S = 1.0
"""Length of the correlated segments, or a quarter of a clip shorter than four of them."""
MOST_LAG_S = 0.25
"""Longest delay, or half a segment."""
LOW_HZ, HIGH_HZ = 150.0, 7_000.0
_EDGE_S = 0.0003
"""Half the width of a peak, excluded from the energies before and after it."""
_TAIL_S = 0.03
"""Length before and after a peak in which echoes are measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Delays:
    """Correlations of far with near in the segments of a clip.

    Attributes:
        values: (segments, 2 * most + 1) float64; index ``most + k`` is far k samples later than near.
        hop_s: seconds from one segment to the next.
        rate_hz: samples a second.
    """

    values: Correlations
    hop_s: float
    rate_hz: int

    @property
    def whole(self) -> Correlations:
        """The mean over the segments."""
        return np.asarray(self.values.mean(axis=0))


def correlate(near: NDArray[np.float32], far: NDArray[np.float32], rate_hz: int) -> Delays | None:
    """Correlate half-overlapping segments of (samples,) float32 channels; None for clips shorter than 0.2 s."""
    size = int(min(SEGMENT_S * rate_hz, len(near) / 2))
    if size < 0.1 * rate_hz:
        return None
    most, hop = int(min(MOST_LAG_S * rate_hz, size // 2)), size // 2
    length = 2 ** int(np.ceil(np.log2(2 * size)))
    begins = np.arange(0, len(near) - size + 1, hop)
    window = np.hanning(size)
    a, b = (np.fft.rfft(np.stack([x[s : s + size] for s in begins]) * window, length) for x in (near, far))
    cross = b * np.conj(a)
    hz = np.fft.rfftfreq(length, 1 / rate_hz)
    weight = ((hz >= LOW_HZ) & (hz <= HIGH_HZ)) / np.maximum(np.abs(cross), 1e-12)
    rolled = np.fft.irfft(cross * weight, length)
    values = np.concatenate([rolled[:, -most:], rolled[:, : most + 1]], axis=1)
    return Delays(values, hop / rate_hz, rate_hz)


def lag_s(correlation: Correlations, rate_hz: int) -> float:
    """The delay of the highest peak in seconds, positive where far is later."""
    return float(np.argmax(correlation) - len(correlation) // 2) / rate_hz


def prominence(correlation: Correlations) -> float:
    """Ratio of the peak to the root mean square of the correlation; about 4 for noise."""
    return float(correlation.max() / max(np.sqrt(np.mean(np.square(correlation))), 1e-12))


def beyond(correlation: Correlations, limit_s: float, rate_hz: int) -> float:
    """Ratio of the highest value at delays beyond a limit to the highest within it."""
    middle, limit = len(correlation) // 2, round(limit_s * rate_hz)
    inside = np.zeros(len(correlation), dtype=bool)
    inside[max(middle - limit, 0) : middle + limit + 1] = True
    if inside.all():
        return 0.0
    return float(correlation[~inside].max() / max(correlation[inside].max(), 1e-12))


def far_leads(correlation: Correlations, rate_hz: int) -> tuple[float, float]:
    """Two ratios of correlation energy that are large if sound arrives at far first, and with fewer echoes.

    For a source close to the near microphone the energy of the correlation is at positive delays and, as echoes at
    far follow the direct sound, after the peak.

    Returns:
        ratios of energy at negative to positive delays, and before to after the peak, within 30 ms. Both are well
        below 1 for correct channels and well above 1 for swapped ones.
    """
    edge, tail = round(_EDGE_S * rate_hz), round(_TAIL_S * rate_hz)

    def energy_ratio(centre: int) -> float:
        before = correlation[max(centre - tail, 0) : max(centre - edge, 0)]
        after = correlation[centre + edge + 1 : centre + tail + 1]
        return float(np.square(before).sum() / max(np.square(after).sum(), 1e-12))

    return energy_ratio(len(correlation) // 2), energy_ratio(int(np.argmax(correlation)))


def drift(clips: list[Delays], most_ppm: float = 600.0) -> tuple[float, float]:
    """The clock drift for which the correlations of the segments, shifted accordingly, agree best.

    Args:
        clips: correlations of clips of one length; their delays may differ.

    Returns:
        drift of the far clock in parts per million (positive: far falls behind), and the ratio of the peak of the
        shifted and averaged segments to that without shifts.
    """
    segments, rate = min(len(clip.values) for clip in clips), clips[0].rate_hz
    times = clips[0].hop_s * (np.arange(segments) - (segments - 1) / 2)
    step_ppm = 0.5e6 / (rate * max(times[-1], 1e-9))  # half a sample at the ends
    steps = int(most_ppm / step_ppm)
    slopes = step_ppm * np.arange(-steps, steps + 1)
    heights = np.array([_peak(clips, np.rint(1e-6 * slope * times * rate).astype(int)) for slope in slopes])
    gain = float(heights.max() / max(heights[steps], 1e-12))
    if gain <= 1.0:  # neighbouring slopes give the same rounded shifts
        return 0.0, 1.0
    high = heights >= 0.5 * heights.max()
    return float(np.average(slopes[high], weights=heights[high])), gain


def _peak(clips: list[Delays], shifts: NDArray[np.int64]) -> float:
    """The mean over clips of the peak of the average of their segments, each moved back by its shift."""
    moved = ([np.roll(row, -s) for row, s in zip(clip.values, shifts, strict=False)] for clip in clips)
    return float(np.mean([np.mean(rows, axis=0).max() for rows in moved]))
