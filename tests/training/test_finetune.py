"""Fine-tuning against loops written out by hand, and what a run leaves behind when it is stopped."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nearfar.checkpoint import CHECKPOINT_FILE, Identity, finished_steps
from nearfar.config import Recipe
from nearfar.encoders.eat import SIZES
from nearfar.errors import InputError, NearfarError, TrainingError
from nearfar.models import EmbedderWithLoss, build_model
from nearfar.training import finetune as module
from nearfar.training.batches import Batches
from nearfar.training.finetune import finetune
from nearfar.training.labels import LabelledSamples

BLOCKS = SIZES["tiny"].depth
EVERY_CHANGE = {
    "encoder.drop_path": 0.3,
    "augmentation.time_shift": True,
    "augmentation.gain_db": 3.0,
    "augmentation.mixup_probability": 0.5,
    "augmentation.frequency_mask_bins": 20,
    "augmentation.time_mask_frames": 20,
}
"""Stochastic depth and every augmentation."""


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_weights_equal_a_plain_adamw_loop(
    short_recipe: Recipe,
    labelled: LabelledSamples,
    tmp_path: Path,
    start_tensors,
    model_tensors,
    largest_difference,
) -> None:
    finetune(short_recipe, labelled, tmp_path, data_key="data")

    network = build_model(short_recipe, len(labelled.classes)).train()
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        is_free = name.endswith(("bias", "extra_tokens")) or ".norm" in name or "pre_norm" in name
        (free if is_free else decayed).append(parameter)
    assert decayed
    assert free
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    batches = Batches(labelled, short_recipe)
    losses, norms = [], []
    for step, rate in enumerate([5e-4, 1e-3, 1e-3, 2e-5]):  # two steps of warm-up, a cosine of two steps
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = batches.rows(step, 0, 4)
        loss = network(batch.waveform, batch.samples, batch.labels).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters())))
        optimizer.step()
        losses.append(float(loss.detach()))

    expected = {f"model.{name}": p for name, p in network.embedder.encoder.state_dict().items()}
    expected |= {f"pooling.{name}": p for name, p in network.embedder.pooling.state_dict().items()}
    expected |= {f"projection.{name}": p for name, p in network.embedder.projection.state_dict().items()}
    expected["arcface.centres"] = network.loss.centres.detach()
    start = start_tensors(short_recipe, len(labelled.classes))
    assert largest_difference(model_tensors(tmp_path), expected, start) < 1e-3
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == [0, 1, 2, 3]
    assert [entry["loss"] for entry in log] == pytest.approx(losses, rel=1e-5)
    assert [entry["gradient_norm"] for entry in log] == pytest.approx(norms, rel=1e-4)
    assert [entry["learning_rate"] for entry in log] == pytest.approx([5e-4, 1e-3, 1e-3, 2e-5])


def test_clipping_bounds_the_gradient(short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def watched(optimizer: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return step(optimizer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        clipped = short_recipe.with_changes(**{"training.clip_norm": 0.5, "training.steps": 2})
        finetune(clipped, labelled, tmp_path, data_key="data")
    assert norms == pytest.approx([0.5, 0.5], rel=1e-4)
    assert all(entry["gradient_norm"] > 0.5 for entry in log_of(tmp_path)), (
        "the log holds the norm before clipping"
    )


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_accumulated_gradients_train_the_same(
    micro_batch_size: int,
    short_recipe: Recipe,
    labelled: LabelledSamples,
    tmp_path: Path,
    start_tensors,
    model_tensors,
    largest_difference,
) -> None:
    # With seed 0, AdamW divides a gradient by a second moment so small that rounding shows (1.4e-3); with four
    # others differences are below 2e-4.
    whole = short_recipe.with_changes(**EVERY_CHANGE, seed=1)
    sliced = whole.with_changes(**{"training.micro_batch_size": micro_batch_size})
    finetune(whole, labelled, tmp_path / "whole", data_key="data")
    finetune(sliced, labelled, tmp_path / "sliced", data_key="data")
    start = start_tensors(whole, len(labelled.classes))
    one, other = model_tensors(tmp_path / "whole"), model_tensors(tmp_path / "sliced")
    assert largest_difference(one, other, start) < 1e-3
    losses = [[entry["loss"] for entry in log_of(tmp_path / name)] for name in ("whole", "sliced")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_activation_checkpointing_changes_no_bit(
    adaptation: str, short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path
) -> None:
    kept = short_recipe.with_changes(
        **EVERY_CHANGE, **{"training.adaptation": adaptation, "training.steps": 2, "lora.dropout": 0.2}
    )
    again = kept.with_changes(**{"training.activation_checkpointing": True})
    computed_twice = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def watched(*args: object, **kwargs: object) -> object:
        computed_twice.append(args)
        return checkpoint(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nearfar.encoders.eat.checkpoint", watched)
        finetune(kept, labelled, tmp_path / "kept", data_key="data")
        assert not computed_twice
        finetune(again, labelled, tmp_path / "again", data_key="data")
    assert len(computed_twice) == 2 * BLOCKS, "every block in each of two steps"
    weights = "encoder/model.safetensors" if adaptation == "full" else "adapter/adapter_model.safetensors"
    for name in (weights, "head.safetensors"):
        one, other = load_file(tmp_path / "kept" / name), load_file(tmp_path / "again" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_what_trains(
    adaptation: str,
    short_recipe: Recipe,
    labelled: LabelledSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything in full fine-tuning; adapters, pooling, projection and class centres in LoRA."""
    recipe = short_recipe.with_changes(**{"training.adaptation": adaptation})
    before = {
        name: p.detach().clone() for name, p in build_model(recipe, len(labelled.classes)).named_parameters()
    }
    after = {}
    monkeypatch.setattr(module, "save_model", lambda folder, network, *_: after.update(network.named_parameters()))
    finetune(recipe, labelled, tmp_path, data_key="data")
    assert before.keys() == after.keys()
    trained = {name for name in before if not torch.equal(before[name], after[name])}
    if adaptation == "full":
        assert trained == before.keys()
    else:
        ends = ("lora_A.default.weight", "lora_B.default.weight")
        head = ("embedder.pooling.", "embedder.projection.", "loss.centres")
        assert trained == {name for name in before if name.endswith(ends) or name.startswith(head)}
        adapters = {name for name in trained if "lora" in name}
        assert len(adapters) == BLOCKS * 2 * 2, "A and B of qkv and proj in every block"


