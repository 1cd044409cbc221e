"""Distillation: losses against plain loops, the same weights after an interruption, and a falling loss."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nearfar.checkpoint import CHECKPOINT_FILE
from nearfar.distillation import training as distillation
from nearfar.distillation.mixtures import Mixtures, sound_files
from nearfar.distillation.plan import Distillation, load_distillation
from nearfar.distillation.training import (
    SAMPLES,
    DistillationBatches,
    DistilledEncoder,
    distil,
    learning_rate_at,
    patch_statistics,
    visible_tokens,
)
from nearfar.distillation.yamnet import YAMNet
from nearfar.encoders import encoder_hash, load_encoder
from nearfar.encoders.eat import EATConfig
from nearfar.errors import InputError

SMALL = EATConfig(embed_dim=16, depth=2, num_heads=2)
PLAN = Distillation(
    embed_dim=16, depth=1, num_heads=2, steps=4, groups_per_step=2, new_per_step=1, warmup_steps=2, save_every=2
)


@pytest.fixture(scope="module")
def teacher() -> YAMNet:
    torch.manual_seed(0)
    model = YAMNet()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model.eval().requires_grad_(False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(distillation, "STATISTICS_MIXTURES", 2)
    rng = np.random.default_rng(0)
    (tmp_path / "sounds").mkdir()
    for index in range(3):
        soundfile.write(tmp_path / "sounds" / f"{index}.wav", 0.1 * rng.standard_normal(32_000), 16_000)
    return tmp_path / "sounds"


def test_statistics_of_patches_against_loops() -> None:
    fbank = torch.randn(2, 1, 32, 128, generator=torch.Generator().manual_seed(0))
    statistics = patch_statistics(fbank)
    assert statistics.shape == (2, 16, 48)
    for clip, column, band in itertools.product(range(2), range(2), range(8)):
        patch = fbank[clip, 0, 16 * column : 16 * column + 16, 16 * band : 16 * band + 16].double().numpy()
        expected = [4 * (patch.mean(axis=0) - float(fbank[clip].double().mean()))]
        for lag in (1, 4):
            squares = np.mean([(patch[n + lag] - patch[n]) ** 2 for n in range(16 - lag)], axis=0)
            expected.append(8 * np.sqrt(squares))
        np.testing.assert_allclose(statistics[clip, column * 8 + band], np.concatenate(expected), atol=1e-5)


def test_statistics_of_patches_do_not_depend_on_the_level() -> None:
    fbank = torch.randn(1, 1, 32, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(patch_statistics(fbank + 0.7), patch_statistics(fbank), atol=1e-5, rtol=1e-5)


def test_with_all_patches_visible_the_tokens_are_the_encoders() -> None:
    encoder = DistilledEncoder(SMALL, 0).encoder
    fbank = torch.randn(2, 1, 384, 128, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(192, generator=torch.Generator().manual_seed(1)).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            visible_tokens(encoder, fbank, order, 0), encoder(fbank)[:, 1:][:, order[0]], atol=2e-5, rtol=1e-4
        )


def test_a_crop_later_in_time_has_later_positions() -> None:
    encoder = DistilledEncoder(SMALL, 0).encoder
    fbank = torch.randn(1, 1, 384 + 160, 128, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(80, 80 + 192)[None]
    with torch.no_grad():
        expected = visible_tokens(encoder, fbank, kept, 0)
        torch.testing.assert_close(visible_tokens(encoder, fbank[:, :, 160:], kept - 80, 10), expected)


def test_losses_against_loops_and_without_segments_that_have_no_visible_token() -> None:
    student = DistilledEncoder(SMALL, 0)
    random = torch.Generator().manual_seed(0)
    noisy, clean = torch.randn(2, 2, 1, 384, 128, generator=random)
    targets = torch.randn(2, 4, 1024, generator=random)
    visible = torch.stack([torch.randperm(192, generator=random)[:5] for _ in range(4)])
    visible[0] = torch.tensor([0, 5, 47, 48, 191])  # nothing of segment 2
    offset = torch.tensor([0.3, -0.2])
    with torch.no_grad():
        losses = student(noisy, clean, targets, visible.view(2, 2, 5), 3, offset)
        fbank = torch.cat([noisy, clean + offset[:, None, None, None]])
        tokens = visible_tokens(student.encoder, fbank, visible, 3)
        embedding, spectrum = [], []
        for view in range(4):
            for segment in range(4):
                own = [tokens[view, n] for n in range(5) if int(visible[view, n]) // 48 == segment]
                if own:
                    guess = student.to_embedding(torch.stack(own).mean(dim=0))
                    embedding.append(float((guess - targets[view % 2, segment]).square().mean()))
            for n in range(5):
                statistics = patch_statistics(clean)[view % 2, visible[view, n]]
                spectrum.append(float((student.to_spectrum(tokens[view, n]) - statistics).square().mean()))
    assert len(embedding) < 16
    assert float(losses[0]) == pytest.approx(np.mean(embedding), rel=1e-5)
    assert float(losses[1]) == pytest.approx(np.mean(spectrum), rel=1e-5)


def test_learning_rate_rises_stays_and_falls() -> None:
    plan = Distillation(steps=100, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate_at(step, plan) for step in (0, 4, 9, 50, 79)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [learning_rate_at(step, plan) for step in (85, 90, 99)] == pytest.approx([0.75, 0.5, 0.05])


def test_an_interrupted_distillation_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, teacher: YAMNet
) -> None:
    whole = distil(PLAN, [folder], teacher, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(PLAN, [folder], teacher, tmp_path / "cut", stop)
    assert encoder_hash(distil(PLAN, [folder], teacher, tmp_path / "cut")) == encoder_hash(whole)
    assert encoder_hash(load_encoder(tmp_path / "cut")) == encoder_hash(whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
    assert load_distillation(str(tmp_path / "cut" / "distillation.toml")) == PLAN


def test_a_part_of_a_batch_is_the_batch_of_another_process(folder: Path, teacher: YAMNet) -> None:
    batches = DistillationBatches(PLAN, Mixtures(sound_files([folder]), SAMPLES, 0), teacher)
    whole, half = batches.rows(1, 0, 8), batches.rows(1, 4, 8)
    part = whole.part(slice(4, 8))
    assert (part.files, part.first_column) == (half.files, half.first_column)
    for name in ("noisy", "clean", "embedding", "visible", "offset"):
        assert torch.equal(getattr(part, name), getattr(half, name)), name
    assert whole.visible.shape[:2] == (2, 8)
    assert not torch.equal(whole.visible[0], whole.visible[1])


def test_a_checkpoint_of_another_plan_or_other_recordings_is_refused(
    folder: Path, tmp_path: Path, teacher: YAMNet
) -> None:
    out = tmp_path / "out"
    distil(PLAN, [folder], teacher, out)
    before = (out / CHECKPOINT_FILE).read_bytes()
    other = PLAN.model_copy(update={"steps": 6})
    for plan, machines, what in ((other, (), "recipe"), (PLAN, [folder], "training clips")):
        with pytest.raises(InputError, match=rf"checkpoint\.safetensors: found a checkpoint of other {what}"):
            distil(plan, [folder], teacher, out, machines=machines)
    assert (out / CHECKPOINT_FILE).read_bytes() == before


def test_machines_are_mixed_with_the_noise_of_other_recordings(
    folder: Path, tmp_path: Path, teacher: YAMNet
) -> None:
    plan = PLAN.model_copy(update={"steps": 1, "machine_share": 1.0})
    without = distil(plan, [folder], teacher, tmp_path / "without")
    with_machines = distil(plan, [folder], teacher, tmp_path / "with", machines=[folder])
    assert encoder_hash(without) != encoder_hash(with_machines)


def test_an_offset_in_decibels_is_that_gain(folder: Path, teacher: YAMNet) -> None:
    batches = DistillationBatches(PLAN, Mixtures(sound_files([folder]), SAMPLES, 0), teacher)
    waveform = 0.1 * torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0))  # far above the floor
    soft, loud = batches.fbank(waveform), batches.fbank(waveform * 10 ** (6 / 20))
    # The lowest filters are narrower than the spacing of the spectrum's lines, and some contain none.
    above = soft > soft.min() + 1e-3
    assert above.float().mean() > 0.99
    torch.testing.assert_close(loud[above], soft[above] + 6 * batches.per_decibel, atol=1e-3, rtol=0)


def test_a_step_has_at_most_as_many_new_groups_as_groups() -> None:
    with pytest.raises(ValueError, match="at most groups_per_step"):
        Distillation(groups_per_step=1, new_per_step=2)


def test_the_loss_falls(folder: Path, tmp_path: Path, teacher: YAMNet) -> None:
    plan = PLAN.model_copy(update={"steps": 12, "learning_rate": 1e-2, "save_every": 12})
    distil(plan, [folder], teacher, tmp_path / "out")
    losses = [json.loads(line)["spectrum"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])


def test_a_file_that_is_not_a_plan_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("stepz = 3\n")
    with pytest.raises(InputError, match="stepz"):
        load_distillation(str(tmp_path / "plan.toml"))
    with pytest.raises(InputError, match="keys of Distillation"):
        load_distillation(str(tmp_path / "absent.toml"))
