"""The training loop of fine-tuning, pre-training and distillation: one process or many, resumable at any step.

A kind of training is a subclass of :class:`Task` (module, batches, loss, log record); the loop does the rest:
micro batches, clipping, learning rate, finite checks, ``log.jsonl`` and checkpoints.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TextIO, TypeVar

import torch
from torch import Tensor, nn

from nearfar.checkpoint import Identity, load_checkpoint, save_checkpoint
from nearfar.data.prefetch import prefetched
from nearfar.devices import moved
from nearfar.errors import InputError, TrainingError
from nearfar.executors.launch import lost_processes, process_state
from nearfar.extras import require_extras
from nearfar.files import write_text
from nearfar.progress import StepProgress
from nearfar.training.log import LOG_FILE, log_text, read_log

if TYPE_CHECKING:
    from accelerate import Accelerator

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class LoopSettings(Protocol):
    """Settings that the loop reads, such as a recipe's ``training`` table."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def micro_batch_size(self) -> int | None: ...
    @property
    def clip_norm(self) -> float | None: ...
    @property
    def precision(self) -> str: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def loader_threads(self) -> int: ...


class RateSchedule(Protocol):
    """Settings of :func:`learning_rate`."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def final_learning_rate(self) -> float: ...


class Rows(Protocol):
    """A batch, or a part of one."""

    @property
    def files(self) -> tuple[str, ...]:
        """The recording of each row, for messages."""

    def part(self, rows: slice) -> Self:
        """The batch of some of the rows."""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished optimiser step.

    Attributes:
        step: number of the step, from 0.
        means: means of the scalars of :meth:`Task.loss` over the batch of all processes, by name.
        gradient_norm: before clipping.
        seconds: from the end of the previous step to the end of this one, logging and checkpoints included.
        wait_seconds: the part of ``seconds`` spent waiting for the batch.
    """

    step: int
    means: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float
    wait_seconds: float


RowsT = TypeVar("RowsT", bound=Rows)
RowsT_co = TypeVar("RowsT_co", bound=Rows, covariant=True)
RecordT = TypeVar("RecordT")


class BatchSource(Protocol[RowsT_co]):
    """The batches of a training."""

    def rows(self, step: int, first: int, last: int) -> RowsT_co:
        """Rows ``first`` to ``last`` (exclusive) of a step's batch."""


