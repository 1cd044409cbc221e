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
from torch import Tensor, nn
from torch.nn import functional as F


class SubClusterAdaCos(nn.Module):
    """Centres, adaptive scale and loss.

    Args:
        embedding_dim: width of an embedding.
        classes: number of composite labels.
        sub_centres: S, centres of a class.
        trainable: whether the centres are trained, or stay where they start.

    Attributes:
        centres: (classes * sub_centres, embedding_dim), those of a class beside each other.
        scale: (), the scale of the next step; a state that a checkpoint must hold.
    """

    scale: Tensor

    def __init__(self, embedding_dim: int, classes: int, sub_centres: int = 16, *, trainable: bool = True) -> None:
        super().__init__()
        self.sub_centres = sub_centres
        self.centres = nn.Parameter(torch.empty(classes * sub_centres, embedding_dim), requires_grad=trainable)
        nn.init.xavier_normal_(self.centres)
        start = math.sqrt(2.0) * math.log(max(classes * sub_centres - 1, 2))
        self.register_buffer("scale", torch.tensor(start))

    def forward(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Loss per sample, (batch,) float32; adapts the scale while training.

        Args:
            embeddings: (batch, embedding_dim), of any length.
            labels: (batch,) int64.
            other_labels: (batch,) int64, the second label of mixed-up samples, or None.
            share: (batch,) float32, how much of each sample is ``labels``; the rest is ``other_labels``.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.centres.float(), dim=1).T
        if self.training:
            self.scale.copy_(self.adapted(cosine.detach(), labels))
        by_class = (
            (self.scale * cosine).log_softmax(dim=1).reshape(len(cosine), -1, self.sub_centres).logsumexp(dim=2)
        )
        loss = F.nll_loss(by_class, labels, reduction="none")
        if other_labels is None or share is None:
            return loss
        return share * loss + (1.0 - share) * F.nll_loss(by_class, other_labels, reduction="none")

    def adapted(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """The scale after a step: () float32, from (batch, classes * sub_centres) cosines and (batch,) labels.

        Of several processes, from all their rows.
        """
        cosine, labels = _of_all_processes(cosine), _of_all_processes(labels)
        own = F.one_hot(labels, cosine.shape[1] // self.sub_centres).bool()
        own = own.repeat_interleave(self.sub_centres, dim=1)
        others = (self.scale * cosine).masked_fill(own, -torch.inf)
        log_b = others.flatten().logsumexp(dim=0) - math.log(len(cosine))
        nearest = cosine.masked_fill(~own, -torch.inf).amax(dim=1).clamp(-1.0, 1.0)
        angle = nearest.acos().median().clamp_max(math.pi / 4)
        # Where there is a single class there are no others, and nothing to adapt to.
        return torch.where(torch.isfinite(log_b) & (log_b > 0), log_b / angle.cos(), self.scale)


def _of_all_processes(rows: Tensor) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    gathered = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
