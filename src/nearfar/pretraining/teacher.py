"""The teacher of EAT's pre-training: a slow average of the student's encoder, which sees whole clips.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024, section 3.1; targets
as Baevski et al., "data2vec", ICML 2022, section 3.3.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.encoders.eat import EAT, Block

_NORM_EPS = 1e-5


def decay_after(update: int, start: float, end: float, anneal_updates: int) -> float:
    """The teacher's decay at update number ``update``, counted from 1: linear from start to end, then constant."""
    if update >= anneal_updates:
        return end
    return end - (end - start) * (1.0 - update / anneal_updates)


class Teacher:
    """An encoder without gradient that follows the student's.

    Args:
        student: the encoder to start from; it is copied. Weights stay float32.
    """

    def __init__(self, student: EAT) -> None:
        self.encoder = deepcopy(student).float().eval().requires_grad_(False)

    @torch.no_grad()
    def targets(self, fbank: Tensor) -> Tensor:
        """What the student is to predict, see :func:`layer_targets`: (clips, 1, T, 128) to (clips, cells, D).

        One pass per clip serves all its masked views.
        """
        x = self.encoder.embed(fbank)
        fed = []
        for block in self.encoder.blocks:
            assert isinstance(block, Block)
            x, output = block.with_fed(x)
            fed.append(output[:, 1:])
        return layer_targets(fed)

    @torch.no_grad()
    def follow(self, student: EAT, decay: float) -> None:
        """``teacher = decay * teacher + (1 - decay) * student``, parameter by parameter."""
        for mine, theirs in zip(self.encoder.parameters(), student.parameters(), strict=True):
            mine.mul_(decay).add_(theirs.to(mine.dtype), alpha=1.0 - decay)


def layer_targets(fed: list[Tensor]) -> Tensor:
    """Targets from the MLP outputs of all blocks, CLS left out.

    Each block's output is brought to mean 0 and deviation 1 over the cells of each channel (instance norm); the
    mean over blocks likewise over the channels of each cell (layer norm).

    Args:
        fed: per block (clips, cells, D), before residual and norm2.

    Returns:
        (clips, cells, D) float32.
    """
    with torch.autocast(fed[0].device.type, enabled=False):
        total = torch.zeros_like(fed[0], dtype=torch.float32)
        for output in fed:
            variance, mean = torch.var_mean(output.float(), dim=1, correction=0, keepdim=True)
            total += (output.float() - mean) * torch.rsqrt(variance + _NORM_EPS)
        mean_of_layers = total / len(fed)
        return F.layer_norm(mean_of_layers, mean_of_layers.shape[-1:], eps=_NORM_EPS)
