"""The encoder that comes with nearfar: its files, its card, what it computes, and that it is taken by name."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar import load_encoder
from nearfar.distillation.plan import load_distillation
from nearfar.encoders import encoder_hash, parameter_count, save_encoder
from nearfar.encoders.weights import SHIPPED_FOLDER
from nearfar.frontends.kaldi import KaldiFbank

FOLDER = SHIPPED_FOLDER / "eat-tiny"
SHA256 = "c840709b0cfbb0d45f149cbe9a4d2fc3b64be59c100dd9c45a3e3ed0260a3303"
ENCODER_HASH = "5f5bb4cac79d6b1e5b152faef7bd218ba911436c295f5d88f08c3ae95b01bda7"
FIRST_EMBEDDING = (0.38553, -0.05369, 0.28716, -0.11276, 0.24664, -0.64727, -0.27333, 0.23949)
"""The first eight of 192 numbers: mean of the patch tokens of the clip below."""


def fixed_clip() -> torch.Tensor:
    """Two seconds of a hum with a chirp over it, (1, 32000)."""
    time = torch.arange(32_000, dtype=torch.float64) / 16_000
    hum = sum(torch.sin(2 * torch.pi * 100 * k * time) / k for k in range(1, 9))
    return (0.1 * hum + 0.05 * torch.sin(2 * torch.pi * (500 + 900 * time) * time)).float()[None]


def test_weights_are_the_ones_of_the_card_and_fit_the_package() -> None:
    weights = FOLDER / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == SHA256
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000
    encoder = load_encoder("eat-tiny")
    assert encoder_hash(encoder) == ENCODER_HASH
    assert parameter_count(encoder) <= 6_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert SHA256 in card
    assert f"{parameter_count(encoder):,}" in card


def test_the_card_names_every_recording_of_esc_10_with_its_licence() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("YAMNet", "Apache-2.0", "CC BY 3.0", "nearfar distil", "seed", "ESC-10", "nearfar simulate"):
        assert word in card, word
    rows = (FOLDER / "ATTRIBUTION.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == 398
    assert all(re.search(r"\t(CC0|CC-BY)$", row.rstrip()) for row in rows)


def test_the_plan_in_the_package_fits_the_encoder() -> None:
    plan, encoder = load_distillation("eat-tiny"), load_encoder("eat-tiny")
    sizes = encoder.config
    assert (plan.embed_dim, plan.depth, plan.num_heads) == (sizes.embed_dim, sizes.depth, sizes.num_heads)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{plan.steps} steps" in card
    assert set(plan.excluded) == {"5-*", "rain/*"}


def test_the_first_embedding_of_a_fixed_clip_is_unchanged() -> None:
    with torch.inference_mode():
        embedding = load_encoder("eat-tiny")(KaldiFbank()(fixed_clip()))[0, 1:].mean(dim=0)
    np.testing.assert_allclose(embedding[:8].numpy(), FIRST_EMBEDDING, atol=2e-4)


def test_the_contrast_it_was_made_with_is_written_beside_it() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert (config["fbank_mean"], config["fbank_std"]) == (KaldiFbank().mean, KaldiFbank().std)


def test_its_name_is_taken_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(load_encoder("random:tiny"), tmp_path / "eat-tiny")
    monkeypatch.chdir(tmp_path)
    assert encoder_hash(load_encoder("eat-tiny")) == ENCODER_HASH
    assert encoder_hash(load_encoder("./eat-tiny")) == encoder_hash(load_encoder("random:tiny"))


def test_a_compact_copy_is_half_precision_without_positions(tmp_path: Path) -> None:
    encoder = load_encoder("random:tiny:3")
    save_encoder(encoder, tmp_path, compact=True)
    again = load_encoder(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.1 * parameter_count(encoder)
    for (name, kept), (_, original) in zip(again.named_parameters(), encoder.named_parameters(), strict=True):
        assert kept.dtype == torch.float32
        assert torch.equal(kept, original.half().float()), name
