"""Denormal numbers are flushed to zero while training, and the setting is restored afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nearfar.config import Recipe
from nearfar.training.engine import denormals_as_zero
from nearfar.training.finetune import finetune
from nearfar.training.labels import LabelledSamples


def denormals_count() -> bool:
    return float(torch.tensor([1e-38]) * 0.1) > 0


@pytest.fixture(autouse=True)
def _able() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps denormal numbers")
    torch.set_flush_denormal(False)


def test_denormals_are_zero_within_the_context_and_restored_after_an_error() -> None:
    def fail() -> None:
        with denormals_as_zero():
            assert not denormals_count()
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert denormals_count()


def test_an_earlier_setting_is_restored() -> None:
    torch.set_flush_denormal(True)
    try:
        with denormals_as_zero():
            pass
        assert not denormals_count()
    finally:
        torch.set_flush_denormal(False)


def test_denormals_are_zero_only_while_training(
    labelled: LabelledSamples, short_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[bool] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: object) -> object:
        observed.append(denormals_count())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    finetune(short_recipe.with_changes(**{"training.steps": 2}), labelled, tmp_path, data_key="data")
    assert observed == [False, False]
    assert denormals_count()
