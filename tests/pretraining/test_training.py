"""The pre-training loop against one written out by hand, stopped and resumed, and how it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nearfar.checkpoint import CHECKPOINT_FILE, Identity, finished_steps
from nearfar.data.recordings import AudioFile, find_recordings
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.errors import InputError, TrainingError
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.pretraining import run as module
from nearfar.pretraining.batches import Crops
from nearfar.pretraining.model import Teacher, decay_after, frame_loss, utterance_loss
from nearfar.pretraining.recipe import Guard, PretrainRecipe
from nearfar.pretraining.run import PretrainRecord, build_student, pretrain, require_variety

CONFIG = EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=8)
IDENTITY = Identity("model", "data", "base")
RECIPE = PretrainRecipe(
    name="small",
    crop_seconds=1.0,
    masking={"clones": 3},
    decoder={"layers": 1, "groups": 4},
    teacher={"start": 0.9, "end": 0.99, "anneal_steps": 4},
    training={
        "steps": 4,
        "batch_size": 4,
        "warmup_steps": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "clip_norm": 0.5,
    },
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[AudioFile]:
    folder = tmp_path_factory.mktemp("sounds")
    for index in range(5):
        sound = 0.1 * np.random.default_rng(index).standard_normal((24_000, 2))
        soundfile.write(folder / f"{index}.wav", sound, 16_000)
    return find_recordings([folder])


def start() -> EAT:
    return build_encoder(CONFIG, seed=1)


def train(recipe: PretrainRecipe, recordings: list[AudioFile], folder: Path, **options: object) -> EAT | None:
    student = build_student(recipe, start())
    return pretrain(recipe, student, crops(recipe, recordings), folder, identity=IDENTITY, **options)


def crops(recipe: PretrainRecipe, recordings: list[AudioFile]) -> Crops:
    return Crops(recordings, recipe, CONFIG)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_equals_a_loop_written_out(recordings: list[AudioFile], tmp_path: Path) -> None:
    student, source = build_student(RECIPE, start()), crops(RECIPE, recordings)
    teacher, fbank = Teacher(student.encoder), KaldiFbank()
    decayed = [p for p in student.parameters() if p.squeeze().dim() > 1]  # all matrices, of this model
    free = [p for p in student.parameters() if p.squeeze().dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
    losses = []
    for step, rate in enumerate([5e-4, 1e-3, 1e-3, 0.0]):
        batch = source.rows(step, 0, 4)
        shape = (3, batch.masked.shape[1], 32)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in batch.noise_seeds]
        spectrogram = fbank(batch.waveform)
        targets = teacher.targets(spectrogram)
        cells, utterance = student(spectrogram, batch.masked, 0.01 * torch.cat(noise))
        loss = frame_loss(cells, targets, batch.masked) + 12 * utterance_loss(utterance, targets)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 0.5)
        optimizer.step()
        teacher.follow(student.encoder, decay_after(step + 1, 0.9, 0.99, 4))
        losses.append(float(loss.detach()))

    trained = train(RECIPE, recordings, tmp_path)
    assert trained is not None
    assert [line["loss"] for line in log_of(tmp_path)] == pytest.approx(losses, rel=1e-5)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, student.encoder.state_dict()[name], atol=1e-6, rtol=1e-4, msg=name)
    slow = train(RECIPE.with_changes(export="teacher"), recordings, tmp_path / "slow")
    assert slow is not None
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(value, teacher.encoder.state_dict()[name], atol=1e-6, rtol=1e-4, msg=name)


def test_slices_of_a_batch_add_up_to_it(recordings: list[AudioFile], tmp_path: Path) -> None:
    train(RECIPE, recordings, tmp_path / "whole")
    train(RECIPE.with_changes(**{"training.micro_batch_size": 3}), recordings, tmp_path / "sliced")
    for whole, sliced in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "sliced"), strict=True):
        for key in ("loss", "frame_loss", "utterance_loss", "gradient_norm"):
            assert sliced[key] == pytest.approx(whole[key], rel=1e-4), key


class KilledError(Exception):
    pass


def test_a_killed_and_resumed_training_ends_with_the_same_bits(
    recordings: list[AudioFile], tmp_path: Path, one_thread: None
) -> None:
    uninterrupted = train(RECIPE, recordings, tmp_path / "one")

    def die(done: int, total: int) -> None:
        if done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train(RECIPE, recordings, tmp_path / "two", progress=die)
    assert finished_steps(tmp_path / "two", IDENTITY) == 2
    assert len(log_of(tmp_path / "two")) == 3
    resumed = train(RECIPE, recordings, tmp_path / "two")
    assert uninterrupted is not None
    assert resumed is not None
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        timeless = [key for key in a if "seconds" not in key]
        assert [a[key] for key in timeless] == [b[key] for key in timeless]


def test_checkpoints_hold_the_teacher_and_belong_to_one_training(
    recordings: list[AudioFile], tmp_path: Path
) -> None:
    train(RECIPE, recordings, tmp_path)
    assert finished_steps(tmp_path, IDENTITY) == 4
    student = build_student(RECIPE, start())
    other = replace(IDENTITY, data_key="others")
    with pytest.raises(InputError, match="other training clips"):
        pretrain(RECIPE, student, crops(RECIPE, recordings), tmp_path, identity=other)


@pytest.mark.slow
def test_training_explains_the_targets(recordings: list[AudioFile], tmp_path: Path) -> None:
    """Targets have mean square 1, so predicting 0 costs sqrt(D), as the first step nearly does."""
    changes = {
        "training.steps": 60,
        "training.learning_rate": 3e-3,
        "training.utterance_weight": 1.0,
        "teacher.start": 0.999,
        "teacher.end": 0.999,
    }
    train(RECIPE.with_changes(**changes), recordings, tmp_path)
    losses = [line["frame_loss"] for line in log_of(tmp_path)]
    assert losses[0] == pytest.approx(32**0.5, rel=0.02)
    assert np.mean(losses[-5:]) < 0.75 * 32**0.5


# --- when it goes wrong -----------------------------------------------------------------------------------------


def record(step: int, targets: float, predictions: float) -> PretrainRecord:
    return PretrainRecord(step, 1.0, 1.0, 1.0, targets, predictions, 1e-3, 0.9, 1.0, 0.1, 0.0)


@pytest.mark.parametrize(
    ("targets", "predictions", "what"), [(0.05, 1.0, "targets of the teacher"), (1.0, 0.001, "predictions")]
)
def test_a_collapse_is_explained(targets: float, predictions: float, what: str) -> None:
    guard = Guard(min_target_spread=0.1, min_prediction_spread=0.01, from_step=10)
    require_variety(record(9, targets, predictions), guard)
    require_variety(record(10, 0.1, 0.01), guard)
    with pytest.raises(TrainingError, match=what) as error:
        require_variety(record(10, targets, predictions), guard)
    assert "learning_rate" in str(error.value)


def test_a_teacher_with_constant_targets_stops_training_and_keeps_the_checkpoint(
    recordings: list[AudioFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.with_changes(**{"guard.from_step": 0})
    follow = Teacher.follow

    def collapse(teacher: Teacher, student: EAT, decay: float) -> None:
        follow(teacher, student, decay)
        if decay == decay_after(3, 0.9, 0.99, 4):
            with torch.no_grad():
                for name, parameter in teacher.encoder.named_parameters():
                    if "fc2.weight" in name:
                        parameter.zero_()

    monkeypatch.setattr(Teacher, "follow", collapse)
    with pytest.raises(TrainingError, match=r"step 3: the encoder has collapsed.*0 from one another"):
        train(recipe, recordings, tmp_path)
    assert finished_steps(tmp_path, IDENTITY) == 2
    assert log_of(tmp_path)[-1]["target_spread"] == pytest.approx(0.0, abs=1e-6)


def test_a_loss_that_is_not_finite_names_step_and_files(
    recordings: list[AudioFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "frame_loss", lambda cells, *_: cells.sum() * float("nan"))
    with pytest.raises(TrainingError, match=r"step 0: the loss is nan.*\.wav"):
        train(RECIPE, recordings, tmp_path)
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_decoder_groups_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"decoder\.groups"):
        build_student(RECIPE.with_changes(**{"decoder.groups": 5}), start())


def test_bfloat16_rounds_the_same_training_and_leaves_the_weights_in_float32(
    recordings: list[AudioFile], tmp_path: Path
) -> None:
    logs = {}
    for precision in ("fp32", "bf16"):
        recipe = RECIPE.with_changes(**{"training.precision": precision})
        encoder = train(recipe, recordings, tmp_path / precision)
        assert encoder is not None
        assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
        logs[precision] = [line["frame_loss"] for line in log_of(tmp_path / precision)]
    assert logs["bf16"] == pytest.approx(logs["fp32"], rel=0.01)
    assert logs["bf16"] != pytest.approx(logs["fp32"], rel=1e-6), "bfloat16 keeps eight bits"
