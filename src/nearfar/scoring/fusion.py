"""From one score per channel to one score per clip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def mean_of_channels(scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Score-level averaging (section 2.5 of the report); one channel alone passes unchanged.

    Args:
        scores: (clips,) float64 for each channel of the system.

    Returns:
        (clips,) float64.

    Raises:
        ValueError: if there is no channel, or their numbers of clips differ.
    """
    if not scores or len({len(values) for values in scores.values()}) != 1:
        raise ValueError("expected scores of one or more channels, all of the same clips")
    mean: NDArray[np.float64] = np.mean(np.stack(list(scores.values())), axis=0)
    return mean


def standardised(scores: NDArray[np.float64], normal_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores on the scale of normal clips: their mean taken off, divided by their population deviation.

    Args:
        scores: (clips,) float64.
        normal_scores: (normals,) leave-one-out scores of normal training clips by the same scorer.

    Returns:
        (clips,) float64; only the mean is taken off where normal clips do not differ or are fewer than two.
    """
    if not normal_scores.size:
        return scores
    deviation = float(normal_scores.std())
    return (scores - float(normal_scores.mean())) / (deviation if deviation > 0 else 1.0)


def standardised_mean(
    scores: Mapping[str, NDArray[np.float64]], normal_scores: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The mean over channels, or members of an ensemble, of scores on the scale of normal clips.

    ``mean_c (s_c - mean(n_c)) / std(n_c)``, with n_c the leave-one-out scores of normal training clips: no test
    clip decides how another is scaled.

    Args:
        scores: (clips,) float64 of every channel.
        normal_scores: (normals,) float64 of the same channels.

    Returns:
        (clips,) float64.

    Raises:
        ValueError: if there is no channel, their numbers of clips differ, or normal scores are of other channels.
    """
    if scores.keys() != normal_scores.keys():
        raise ValueError(f"expected normal scores of {', '.join(scores)}, got those of {', '.join(normal_scores)}")
    return mean_of_channels({name: standardised(values, normal_scores[name]) for name, values in scores.items()})


def fuse(
    scores: Mapping[str, NDArray[np.float64]], normal_scores: Mapping[str, NDArray[np.float64]], fusion: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One score per clip from one per view, for test clips and in the same way for normal ones.

    Args:
        scores: (clips,) of every view.
        normal_scores: (normals,) leave-one-out scores of every view.
        fusion: ``mean``, or ``standardised`` for the mean of standardised scores.

    Returns:
        (clips,) and (normals,) float64.
    """
    if fusion == "standardised":
        return standardised_mean(scores, normal_scores), standardised_mean(normal_scores, normal_scores)
    return mean_of_channels(scores), mean_of_channels(normal_scores)
