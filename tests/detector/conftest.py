"""Normal recordings as features, without audio, and a detector of recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import nearfar
from nearfar.config import Recipe, load_recipe
from nearfar.data.clips import Clip
from nearfar.pipeline.extraction import Extracted


@pytest.fixture(scope="session")
def plain() -> Recipe:
    """Plain cosine distances of one view: a bank can only lower scores by growing."""
    return load_recipe("frozen-near").with_changes(
        **{"audio.clip_seconds": 1.0, "scoring.distance": "cosine", "scoring.normalisation": "none"}
    )


@pytest.fixture(scope="session")
def make_extracted() -> Callable[..., Extracted]:
    """Windows with these features (windows, parts, dim), each a recording by default, of one second each."""

    def make(features: np.ndarray, recording: np.ndarray | None = None) -> Extracted:
        of = np.arange(len(features)) if recording is None else recording
        begins = np.array([float((of[:index] == of[index]).sum()) for index in range(len(of))])
        return Extracted({"near": [torch.from_numpy(features).float()]}, of, begins, begins + 1, {})

    return make


@pytest.fixture(scope="session")
def make_clips() -> Callable[..., list[Clip]]:
    """Normal clips of one machine, the last of them of the target domain."""

    def make(count: int, target: int = 0) -> list[Clip]:
        names = [f"{index:04d}.wav" for index in range(count)]
        domains = ["source"] * (count - target) + ["target"] * target
        return [
            Clip(Path(name), "fan", "00", "train", domain, "normal", None, (), name)
            for name, domain in zip(names, domains, strict=True)
        ]

    return make


@pytest.fixture(scope="session")
def fitted(small_factory: Path) -> nearfar.Detector:
    """A detector of both machines of the small factory, by the default recipe."""
    return nearfar.Detector.fit(small_factory)
