"""ArcFace: softmax over scaled cosines with an angular margin on the true class.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019; equation 1 of the
report.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from nearfar.losses.angular import AngularLoss, Reduction


def margin_cosine(cosine: Tensor, margin: float) -> Tensor:
    """cos(theta + m) from cos(theta), for angles of 0 to pi, without an arc cosine.

    ``cos(theta) cos(m) - sin(theta) sin(m)`` with ``sin = sqrt(1 - cos^2)`` floored, since the derivatives of both
    arccos and sqrt are infinite where an embedding equals its centre. Beyond theta = pi - m, where cos(theta + m)
    rises again, equation 1 is not changed either.
    """
    sine = (1.0 - cosine.square()).clamp_min(1e-7).sqrt()
    return cosine * math.cos(margin) - sine * math.sin(margin)


def arcface_logits(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Logits of equation 1: s cos(theta_y + m) for the true class, s cos(theta_j) for every other.

    ``cosine`` and the result are (batch, classes) float32, ``labels`` (batch,) int64.
    """
    true = cosine.gather(1, labels.unsqueeze(1))
    return scale * cosine.scatter(1, labels.unsqueeze(1), margin_cosine(true, margin))


class ArcFaceLoss(AngularLoss):
    """Additive angular margin loss (ArcFace), with one or several centres per class.

    The cosine to a class is that to its nearest centre (Deng et al., "Sub-center ArcFace: Boosting Face
    Recognition by Large-Scale Noisy Web Faces", ECCV 2020). Call it as :meth:`AngularLoss.forward` describes.

    Args:
        margin: m in radians.
        scale: s, by which cosines are multiplied.
        sub_centers: K, centres of a class.
        trainable_centers: whether the centres are trained or keep their random start.
        reduction: ``mean``, ``sum`` or ``none`` (one loss per row).

    Attributes:
        centres: (num_classes * sub_centers, embedding_size) float32, those of one class beside each other.

    Raises:
        ValueError: if there is no such reduction.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.2,
        scale: float = 30.0,
        sub_centers: int = 1,
        *,
        trainable_centers: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            num_classes, embedding_size, sub_centers, trainable_centers=trainable_centers, reduction=reduction
        )
        self.margin, self.scale = margin, scale

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Cosines of (batch, embedding_size) to the nearest centre of each class, (batch, num_classes) float32."""
        cosine = super().cosine(embeddings)
        if self.sub_centers == 1:
            return cosine
        return cosine.reshape(len(cosine), -1, self.sub_centers).amax(dim=2)

    def row_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of :func:`arcface_logits` for each row, (batch,) float32."""
        return F.cross_entropy(arcface_logits(scores, labels, self.scale, self.margin), labels, reduction="none")