@dataclass(frozen=True)
class Task(Generic[RowsT, RecordT]):
    """The parts of the training loop that differ from one kind of training to another.

    Attributes:
        accelerator: see :func:`make_accelerator`.
        module: trained in place; on the accelerator's device.
        batches: read ahead of need in other threads.
        seed: of torch's random state, which dropout layers use.
        buffers: tensors outside ``module`` that training changes, by name; they are part of a checkpoint.
        record_type: dataclass of a line of the log; its fields, of which the first is ``step``, are fields of
            :class:`Step` and keys of :attr:`Step.means`.
    """

    accelerator: Accelerator
    module: nn.Module
    batches: BatchSource[RowsT]
    seed: int
    record_type: type[RecordT]

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        return {}

    def batch(self, step: int, first: int, last: int) -> RowsT:
        """As ``batches.rows``."""
        return self.batches.rows(step, first, last)

    def tensors(self, part: RowsT) -> dict[str, Tensor]:
        """The tensors of a part, by the name of their field, on the accelerator's device."""
        device = self.accelerator.device
        return {name: moved(value, device) for name, value in vars(part).items() if isinstance(value, Tensor)}

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        raise NotImplementedError

    def loss(self, module: nn.Module, part: RowsT, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The contribution of some rows to the mean loss of a batch and to the means of the scalars to log.

        ``module`` is ``self.module``, wrapped for several processes, to be called once. ``rows`` is the number of
        rows of the batch on this process; summed over all parts, loss and scalars must be means over these rows.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after each optimiser step."""

    def record(self, step: Step) -> RecordT:
        """The log's record of a step."""
        values = {**asdict(step), **step.means}
        return self.record_type(**{field.name: values[field.name] for field in fields(self.record_type)})  # type: ignore[arg-type]


def learning_rate(step: int, training: RateSchedule) -> float:
    """Linear warm-up to the maximum, then a cosine to the final rate at the last step (0-based)."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    span = max(1, training.steps - 1 - training.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * (step - training.warmup_steps) / span))
    return training.final_learning_rate + (training.learning_rate - training.final_learning_rate) * cosine


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The module's trainable parameters in two groups for AdamW: with weight decay, and without.

    Biases, parameters of normalisation layers and those that a module names in ``no_weight_decay``, such as CLS
    and learned positions of an encoder, do not decay.
    """
    exempt = {
        name
        for prefix, owner in module.named_modules()
        for name, _ in owner.named_parameters(prefix, recurse=False)
        if isinstance(owner, NORMS)
        or name.endswith("bias")
        or name.rpartition(".")[2] in getattr(owner, "no_weight_decay", ())
    }
    parameters = trainable(module)
    return [
        {"params": [p for name, p in parameters.items() if name not in exempt], "weight_decay": weight_decay},
        {"params": [p for name, p in parameters.items() if name in exempt], "weight_decay": 0.0},
    ]


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are part of the module's state, by name."""
    state = module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in state}


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Flush denormal float32 numbers (below 1e-38) to zero within the context, if the processor can.

    Gradients contain many; they take a fifth of a step's time and are negligible beside AdamW's epsilon. Torch's
    threads inherit the setting when they start, so enter the context before the first computation.
    """
    already = float(torch.tensor([1e-38]) * 0.1) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


# --- processes --------------------------------------------------------------------------------------------------


def make_accelerator(settings: LoopSettings) -> Accelerator:
    """accelerate's Accelerator with the precision of the settings.

    Raises:
        InputError: if the batch size is not a multiple of the number of processes, or accelerate is missing.
    """
    require_extras("training", "train")
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    precision = "bf16" if bf16 else "no"
    process_state()
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # accelerate by itself refuses to change the precision within a process.
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision,
        # Buffers are constants, or the same on all processes; broadcasting them at every step would be waste.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if settings.batch_size % accelerator.num_processes:
        raise InputError(
            "training.batch_size",
            found=f"{settings.batch_size} samples for {accelerator.num_processes} processes",
            expected="a multiple of the number of processes",
            remedy="Change the batch size or the number of processes",
        )
    return accelerator


# --- log --------------------------------------------------------------------------------------------------------


def open_step_log(path: Path, start: int, is_main: bool) -> TextIO:
    """The log of a training, a line of JSON per step, cut back to the first ``start`` steps.

    Processes other than the main one write to the null device.
    """
    if not is_main:
        return Path(os.devnull).open("w", encoding="utf-8")
    records = read_log(path) if path.is_file() and start else []
    write_text(path, log_text([record for record in records if record["step"] < start]))
    return path.open("a", encoding="utf-8")


# --- loop -------------------------------------------------------------------------------------------------------


@lost_processes()
def train(
    task: Task[RowsT, RecordT],
    settings: LoopSettings,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    identity: Identity,
    *,
    progress: StepProgress | None = None,
    on_step: Callable[[RecordT], None] | None = None,
    checkpoint_at_end: bool = True,
) -> None:
    """Train a task's module in place, from the start or from the folder's checkpoint.

    Args:
        accelerator: see :func:`make_accelerator`.
        optimizer: an AdamW over the trainable parameters of ``task.module``.
        folder: of ``checkpoint.safetensors`` and ``log.jsonl``; it is created if needed.
        identity: a checkpoint of another identity is refused.
        progress: called after each step, on the main process.
        on_step: called with each record once it is in the log, before a checkpoint is written, on every process.
        checkpoint_at_end: whether a checkpoint is written after the last step, too.

    Raises:
        TrainingError: if the loss or its gradient is not finite, with the step and the files of the batch.
        InputError: if the checkpoint is of another training, and as ``task.batch``.
        NearfarError: if a checkpoint cannot be written.
    """
    parameters = trainable(task.module)
    buffers = {**persistent_buffers(task.module), **task.buffers}
    folder.mkdir(parents=True, exist_ok=True)
    start = load_checkpoint(folder, parameters, optimizer, identity, buffers)
    # Wrapping copies the first process's weights to the others, so the checkpoint is read before.
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; accelerate and older torch use the old name only.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped, stepper = accelerator.prepare(task.module, optimizer)
    loop = _Loop(task, settings, accelerator, wrapped, stepper, parameters)
    is_main = accelerator.is_main_process
    with (
        torch.random.fork_rng(devices=[]),
        open_step_log(folder / LOG_FILE, start, is_main) as log,
        closing(loop.run(start)) as steps,  # now, not when an exception that refers to it is collected
    ):
        for step in steps:
            record, finished = task.record(step), step.step + 1
            print(json.dumps(asdict(record)), file=log, flush=True)  # type: ignore[call-overload]
            if on_step is not None:
                on_step(record)
            if not is_main:
                continue
            due = finished % settings.checkpoint_every == 0 and finished < settings.steps
            if due or (checkpoint_at_end and finished == settings.steps):
                save_checkpoint(folder, parameters, optimizer, finished, identity, buffers)
            if progress is not None:
                progress(finished, settings.steps)
    accelerator.wait_for_everyone()


@dataclass(frozen=True)
class _Loop(Generic[RowsT]):
    task: Task[RowsT, Any]
    settings: LoopSettings
    accelerator: Accelerator
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]

    def run(self, start: int) -> Generator[Step]:
        """Train from step ``start`` to the last, yielding each step."""
        settings, task = self.settings, self.task
        size = settings.batch_size // self.accelerator.num_processes
        first = self.accelerator.process_index * size
        batches = prefetched(
            lambda step: task.batch(step, first, first + size),
            range(start, settings.steps),
            threads=settings.loader_threads,
            ahead=2 * settings.loader_threads,
        )
        began = time.perf_counter()
        for step in range(start, settings.steps):
            wait_began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - wait_began
            rate = task.rate(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            # Dropout is the only user of torch's global random state.
            torch.manual_seed(hash((task.seed, step, first)) & 0x7FFF_FFFF)
            means = self._gradients(step, batch)
            limit = settings.clip_norm or math.inf
            norm = float(self.accelerator.clip_grad_norm_(self.parameters.values(), limit))
            # A gradient can overflow when the loss does not; a step with it would spoil the next checkpoint.
            require_finite("gradient norm", norm, step, batch.files)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            task.after_step(step)
            ended = time.perf_counter()
            yield Step(step, means, rate, norm, ended - began, waited)
            began = ended

    def _gradients(self, step: int, batch: RowsT) -> dict[str, float]:
        """Means of the logged scalars; leaves the gradient of the batch's loss in the parameters."""
        rows = len(batch.files)
        size = self.settings.micro_batch_size or rows
        totals: dict[str, Tensor] = {}
        for begin in range(0, rows, size):
            part = batch.part(slice(begin, begin + size))
            last = begin + size >= rows
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss, logged = self.task.loss(self.wrapped, part, rows)
                require_finite("loss", float(loss.detach()), step, part.files)
                self.accelerator.backward(loss)
            for name, value in logged.items():
                totals[name] = totals[name] + value.detach() if name in totals else value.detach()
        return {name: float(self.accelerator.reduce(value, "mean")) for name, value in totals.items()}


def require_finite(name: str, value: float, step: int, files: tuple[str, ...]) -> None:
    """Raise a :class:`TrainingError` that names step and files if a value is infinite or not a number."""
    if not math.isfinite(value):
        raise TrainingError(
            f"step {step}: the {name} is {value}. The batch holds {', '.join(files)}. Look at these recordings, "
            "lower training.learning_rate or set training.precision to fp32; the last checkpoint is kept."
        )
