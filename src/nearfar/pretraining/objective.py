"""EAT's self-supervised losses: masked cells and whole utterances, both against the teacher's targets.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024, equations 2 to 4, in
the weighting that the published code ends up with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def frame_loss(cells: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """Squared error at masked cells: summed over channels, divided by sqrt(D), mean over the masked cells.

    Args:
        cells: (clips * clones, cells, D), the student's prediction.
        targets: (clips, cells, D), the teacher's.
        masked: (clips * clones, cells) bool.

    Returns:
        A float32 scalar.
    """
    view, cell = torch.nonzero(masked, as_tuple=True)
    clones = len(masked) // len(targets)
    difference = cells[view, cell].float() - targets[view // clones, cell].float()
    return difference.square().sum() / (len(view) * math.sqrt(cells.shape[-1]))


def utterance_loss(utterance: Tensor, targets: Tensor) -> Tensor:
    """Squared error of CLS against a clip's mean target: summed over channels, over sqrt(D), mean over views.

    Upstream multiplies the *sum* over a process's views with the number of masked cells and divides the whole by
    that number, so its weight beside :func:`frame_loss` is the number of views in a process's batch (192 in EAT's
    setting of 12 clips with 16 masks), not 1.

    Args:
        utterance: (clips * clones, D), the student's CLS.
        targets: (clips, cells, D), the teacher's.

    Returns:
        A float32 scalar.
    """
    wanted = targets.float().mean(dim=1).repeat_interleave(len(utterance) // len(targets), dim=0)
    difference = utterance.float() - wanted
    return difference.square().sum() / (len(utterance) * math.sqrt(utterance.shape[-1]))


def spread(rows: Tensor) -> Tensor:
    """How much vectors differ from one another: the deviation over all of them, mean over channels.

    It falls towards 0 when a model collapses, that is, says the same of everything.

    Args:
        rows: (..., D).
    """
    return rows.detach().float().flatten(0, -2).std(dim=0, correction=0).mean()
