"""Distances between the features of clips, part by part."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Distance = Literal["cosine", "standardised"]
EPSILON = 1e-12


def directions(features: Tensor) -> Tensor:
    """Every part of every clip divided by its length: (clips, parts, dim) float32.

    Raises:
        ValueError: if a part is zero or not finite.
    """
    features = features.float()
    lengths: Tensor = features.norm(dim=-1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("an embedding is zero or not finite, so it has no direction")
    return features / lengths  # F.normalize would leave a length below 1e-12 short of one


class Scaling:
    """What makes features comparable before their distance is taken, fitted on normal clips.

    ``cosine`` divides every part by its length. ``standardised`` takes the normal clips' mean off every dimension,
    divides by their population deviation and by the square root of the part's number of dimensions, so that two
    independent clips are about sqrt(2) apart; a dimension that never varies (by more than 1e-6) does not count.
    """

    def __init__(self, normals: Tensor, distance: Distance) -> None:
        self.distance: Distance = distance
        self.mean = self.factor = torch.zeros(())
        if distance == "standardised":
            wide = normals.double()
            deviation = wide.std(dim=0, correction=0)
            self.mean = wide.mean(dim=0)
            varies = deviation > 1e-6
            size = normals.shape[-1] ** 0.5
            self.factor = torch.where(
                varies, 1.0 / (size * deviation.clamp_min(1e-6)), torch.zeros_like(deviation)
            )

    def __call__(self, features: Tensor) -> Tensor:
        """(clips, parts, dim) features, scaled: float32 directions, or float64.

        Raises:
            ValueError: if a part has no direction, or a number is not finite.
        """
        if self.distance == "cosine":
            return directions(features)
        if not bool(torch.isfinite(features).all()):
            raise ValueError("a feature is not finite")
        return (features.double() - self.mean) * self.factor

    def between(self, queries: Tensor, normals: Tensor) -> Tensor:
        """Distances of scaled parts: (queries, dim) and (normals, dim) to (queries, normals).

        ``1 - cos`` in 0 to 2, or the Euclidean distance.
        """
        if self.distance == "cosine":
            return (1.0 - queries @ normals.T).clamp(0.0, 2.0)
        return torch.cdist(queries, normals, compute_mode="donot_use_mm_for_euclid_dist")
