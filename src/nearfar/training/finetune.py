"""Fine-tuning: one loop, on one process or many, that can be killed and resumed at any step.

Section 2.3 of the report: AdamW, all parameters (full) or adapters, pooling and head (LoRA), ArcFace on composite
labels.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from torch import Tensor, nn

from nearfar.config import Recipe, Training
from nearfar.data.prefetch import prefetched
from nearfar.encoders import stochastic_depth
from nearfar.errors import InputError, NearfarError, TrainingError
from nearfar.models import EmbedderWithLoss, build_model, save_model
from nearfar.training.batches import Batch, Batches, depth_generator
from nearfar.training.checkpoint import CHECKPOINT_FILE, Identity, load_checkpoint, save_checkpoint
from nearfar.training.denormals import denormals_as_zero
from nearfar.training.labels import LabelledSamples
from nearfar.training.step_log import open_step_log

StepProgress = Callable[[int, int], None]
"""Called with the number of finished and of all steps."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of ``log.jsonl``; ``seconds`` are from the end of one step to that of the next."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


class RateSchedule(Protocol):
    """The keys of a training table that decide the learning rate."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def final_learning_rate(self) -> float: ...


class Engine(Protocol):
    """The keys of a training table that decide how it is computed."""

    @property
    def batch_size(self) -> int: ...
    @property
    def precision(self) -> str: ...


def learning_rate(step: int, training: RateSchedule) -> float:
    """Linear warm-up to the maximum, then a cosine to the final rate at the last step (0-based)."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    span = max(1, training.steps - 1 - training.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * (step - training.warmup_steps) / span))
    return training.final_learning_rate + (training.learning_rate - training.final_learning_rate) * cosine


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and the CLS token do not."""
    decays = {name: parameter.squeeze().dim() > 1 for name, parameter in parameters.items()}
    return [
        {"params": [p for name, p in parameters.items() if decays[name]], "weight_decay": weight_decay},
        {"params": [p for name, p in parameters.items() if not decays[name]], "weight_decay": 0.0},
    ]


def is_main_process() -> bool:
    """Whether this process is the only one, or the first, of a distributed launch."""
    return bool(PartialState(cpu=_without_gpu()).is_main_process)


def _without_gpu() -> bool:
    # accelerate takes processes that share a machine without a GPU for strangers unless it is told to use the CPU,
    # and would train on Apple's GPU, which the rest of nearfar does not use.
    return not torch.cuda.is_available()


def make_accelerator(training: Engine) -> Accelerator:
    """The distributed engine with the recipe's precision.

    Raises:
        InputError: if the batch does not divide over the processes.
    """
    bf16 = training.precision == "bf16" or (
        training.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    precision = "bf16" if bf16 else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # A process that trained before may train in another precision; accelerate by itself refuses.
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=_without_gpu(),
        mixed_precision=precision,
        # The only buffers are constants; broadcasting the table of positions at every step would be waste.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if training.batch_size % accelerator.num_processes:
        raise InputError(
            "training.batch_size",
            found=f"{training.batch_size} samples for {accelerator.num_processes} processes",
            expected="a multiple of the number of processes",
            remedy="Change the batch size or the number of processes",
        )
    return accelerator


@denormals_as_zero()
def finetune(
    recipe: Recipe,
    labelled: LabelledSamples,
    folder: Path,
    *,
    data_key: str,
    progress: StepProgress | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> bool:
    """Train the model of a recipe into a model folder, from the start or from its last checkpoint.

    Args:
        recipe: resolved, so ``audio.clip_seconds`` is a number.
        labelled: the training samples with their composite classes.
        folder: the model folder; holds ``checkpoint.safetensors`` and ``log.jsonl`` while training and the model
            (see :mod:`nearfar.models.folder`) at the end.
        data_key: identity of the training data; a checkpoint of other data is refused.
        progress: called after each step, on the main process.
        on_step: called with each step's record on the main process, for instance to write TensorBoard files.

    Returns:
        Whether this is the main process; the others should stop.

    Raises:
        TrainingError: if the loss or its gradient is not finite, with the step and the files of the batch.
        InputError: if a recording cannot be used, or the folder holds another run's checkpoint.
        NearfarError: if a checkpoint or the model cannot be written.
    """
    accelerator = make_accelerator(recipe.training)
    network = build_model(recipe, len(labelled.classes))
    network.train()
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = _adamw(trainable, recipe.training)
    identity = Identity(recipe.model_key(), data_key, network.base_hash)
    folder.mkdir(parents=True, exist_ok=True)
    network.to(accelerator.device)
    adapting = dict(network.loss.named_buffers())
    start = load_checkpoint(folder, trainable, optimizer, identity, adapting)
    # DDP copies the first process's weights when it wraps, so this comes after the checkpoint is read.
    wrapped, engine = _wrapped(accelerator, network, optimizer)
    loop = _Loop(recipe, accelerator, wrapped, engine, trainable, _batches(recipe, labelled))
    with open_step_log(folder / "log.jsonl", start, accelerator.is_main_process) as log:
        for record in loop.run(start):
            finished = record.step + 1
            if accelerator.is_main_process:
                print(json.dumps(_as_dict(record)), file=log, flush=True)
                if on_step is not None:
                    on_step(record)
                if finished % recipe.training.checkpoint_every == 0 and finished < recipe.training.steps:
                    save_checkpoint(folder, trainable, optimizer, finished, identity, adapting)
                if progress is not None:
                    progress(finished, recipe.training.steps)
    if accelerator.is_main_process:
        facts = {"data_key": data_key, "processes": accelerator.num_processes}
        _save(folder, network.cpu(), recipe, labelled, facts)
    # Whoever asks next whether the model is there, on any process, finds it whole.
    accelerator.wait_for_everyone()
    return bool(accelerator.is_main_process)


def _adamw(trainable: dict[str, nn.Parameter], training: Training) -> torch.optim.AdamW:
    groups = parameter_groups(trainable, training.weight_decay)
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas)


def _wrapped(
    accelerator: Accelerator, network: EmbedderWithLoss, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; accelerate and older torch know the old name only.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped, engine = accelerator.prepare(network, optimizer)
    return wrapped, engine


def _logged_seconds(log: Path) -> float:
    """How long all steps took together, those before an interruption included."""
    with log.open(encoding="utf-8") as lines:
        return float(sum(json.loads(line)["seconds"] for line in lines))


def _save(
    folder: Path, network: EmbedderWithLoss, recipe: Recipe, labelled: LabelledSamples, facts: dict[str, Any]
) -> None:
    facts |= {
        "seconds": round(_logged_seconds(folder / "log.jsonl"), 3),
        "steps": recipe.training.steps,
        "samples": len(labelled.samples),
    }
    try:
        save_model(folder, network, recipe, labelled.classes, facts)
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{folder}: cannot write the trained model ({error}); its last checkpoint is kept. "
            "Free some space and run the same command again; it continues from there."
        ) from None
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _batches(recipe: Recipe, labelled: LabelledSamples) -> Batches:
    assert not isinstance(recipe.audio.clip_seconds, str), "audio.clip_seconds must be resolved to a number"
    return Batches(
        labelled,
        recipe.augmentation,
        padded_samples=round(recipe.audio.clip_seconds * recipe.audio.sample_rate_hz),
        batch_size=recipe.training.batch_size,
        seed=recipe.seed,
        audio=recipe.audio,
        cancellation=recipe.cancellation,
        target_share=recipe.training.target_share,
    )


def _as_dict(record: StepRecord) -> dict[str, float]:
    return {name: getattr(record, name) for name in record.__slots__}


@dataclass(frozen=True)
class _Loop:
    recipe: Recipe
    accelerator: Accelerator
    network: nn.Module
    optimizer: torch.optim.Optimizer
    trainable: dict[str, nn.Parameter]
    batches: Batches

    def run(self, start: int) -> Iterator[StepRecord]:
        """Train from step ``start`` to the last, yielding a record after each step."""
        training = self.recipe.training
        share = training.batch_size // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        loaded = prefetched(
            lambda step: self.batches.rows(step, first, first + share),
            range(start, training.steps),
            threads=training.loader_threads,
            ahead=2 * training.loader_threads,
        )
        began = time.perf_counter()
        for step, batch in zip(range(start, training.steps), loaded, strict=True):
            rate = learning_rate(step, training)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self._gradients(step, batch, first)
            norm = self._clip()
            # A gradient can overflow where the loss does not; one step with it would spoil the next checkpoint.
            _require_finite("gradient norm", norm, step, batch.files)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            ended = time.perf_counter()
            yield StepRecord(step, loss, rate, norm, ended - began)
            began = ended

    def _gradients(self, step: int, batch: Batch, first: int) -> float:
        """Mean loss of the step's batch over all processes; leaves its gradient in the parameters."""
        rows = len(batch.files)
        size = self.recipe.training.micro_batch_size or rows
        branch_keep = self._branch_keep(step, first, rows)
        # LoRA's dropout, where a recipe asks for it, is the only user of torch's global random state.
        torch.manual_seed(hash((self.recipe.seed, step, first)) & 0x7FFF_FFFF)
        total = torch.zeros((), device=self.accelerator.device)
        for begin in range(0, rows, size):
            rows_of = slice(begin, begin + size)
            last = begin + size >= rows
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                loss = self._loss(batch, rows_of, branch_keep).sum() / rows
                _require_finite("loss", float(loss.detach()), step, batch.files[rows_of])
                self.accelerator.backward(loss)
            total += loss.detach()
        return float(self.accelerator.reduce(total, "mean"))

    def _loss(self, batch: Batch, rows: slice, branch_keep: Tensor | None) -> Tensor:
        device = self.accelerator.device

        def part(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows].to(device)

        with self.accelerator.autocast():
            loss: Tensor = self.network(
                part(batch.waveform),
                part(batch.samples),
                part(batch.labels),
                other_labels=part(batch.other_labels),
                mixup_lambda=part(batch.share),
                spec_mask=part(batch.blank),
                branch_keep=None if branch_keep is None else branch_keep[:, :, rows].to(device),
            )
        return loss

    def _branch_keep(self, step: int, first: int, rows: int) -> Tensor | None:
        network: EmbedderWithLoss = self.accelerator.unwrap_model(self.network)
        generator = depth_generator(self.recipe.seed, step)
        whole = stochastic_depth(
            self.recipe.encoder.drop_path,
            network.embedder.encoder.depth,
            self.recipe.training.batch_size,
            generator,
        )
        return None if whole is None else whole[:, :, first : first + rows]

    def _clip(self) -> float:
        limit = self.recipe.training.clip_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(self.trainable.values(), limit))


def _require_finite(name: str, value: float, step: int, files: tuple[str, ...]) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"step {step}: the {name} is {value}. The batch holds {', '.join(files)}. Look at these recordings, "
            "lower training.learning_rate or set training.precision to fp32; the last checkpoint is kept."
        )
