"""ArcFace: softmax over scaled cosines with an angular margin on the true class.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019; equation 1 of the
report.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def margin_cosine(cosine: Tensor, margin: float) -> Tensor:
    """cos(theta + m) from cos(theta), for angles of 0 to pi, without an arc cosine.

    ``cos(theta) cos(m) - sin(theta) sin(m)`` with ``sin = sqrt(1 - cos^2)`` floored, since the derivatives of both
    arccos and sqrt are infinite where an embedding meets its centre. Equation 1 is followed to the letter: beyond
    theta = pi - m, where cos(theta + m) rises again, nothing is changed.
    """
    sine = (1.0 - cosine.square()).clamp_min(1e-7).sqrt()
    return cosine * math.cos(margin) - sine * math.sin(margin)


def arcface_logits(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Logits of equation 1: s cos(theta_y + m) for the true class, s cos(theta_j) for every other.

    Args:
        cosine: (batch, classes) float32, cosines between embeddings and class centres.
        labels: (batch,) int64, the true classes.
        scale: s.
        margin: m in radians.

    Returns:
        (batch, classes) float32.
    """
    true = cosine.gather(1, labels.unsqueeze(1))
    return scale * cosine.scatter(1, labels.unsqueeze(1), margin_cosine(true, margin))


class ArcFace(nn.Module):
    """Class centres and the loss of equation 1.

    With several sub-centres per class, the cosine to a class is that to the nearest of them (Deng et al.,
    "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", ECCV 2020).

    Args:
        embedding_dim: width of an embedding.
        classes: number of composite labels.
        scale: s. margin: m in radians.
        sub_centres: K, centres of a class; those of a class lie beside each other.
        trainable: whether the centres are trained, or stay where they start.
    """

    def __init__(
        self,
        embedding_dim: int,
        classes: int,
        scale: float,
        margin: float,
        sub_centres: int = 1,
        *,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.scale, self.margin, self.sub_centres = scale, margin, sub_centres
        self.centres = nn.Parameter(torch.empty(classes * sub_centres, embedding_dim), requires_grad=trainable)
        nn.init.xavier_normal_(self.centres)

    def cosine(self, embeddings: Tensor) -> Tensor:
        """(batch, classes) float32 cosines of (batch, embedding_dim) embeddings to the class centres."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.centres.float(), dim=1).T
        if self.sub_centres == 1:
            return cosine
        return cosine.reshape(len(cosine), -1, self.sub_centres).amax(dim=2)

    def forward(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Loss per sample, (batch,) float32.

        Args:
            embeddings: (batch, embedding_dim), of any length.
            labels: (batch,) int64.
            other_labels: (batch,) int64, the second label of mixed-up samples, or None.
            share: (batch,) float32, how much of each sample is ``labels``; the rest is ``other_labels``.
        """
        cosine = self.cosine(embeddings)
        loss = F.cross_entropy(arcface_logits(cosine, labels, self.scale, self.margin), labels, reduction="none")
        if other_labels is None or share is None:
            return loss
        other = arcface_logits(cosine, other_labels, self.scale, self.margin)
        return share * loss + (1.0 - share) * F.cross_entropy(other, other_labels, reduction="none")
