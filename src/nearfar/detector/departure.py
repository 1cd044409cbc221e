"""Where recordings depart from normal and why: the contributions to their scores, and the region they are due
to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nearfar.explain.attribution import Contribution, Part, cause, parts_of
from nearfar.explain.dimensions import Dimensions
from nearfar.explain.explanation import Explanation, explain
from nearfar.explain.localisation import PatchBank
from nearfar.scoring import MachineScorer, ViewScores

Describe = Callable[[tuple[int, int]], Dimensions]
"""From the shape (parts, dim) of features to what their dimensions describe."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a recording departs most from normal, in seconds of the recording and in hertz, and in words.

    Attributes:
        begin_s, end_s: where the map of departures is highest in these bands; to be listened to.
        low_hz, high_hz: the bands that contribute most to the score; those of the map where the back-end does not
            divide its scores among bands.
        notable: whether the score is above the threshold; without a threshold, whether the map rises further than
            that of 95 % of the normal recordings against one another.
        sentence: region, difference and share in words.
        share: the fraction of the contributions above 0 that these bands make: of the score, where none is below
            0. None where the back-end does not divide its scores among bands.
        view: the scored view that contributes most in these bands, which the sentence is about; None where
            ``share`` is.
    """

    begin_s: float
    end_s: float
    low_hz: float
    high_hz: float
    notable: bool
    sentence: str
    share: float | None = None
    view: str | None = None

    @classmethod
    def of(cls, found: Explanation) -> Departure:
        """The region and the sentence of an explanation."""
        region = (found.begin_s, found.end_s, found.low_hz, found.high_hz)
        return cls(*region, found.notable, found.sentence, found.share, found.view)


def contributions_of(
    scorer: MachineScorer,
    features: Mapping[str, Tensor],
    windows: Sequence[int],
    scores: Sequence[float],
    dimensions: Dimensions,
    scored: ViewScores | None = None,
) -> list[tuple[Part, ...]]:
    """The contributions to the scores of some windows, largest first.

    Args:
        scorer: that gave the scores.
        features: (windows, parts, dim) of every scored view.
        windows: indices of the windows.
        scores: of these windows, fused.
        dimensions: of the features of views of waveforms.
        scored: the scores of all windows, if at hand: they are not scored again then.

    Returns:
        for every window the parts that its score is made of; none where the fusion of views is no sum.
    """
    out = []
    # Each alone, so that the result does not depend on the others, not even by rounding.
    for window, score in zip(windows, scores, strict=True):
        rows = slice(window, window + 1)
        found = scorer.contributions(
            {view: values[rows] for view, values in features.items()},
            None if scored is None else scored.rows(rows),
        )
        out.append(() if found is None else parts_of(found, dimensions, 0, score))
    return out


def explanation(
    log_mel: Tensor, patches: PatchBank, parts: Sequence[Part], *, begin_s: float | None, anomalous: bool | None
) -> Explanation:
    """Explain the score of one window; arguments as :func:`nearfar.explain.explanation.explain`."""
    return explain(log_mel, patches, begin_s=begin_s, cause=cause(parts), anomalous=anomalous)


def departure(
    log_mel: Tensor | None,
    patches: PatchBank | None,
    parts: Sequence[Part],
    *,
    begin_s: float | None,
    anomalous: bool | None,
) -> Departure | None:
    """The departure of one window of a recording.

    Args:
        log_mel: (frames, 128) float32 of the window, without padding; None where it is shorter than 16 frames.
        patches: of normal recordings; None where these are too short.
        parts: that the score of the window is made of.
        begin_s: where the window begins in a longer recording; None for a whole recording.
        anomalous: whether the score is above the threshold; None without a threshold.
    """
    if log_mel is None or patches is None:
        return None
    return Departure.of(explanation(log_mel, patches, parts, begin_s=begin_s, anomalous=anomalous))


def listed(parts: Sequence[Part]) -> tuple[Contribution, ...]:
    """The numbers of contributions."""
    return tuple(part.contribution for part in parts)