def test_loss_that_overflows_stops_with_step_and_files(
    short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path
) -> None:
    recipe = short_recipe.with_changes(
        **{"training.learning_rate": 1e30, "training.warmup_steps": 0, "training.checkpoint_every": 1}
    )
    with pytest.raises(TrainingError) as caught:
        finetune(recipe, labelled, tmp_path, data_key="data")
    batches = Batches(labelled, recipe)
    message = str(caught.value)
    assert message.startswith("step 1: the ")
    assert all(file in message for file in batches.rows(1, 0, 4).files)
    assert "training.learning_rate" in message
    assert not (tmp_path / "model.json").exists()
    assert finished_steps(tmp_path, Identity(recipe.model_key(), "data")) == 1
    assert [entry["step"] for entry in log_of(tmp_path)] == [0]


def test_a_nan_in_one_slice_names_the_files_of_that_slice(
    short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = EmbedderWithLoss.forward

    def spoilt(self: EmbedderWithLoss, *args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        loss = forward(self, *args, **kwargs)
        return loss * float("nan") if len(calls) == 6 else loss

    monkeypatch.setattr(EmbedderWithLoss, "forward", spoilt)
    recipe = short_recipe.with_changes(**{"training.micro_batch_size": 1})
    with pytest.raises(TrainingError, match="step 1: the loss is nan") as caught:
        finetune(recipe, labelled, tmp_path, data_key="data")
    files = Batches(labelled, recipe).rows(1, 0, 4).files
    assert files[1] in str(caught.value)
    assert not any(file in str(caught.value) for file in set(files) - {files[1]})


def test_gradient_that_overflows_spoils_no_checkpoint(
    short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = EmbedderWithLoss.forward

    def steep(self: EmbedderWithLoss, *args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        loss = forward(self, *args, **kwargs)
        # A square root at zero: the loss is as finite as before, its derivative is not.
        return loss + (0.0 * self.loss.centres.sum()).sqrt() if len(calls) == 3 else loss

    monkeypatch.setattr(EmbedderWithLoss, "forward", steep)
    recipe = short_recipe.with_changes(**{"training.checkpoint_every": 1})
    with pytest.raises(TrainingError, match="step 2: the gradient norm is nan"):
        finetune(recipe, labelled, tmp_path, data_key="data")
    assert finished_steps(tmp_path, Identity(recipe.model_key(), "data")) == 2
    kept = load_file(tmp_path / CHECKPOINT_FILE)
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_model_that_cannot_be_written_keeps_the_checkpoint(
    short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_model", full)
    with pytest.raises(NearfarError, match=r"cannot write the trained model.*No space left.*checkpoint is kept"):
        finetune(short_recipe, labelled, tmp_path, data_key="data")
    monkeypatch.undo()
    assert finished_steps(tmp_path, Identity(short_recipe.model_key(), "data")) == 2
    finetune(short_recipe, labelled, tmp_path, data_key="data")
    assert [entry["step"] for entry in log_of(tmp_path)] == [0, 1, 2, 3]
    assert (tmp_path / "model.json").is_file()
    assert not (tmp_path / CHECKPOINT_FILE).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_run_killed_by_sigkill_resumes_bit_for_bit(
    small_factory: Path, short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path, model_tensors
) -> None:
    recipe = short_recipe.with_changes(
        **EVERY_CHANGE, **{"training.steps": 24, "training.checkpoint_every": 5, "name": "killed"}
    )
    (tmp_path / "killed.toml").write_text(recipe.to_toml())
    log = tmp_path / "run" / "model" / "log.jsonl"
    command = [sys.executable, "-m", "nearfar", "run", str(tmp_path / "killed.toml")]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--data", str(small_factory), "--out", str(tmp_path / "run")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=stderr,
        )
        deadline = time.monotonic() + 120
        while not (log.is_file() and '"step": 7' in log.read_text()):
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline, "it never came to step 7"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed = tmp_path / "run" / "model"
    assert not (killed / "model.json").exists()
    data_key = data_key_of(killed)
    done = finished_steps(killed, Identity(recipe.model_key(), data_key))
    before = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 5 <= done < 24
    assert done % 5 == 0
    assert len(before) >= done, "the log must not lag behind the checkpoint"

    counted = []
    finetune(
        recipe, labelled, killed, data_key=data_key, progress=lambda done, total: counted.append((done, total))
    )
    finetune(recipe, labelled, tmp_path / "whole", data_key=data_key)
    assert counted == [(step + 1, 24) for step in range(done, 24)], "only what was missing is trained"
    one, other = model_tensors(killed), model_tensors(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    resumed, whole = log_of(killed), log_of(tmp_path / "whole")
    for entry in (*resumed, *whole):
        del entry["seconds"]
    assert resumed == whole
    assert [json.loads(line)["loss"] for line in before[:done]] == [entry["loss"] for entry in whole[:done]]


def data_key_of(folder: Path) -> str:
    from safetensors import safe_open

    with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
        return file.metadata()["data_key"]


def test_log_is_cut_back_to_the_checkpoint(
    short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path
) -> None:
    """Steps after the checkpoint, and a line that was cut off in the middle, are written anew."""

    class StoppedError(Exception):
        pass

    def stop_at_three(done: int, total: int) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        finetune(short_recipe, labelled, tmp_path, data_key="data", progress=stop_at_three)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')
    finetune(short_recipe, labelled, tmp_path, data_key="data")
    assert [entry["step"] for entry in log_of(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("change", [{"training.learning_rate": 0.5}, {"training.steps": 5}, {"seed": 1}])
def test_checkpoint_of_another_recipe_is_refused(
    change: dict[str, float],
    short_recipe: Recipe,
    labelled: LabelledSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "save_model", lambda *_: None)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    finetune(short_recipe, labelled, tmp_path, data_key="data")
    monkeypatch.undo()
    kept = (tmp_path / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: found a checkpoint of other recipe"):
        finetune(short_recipe.with_changes(**change), labelled, tmp_path, data_key="data")
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == kept
    # What only decides speed does not make another model.
    faster = short_recipe.with_changes(**{"training.micro_batch_size": 2, "training.loader_threads": 1})
    finetune(faster, labelled, tmp_path, data_key="data")
