"""Sub-cluster AdaCos: softmax over scaled cosines to several centres per class, with a scale that adapts itself.

AdaCos (Zhang et al., "AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face
Representations", CVPR 2019) has no margin. Its scale starts at sqrt(2) ln(C - 1) and becomes, at every step,

    s <- ln(B) / cos(min(pi / 4, theta)),    B = mean over the batch of sum_(j not of the true class) exp(s cos_j),

theta being the median over the batch of the angle to the true class. With S sub-clusters per class (Wilkinghoff,
"Sub-Cluster AdaCos: Learning Representations for Anomalous Sound Detection", IJCNN 2021) there are C S centres,
the angle to a class is that to its nearest centre, and the probability of a class is the sum of its centres'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.losses.angular import AngularLoss, Reduction


class AdaCosLoss(AngularLoss):
    """AdaCos with several centres (sub-clusters) per class.

    In training mode every forward pass first adapts the scale, from the rows of all processes. Call it as
    :meth:`AngularLoss.forward` describes.

    Args:
        sub_centers: S, centres of a class.
        trainable_centers: whether the centres are trained or keep their random start.
        adaptive_scale: whether the scale adapts itself; else it keeps its start.
        reduction: ``mean``, ``sum`` or ``none`` (one loss per row).

    Attributes:
        centres: (num_classes * sub_centers, embedding_size) float32, those of one class beside each other.
        scale: () float32, the scale of the next step; a buffer that is part of a checkpoint.

    Raises:
        ValueError: if there is no such reduction.
    """

    scale: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        sub_centers: int = 16,
        *,
        trainable_centers: bool = True,
        adaptive_scale: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            num_classes, embedding_size, sub_centers, trainable_centers=trainable_centers, reduction=reduction
        )
        start = math.sqrt(2.0) * math.log(max(num_classes * sub_centers - 1, 2))
        self.adaptive_scale = adaptive_scale
        self.register_buffer("scale", torch.tensor(start))

    def class_scores(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities, (batch, num_classes) float32; adapts the scale while training."""
        cosine = self.cosine(embeddings)
        if self.training and self.adaptive_scale:
            self.scale.copy_(self.adapted(cosine.detach(), labels))
        centres = (self.scale * cosine).log_softmax(dim=1)
        return centres.reshape(len(cosine), -1, self.sub_centers).logsumexp(dim=2)

    def row_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Negative logarithm of the probability of each row's class, (batch,) float32."""
        return F.nll_loss(scores, labels, reduction="none")

    def adapted(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """The scale after a step, () float32.

        Args:
            cosine: (batch, num_classes * sub_centers) float32.
            labels: (batch,) int64.
        """
        cosine, labels = _of_all_processes(cosine), _of_all_processes(labels)
        own = F.one_hot(labels, cosine.shape[1] // self.sub_centers).bool()
        own = own.repeat_interleave(self.sub_centers, dim=1)
        others = (self.scale * cosine).masked_fill(own, -torch.inf)
        log_b = others.flatten().logsumexp(dim=0) - math.log(len(cosine))
        nearest = cosine.masked_fill(~own, -torch.inf).amax(dim=1).clamp(-1.0, 1.0)
        angle = nearest.acos().median().clamp_max(math.pi / 4)
        # With a single class there are no others, and nothing to adapt to.
        return torch.where(torch.isfinite(log_b) & (log_b > 0), log_b / angle.cos(), self.scale)


def _of_all_processes(rows: Tensor) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    gathered = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
