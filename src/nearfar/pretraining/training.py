"""Self-supervised pre-training of EAT: one loop, on one process or many, that can be killed and resumed.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024. What a step
computes is :meth:`_Loop.loss_terms`; batches, masks, noise, learning rate and the teacher's decay follow from seed
and step.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nearfar.data.prefetch import prefetched
from nearfar.encoders.eat import EAT
from nearfar.errors import InputError, TrainingError
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.pretraining.crops import CropBatch, Crops
from nearfar.pretraining.decoder import Decoder, DecoderConfig
from nearfar.pretraining.objective import frame_loss, spread, utterance_loss
from nearfar.pretraining.recipe import Guard, PretrainRecipe
from nearfar.pretraining.student import Student
from nearfar.pretraining.teacher import Teacher, decay_after
from nearfar.training.checkpoint import Identity, load_checkpoint, save_checkpoint
from nearfar.training.denormals import denormals_as_zero
from nearfar.training.finetune import StepProgress, learning_rate, make_accelerator, parameter_groups
from nearfar.training.step_log import open_step_log

LOG_FILE = "log.jsonl"


@dataclass(frozen=True, slots=True)
class PretrainRecord:
    """One line of ``log.jsonl``.

    ``loss`` is the weighted sum; the other losses are means, see :mod:`nearfar.pretraining.objective`.
    ``seconds`` are the step's, without logging and checkpoints; of these, ``wait_seconds`` were spent waiting for
    recordings.
    """

    step: int
    loss: float
    frame_loss: float
    utterance_loss: float
    target_spread: float
    prediction_spread: float
    learning_rate: float
    teacher_decay: float
    gradient_norm: float
    seconds: float
    wait_seconds: float


def build_student(recipe: PretrainRecipe, encoder: EAT) -> Student:
    """The encoder with a decoder of random weights, which follow from the recipe's seed.

    Raises:
        InputError: if the decoder's groups do not divide the encoder's width.
    """
    dim, sizes = encoder.config.embed_dim, recipe.decoder
    if dim % sizes.groups:
        raise InputError(
            "decoder.groups",
            found=f"{sizes.groups} groups for an encoder of width {dim}",
            expected="a divisor of the width",
            remedy="Change decoder.groups",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        decoder = Decoder(dim, encoder.config.bands, DecoderConfig(sizes.layers, sizes.kernel, sizes.groups))
    return Student(encoder.train(), decoder)


@denormals_as_zero()
def pretrain(
    recipe: PretrainRecipe,
    student: Student,
    crops: Crops,
    folder: Path,
    *,
    identity: Identity,
    progress: StepProgress | None = None,
) -> EAT | None:
    """Pre-train in a folder, from the start or from its last checkpoint.

    Args:
        recipe: what to do.
        student: see :func:`build_student`; trained in place.
        crops: the batches.
        folder: holds ``checkpoint.safetensors`` and ``log.jsonl``.
        identity: of recipe, recordings and starting encoder; a checkpoint of another is refused.
        progress: called after each step, on the main process.

    Returns:
        The trained encoder on the CPU, student or teacher as the recipe says, or None on the other processes.

    Raises:
        TrainingError: if loss or gradient is not finite, or the encoder has collapsed; the checkpoint is kept.
        InputError: if a recording cannot be used, or the folder holds another run's checkpoint.
        NearfarError: if a checkpoint cannot be written.
    """
    accelerator = make_accelerator(recipe.training)
    student.to(accelerator.device)
    teacher = Teacher(student.encoder)
    parameters = dict(student.named_parameters())
    training = recipe.training
    groups = parameter_groups(parameters, training.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas)
    slow = dict(teacher.encoder.named_parameters(prefix="teacher"))
    folder.mkdir(parents=True, exist_ok=True)
    start = load_checkpoint(folder, parameters, optimizer, identity, slow)
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; accelerate and older torch know the old name only.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped, engine = accelerator.prepare(student, optimizer)
    fbank = KaldiFbank(recipe.fbank.mean, recipe.fbank.std).to(accelerator.device)
    loop = _Loop(recipe, accelerator, wrapped, student, teacher, engine, crops, fbank)
    with open_step_log(folder / LOG_FILE, start, accelerator.is_main_process) as log:
        for record in loop.run(start):
            finished = record.step + 1
            print(json.dumps(asdict(record)), file=log, flush=True)
            require_variety(record, recipe.guard)
            if not accelerator.is_main_process:
                continue
            if finished % training.checkpoint_every == 0 or finished == training.steps:
                save_checkpoint(folder, parameters, optimizer, finished, identity, slow)
            if progress is not None:
                progress(finished, training.steps)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return None
    return (student.encoder if recipe.export == "student" else teacher.encoder).cpu().eval()


def require_variety(record: PretrainRecord, guard: Guard) -> None:
    """Stop a training that has collapsed.

    Raises:
        TrainingError: if targets or predictions hardly differ from one another, with the reason and remedies.
    """
    if record.step < guard.from_step:
        return
    for what, value, floor in (
        ("targets of the teacher", record.target_spread, guard.min_target_spread),
        ("predictions of the student", record.prediction_spread, guard.min_prediction_spread),
    ):
        if value < floor:
            raise TrainingError(
                f"step {record.step}: the encoder has collapsed: the {what} deviate by {value:.4g} from one "
                f"another, less than the floor of {floor:g}, so it says nearly the same of every sound and learns "
                "nothing more. See target_spread and prediction_spread in log.jsonl for when it began. Start anew "
                "with a lower training.learning_rate, more training.warmup_steps, a slower teacher (a greater "
                "teacher.start) or more varied recordings; the last checkpoint is kept."
            )


@dataclass(frozen=True)
class _Loop:
    recipe: PretrainRecipe
    accelerator: Accelerator
    wrapped: nn.Module
    student: Student
    teacher: Teacher
    optimizer: torch.optim.Optimizer
    crops: Crops
    fbank: KaldiFbank

    def run(self, start: int) -> Iterator[PretrainRecord]:
        """Train from step ``start`` to the last, yielding a record after each step."""
        training = self.recipe.training
        share = training.batch_size // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        loaded = prefetched(
            lambda step: self.crops.rows(step, first, first + share),
            range(start, training.steps),
            threads=training.loader_threads,
            ahead=2 * training.loader_threads,
        )
        for step in range(start, training.steps):
            began = time.perf_counter()
            batch = next(loaded)
            waited = time.perf_counter() - began
            rate = learning_rate(step, training)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            terms = self._gradients(batch)
            _require_finite("loss", sum(terms.values()), step, batch.files)
            norm = self._clip()
            _require_finite("gradient norm", norm, step, batch.files)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            decays = self.recipe.teacher
            decay = decay_after(step + 1, decays.start, decays.end, decays.anneal_steps)
            self.teacher.follow(self.student.encoder, decay)
            yield PretrainRecord(
                step=step,
                loss=sum(weight * terms[name] for name, weight in self.weights().items()),
                frame_loss=terms["frame"],
                utterance_loss=terms["utterance"],
                target_spread=terms["target_spread"],
                prediction_spread=terms["prediction_spread"],
                learning_rate=rate,
                teacher_decay=decay,
                gradient_norm=norm,
                seconds=time.perf_counter() - began,
                wait_seconds=waited,
            )

    def weights(self) -> dict[str, float]:
        """The factor of each loss term."""
        training = self.recipe.training
        views = float(training.batch_size * self.recipe.masking.clones)
        weight = training.utterance_weight
        return {"frame": 1.0, "utterance": views if weight is None else weight}

    def loss_terms(self, batch: CropBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of some rows, by the names of :meth:`weights`, and what is only watched; all scalars."""
        device = self.accelerator.device
        masked = batch.masked.to(device)
        fbank = self.fbank(batch.waveform.to(device))
        with self.accelerator.autocast():
            targets = self.teacher.targets(fbank)
            cells, utterance = self.wrapped(fbank, masked, self._noise(batch, masked))
        terms = {"frame": frame_loss(cells, targets, masked), "utterance": utterance_loss(utterance, targets)}
        return terms, {"target_spread": spread(targets), "prediction_spread": spread(cells)}

    def _noise(self, batch: CropBatch, masked: Tensor) -> Tensor:
        """What the decoder sees at masked cells, (views, cells, D); every row has a random stream of its own."""
        shape = (self.recipe.masking.clones, masked.shape[1], self.student.encoder.config.embed_dim)
        rows = []
        for seed in batch.noise_seeds:
            generator = torch.Generator(masked.device).manual_seed(seed)
            rows.append(torch.randn(shape, generator=generator, device=masked.device))
        return torch.cat(rows) * self.recipe.masking.noise_std

    def _gradients(self, batch: CropBatch) -> dict[str, float]:
        """Means over the step's batch and all processes; leaves the gradient of the loss in the parameters."""
        rows = len(batch.files)
        size = self.recipe.training.micro_batch_size or rows
        totals: dict[str, Tensor] = {}
        for begin in range(0, rows, size):
            part = batch.part(slice(begin, begin + size))
            share = len(part.files) / rows
            last = begin + size >= rows
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                terms, watched = self.loss_terms(part)
                weighted = [weight * terms[name] for name, weight in self.weights().items()]
                self.accelerator.backward(torch.stack(weighted).sum() * share)
            for name, value in {**terms, **watched}.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + share * value.detach()
        return {name: float(self.accelerator.reduce(value, "mean")) for name, value in totals.items()}

    def _clip(self) -> float:
        limit = self.recipe.training.clip_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(self.student.parameters(), limit))


def _require_finite(name: str, value: float, step: int, files: tuple[str, ...]) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"step {step}: the {name} is {value}. The batch holds {', '.join(files)}. Look at these recordings, "
            "lower training.learning_rate or set training.precision to fp32; the last checkpoint is kept."
        )
