"""Fusion of the scores of several views into one score per clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nearfar.registry import Entry, Registry
from nearfar.scoring.backends import Scores


@dataclass(frozen=True, kw_only=True)
class Fusion(Entry):
    """A method of fusion.

    Attributes:
        fuse: (clips,) scores and (normals,) leave-one-out scores of normal clips, both by view, to (clips,).
        uses_normals: whether the scores of normal clips are used.
    """

    fuse: Callable[[Mapping[str, Scores], Mapping[str, Scores]], Scores]
    uses_normals: bool


def mean_of_views(scores: Mapping[str, Scores]) -> Scores:
    """Mean over views of (clips,) float64 scores (section 2.5 of the report).

    Raises:
        ValueError: if there is no view, or their numbers of clips differ.
    """
    if not scores or len({len(values) for values in scores.values()}) != 1:
        raise ValueError("expected scores of one or more views, all of the same clips")
    mean: Scores = np.mean(np.stack(list(scores.values())), axis=0)
    return mean


def standardised(scores: Scores, normal_scores: Scores) -> Scores:
    """Scores (clips,) standardised by mean and deviation of leave-one-out scores of normal clips (normals,).

    If all normal scores are equal, only the mean is subtracted; if there are none, nothing.
    """
    if not normal_scores.size:
        return scores
    deviation = float(normal_scores.std())
    return (scores - float(normal_scores.mean())) / (deviation if deviation > 0 else 1.0)


def standardised_mean(scores: Mapping[str, Scores], normal_scores: Mapping[str, Scores]) -> Scores:
    """The mean over views, or members of an ensemble, of standardised scores: (clips,) float64.

    ``mean_c (s_c - mean(n_c)) / std(n_c)``, with n_c the leave-one-out scores of normal clips, so that scores do
    not depend on other test clips.

    Raises:
        ValueError: if there is no view, their numbers of clips differ, or normal scores are of other views.
    """
    if scores.keys() != normal_scores.keys():
        raise ValueError(f"expected normal scores of {', '.join(scores)}, got those of {', '.join(normal_scores)}")
    return mean_of_views({name: standardised(values, normal_scores[name]) for name, values in scores.items()})


FUSIONS: Registry[Fusion] = Registry("fusion")
FUSIONS["mean"] = Fusion(
    description="average of", fuse=lambda scores, normals: mean_of_views(scores), uses_normals=False
)
FUSIONS["standardised"] = Fusion(description="average of standardised", fuse=standardised_mean, uses_normals=True)
