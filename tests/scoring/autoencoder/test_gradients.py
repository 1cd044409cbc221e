"""Gradients without autograd against autograd."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from nearfar.encoders import linear
from nearfar.scoring.autoencoder.gradients import LossGradients
from nearfar.scoring.autoencoder.network import Autoencoder


def networks() -> tuple[Autoencoder, Autoencoder]:
    torch.manual_seed(0)
    network = Autoencoder().train()
    return network, deepcopy(network)


@pytest.mark.parametrize("vectors", [2, 33, 256])
def test_loss_gradients_and_running_statistics_are_those_of_autograd(vectors: int) -> None:
    ours, plain = networks()
    gradients_of = LossGradients(ours)
    for seed in range(3):
        batch = 5 * torch.randn(vectors, 640, generator=torch.Generator().manual_seed(seed)) - 40
        loss = F.mse_loss(plain(batch), batch)
        plain.zero_grad()
        loss.backward()
        assert torch.equal(gradients_of(batch), loss.detach())
        for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad), name
    for (name, one), other in zip(ours.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other), name
    assert int(ours.encoder[1].num_batches_tracked) == 3


def test_where_onednn_is_not_used_autograd_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, plain = networks()
    batch = torch.randn(16, 640)
    calls = []
    monkeypatch.setattr(LossGradients, "_without_autograd", lambda self, batch: calls.append(batch))
    with monkeypatch.context() as without:
        without.setattr(linear, "HAS_ONEDNN", False)
        loss = LossGradients(ours)(batch)
        F.mse_loss(plain(batch), batch).backward()
    assert not calls
    assert not loss.requires_grad
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    if linear.HAS_ONEDNN:
        LossGradients(ours)(batch)
        assert len(calls) == 1
