"""How the scores of the parts of features, such as bands, make one score: by weights that add up to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

OverParts = Literal["mean", "max", "softmax"]


class Reduction(NamedTuple):
    """From scores (parts, clips): the score of each clip, and the weights (parts, clips) of its finite parts.

    A clip without an entry to compare a part with has an infinite score, or NaN.
    """

    score: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor], Tensor]


def _equal_weights(scores: Tensor) -> Tensor:
    return torch.ones_like(scores) / len(scores)


def _weight_of_largest(scores: Tensor) -> Tensor:
    parts = torch.arange(len(scores))[:, None]
    return (parts == scores.argmax(dim=0)).to(scores.dtype)


def _softmax_weights(scores: Tensor) -> Tensor:
    """In units of the deviation over the parts of a clip, so that the scale of scores has no effect."""
    centred = scores - scores.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    return torch.softmax(centred / deviation.clamp_min(1e-12), dim=0)


def _softmax_mean(scores: Tensor) -> Tensor:
    found = (_softmax_weights(scores) * scores).sum(dim=0)
    return torch.where(torch.isfinite(scores).all(dim=0), found, scores.mean(dim=0))


REDUCTIONS: dict[OverParts, Reduction] = {
    "mean": Reduction(lambda scores: scores.mean(dim=0), _equal_weights),
    "max": Reduction(lambda scores: scores.amax(dim=0), _weight_of_largest),
    "softmax": Reduction(_softmax_mean, _softmax_weights),
}
"""By the value of ``scoring.over_parts``."""
