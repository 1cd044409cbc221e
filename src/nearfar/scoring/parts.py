"""How the scores of the parts of features, such as bands, make one score: by weights that add up to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

OverParts = Literal["mean", "max", "softmax"]


def _mean(scores: Tensor) -> Tensor:
    return torch.full_like(scores, 1.0 / len(scores))


def _max(scores: Tensor) -> Tensor:
    weights = torch.zeros_like(scores)
    return weights.scatter_(0, scores.argmax(dim=0, keepdim=True), 1.0)


def _softmax(scores: Tensor) -> Tensor:
    """In units of the deviation over the parts of a clip, so that the scale of scores has no effect."""
    centred = scores - scores.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    return torch.softmax(centred / deviation.clamp_min(1e-12), dim=0)


WEIGHTS: dict[OverParts, Callable[[Tensor], Tensor]] = {"mean": _mean, "max": _max, "softmax": _softmax}
"""Weights (parts, clips) from scores (parts, clips)."""


def over_parts(scores: Tensor, how: OverParts) -> Tensor:
    """The score of every clip, from those of its parts, (parts, clips); infinite where all parts are."""
    if len(scores) == 1:
        return scores[0]
    if how == "mean":  # also of infinite scores
        return scores.mean(dim=0)
    absent = ~torch.isfinite(scores).all(dim=0)
    found = (WEIGHTS[how](scores.masked_fill(absent, 0.0)) * scores.masked_fill(absent, 0.0)).sum(dim=0)
    return torch.where(absent, scores.mean(dim=0), found)
