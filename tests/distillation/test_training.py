"""Distillation: losses against plain loops, the same weights after an interruption, and a student that learns."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nearfar.distillation import training as distillation
from nearfar.distillation.mixtures import Mixtures, sound_files
from nearfar.distillation.plan import Distillation, load_distillation
from nearfar.distillation.training import (
    SAMPLES,
    Lesson,
    Lessons,
    Student,
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


def test_a_student_that_sees_everything_is_the_encoder() -> None:
    encoder = Student(SMALL, 0).encoder
    fbank = torch.randn(2, 1, 384, 128, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(192, generator=torch.Generator().manual_seed(1)).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            visible_tokens(encoder, fbank, order, 0), encoder(fbank)[:, 1:][:, order[0]], atol=2e-5, rtol=1e-4
        )


def test_a_crop_later_in_time_has_later_positions() -> None:
    encoder = Student(SMALL, 0).encoder
    fbank = torch.randn(1, 1, 384 + 160, 128, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(80, 80 + 192)[None]
    with torch.no_grad():
        expected = visible_tokens(encoder, fbank, kept, 0)
        torch.testing.assert_close(visible_tokens(encoder, fbank[:, :, 160:], kept - 80, 10), expected)


def test_losses_against_loops_and_without_segments_that_nobody_heard() -> None:
    student = Student(SMALL, 0)
    random = torch.Generator().manual_seed(0)
    heard, wanted = torch.randn(2, 2, 1, 384, 128, generator=random)
    lesson = Lesson(heard, wanted, torch.randn(2, 4, 1024, generator=random))
    kept = torch.stack([torch.randperm(192, generator=random)[:5] for _ in range(4)])
    kept[0] = torch.tensor([0, 5, 47, 48, 191])  # hears nothing of segment 2
    offset = torch.tensor([0.3, -0.2])
    with torch.no_grad():
        losses = student.losses(lesson, kept, 3, offset)
        fbank = torch.cat([heard, wanted + offset[:, None, None, None]])
        tokens = visible_tokens(student.encoder, fbank, kept, 3)
        embedding, spectrum = [], []
        for view in range(4):
            for segment in range(4):
                own = [tokens[view, n] for n in range(5) if int(kept[view, n]) // 48 == segment]
                if own:
                    guess = student.to_embedding(torch.stack(own).mean(dim=0))
                    embedding.append(float((guess - lesson.embedding[view % 2, segment]).square().mean()))
            for n in range(5):
                statistics = patch_statistics(wanted)[view % 2, kept[view, n]]
                spectrum.append(float((student.to_spectrum(tokens[view, n]) - statistics).square().mean()))
    assert len(embedding) < 16
    assert float(losses.embedding) == pytest.approx(np.mean(embedding), rel=1e-5)
    assert float(losses.spectrum) == pytest.approx(np.mean(spectrum), rel=1e-5)


def test_learning_rate_rises_stays_and_falls() -> None:
    plan = Distillation(steps=100, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate_at(step, plan) for step in (0, 4, 9, 50, 79)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [learning_rate_at(step, plan) for step in (85, 90, 99)] == pytest.approx([0.75, 0.5, 0.05])


def test_what_was_interrupted_ends_at_the_same_weights(folder: Path, tmp_path: Path, teacher: YAMNet) -> None:
    whole = distil(PLAN, [folder], teacher, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(PLAN, [folder], teacher, tmp_path / "cut", stop)
    assert encoder_hash(distil(PLAN, [folder], teacher, tmp_path / "cut")) == encoder_hash(whole)
    assert encoder_hash(load_encoder(tmp_path / "cut")) == encoder_hash(whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2, 3]
    assert load_distillation(str(tmp_path / "cut" / "distillation.toml")) == PLAN


def test_a_checkpoint_of_another_plan_or_other_recordings_is_refused(
    folder: Path, tmp_path: Path, teacher: YAMNet
) -> None:
    out = tmp_path / "out"
    distil(PLAN, [folder], teacher, out)
    before = (out / "checkpoint" / "state.safetensors").read_bytes()
    other = PLAN.model_copy(update={"steps": 6})
    for plan, machines, what in ((other, (), "plan"), (PLAN, [folder], "recordings")):
        with pytest.raises(InputError, match=rf"state\.safetensors: found a checkpoint of other {what}"):
            distil(plan, [folder], teacher, out, machines=machines)
    assert (out / "checkpoint" / "state.safetensors").read_bytes() == before


def test_machines_are_heard_in_the_noise_of_other_recordings(
    folder: Path, tmp_path: Path, teacher: YAMNet
) -> None:
    plan = PLAN.model_copy(update={"steps": 1, "machine_share": 1.0})
    without = distil(plan, [folder], teacher, tmp_path / "without")
    with_machines = distil(plan, [folder], teacher, tmp_path / "with", machines=[folder])
    assert encoder_hash(without) != encoder_hash(with_machines)


def test_an_offset_of_so_many_decibels_is_that_gain(folder: Path, teacher: YAMNet) -> None:
    lessons = Lessons(Mixtures(sound_files([folder]), SAMPLES, 0), teacher)
    waveform = 0.1 * torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0))  # far above the floor
    soft, loud = lessons.fbank(waveform), lessons.fbank(waveform * 10 ** (6 / 20))
    heard = (
        soft > soft.min() + 1e-3
    )  # the lowest filters are narrower than the spectrum's lines, and some hold none
    assert heard.float().mean() > 0.99
    torch.testing.assert_close(loud[heard], soft[heard] + 6 * lessons.per_decibel, atol=1e-3, rtol=0)


def test_a_step_has_at_most_as_many_new_groups_as_groups() -> None:
    with pytest.raises(ValueError, match="at most groups_per_step"):
        Distillation(groups_per_step=1, new_per_step=2)


def test_a_student_learns_its_lessons(folder: Path, tmp_path: Path, teacher: YAMNet) -> None:
    plan = PLAN.model_copy(update={"steps": 60, "new_per_step": 1, "learning_rate": 3e-3, "save_every": 60})
    distil(plan, [folder], teacher, tmp_path / "out")
    losses = [json.loads(line)["spectrum"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_plan_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("stepz = 3\n")
    with pytest.raises(InputError, match="stepz"):
        load_distillation(str(tmp_path / "plan.toml"))
    with pytest.raises(InputError, match="keys of Distillation"):
        load_distillation(str(tmp_path / "absent.toml"))
