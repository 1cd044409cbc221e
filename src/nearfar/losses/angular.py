"""The base of angular losses: class centres, cosines to them, mixed-up labels and the reduction over a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Reduction = Literal["mean", "sum", "none"]


class AngularLoss(nn.Module):
    """Base class of losses of the cosines of embeddings to class centres.

    Attributes:
        centres: (num_classes * sub_centers, embedding_size) float32, those of one class beside each other.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        sub_centers: int = 1,
        *,
        trainable_centers: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"expected reduction 'mean', 'sum' or 'none', got {reduction!r}")
        self.num_classes, self.sub_centers, self.reduction = num_classes, sub_centers, reduction
        centres = torch.empty(num_classes * sub_centers, embedding_size)
        self.centres = nn.Parameter(centres, requires_grad=trainable_centers)
        nn.init.xavier_normal_(self.centres)

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Cosines of (batch, embedding_size) to all centres, (batch, num_classes * sub_centers) float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.normalize(embeddings.float(), dim=1) @ F.normalize(self.centres.float(), dim=1).T

    def class_scores(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scores for :meth:`row_losses`, (batch, num_classes) float32, computed once for a batch: the cosines."""
        return self.cosine(embeddings)

    def row_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Loss of each row for ``labels``, (batch,) float32, from the result of :meth:`class_scores`."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        other_labels: Tensor | None = None,
        mixup_lambda: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: (batch, embedding_size) float, of any length.
            labels: (batch,) int64.
            other_labels: (batch,) int64, the second label of mixed-up samples, or None.
            mixup_lambda: (batch,) float32, the weight of ``labels``; that of ``other_labels`` is the rest.

        Returns:
            float32: () for the reductions ``mean`` and ``sum``, (batch,) for ``none``.
        """
        scores = self.class_scores(embeddings, labels)
        loss = self.row_losses(scores, labels)
        if other_labels is not None and mixup_lambda is not None:
            loss = mixup_lambda * loss + (1.0 - mixup_lambda) * self.row_losses(scores, other_labels)
        return loss if self.reduction == "none" else loss.mean() if self.reduction == "mean" else loss.sum()
