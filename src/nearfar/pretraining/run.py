"""Pre-training from folders of recordings to an encoder folder in the published layout.

The folder holds ``config.json`` and ``model.safetensors`` (see :func:`nearfar.load_encoder`), ``README.md`` (the
model card), ``recipe.toml``, ``environment.json``, ``log.jsonl``, attributions, and ``pretraining.json``, which is
written last: its presence means that training has finished.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.checkpoint import CHECKPOINT_FILE, Identity
from nearfar.data.recordings import find_recordings, recordings_key
from nearfar.encoders import encoder_hash, load_encoder, parameter_count, save_encoder
from nearfar.encoders.eat import EAT
from nearfar.encoders.weights import WEIGHTS_FILE, seeded_start
from nearfar.environment import environment
from nearfar.errors import InputError, TrainingError
from nearfar.executors import is_main_process
from nearfar.extras import require_extras
from nearfar.files import file_sha256, write_json, write_text
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.pretraining.batches import CropBatch, Crops
from nearfar.pretraining.folder import FINISHED_FILE, copied_attributions, data_lines, finished_before
from nearfar.pretraining.model import (
    Decoder,
    MaskedPredictor,
    Teacher,
    decay_after,
    frame_loss,
    spread,
    utterance_loss,
)
from nearfar.pretraining.recipe import Guard, PretrainRecipe
from nearfar.progress import Progress, StepProgress, silent
from nearfar.training import engine
from nearfar.training.log import LOG_FILE, logged_total, read_log

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PretrainRecord:
    """A line of ``log.jsonl``; see :class:`nearfar.training.engine.Step`.

    ``loss`` is the weighted sum; the other losses are means, see :mod:`nearfar.pretraining.model`.
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


# --- training ---------------------------------------------------------------------------------------------------


def build_student(recipe: PretrainRecipe, encoder: EAT) -> MaskedPredictor:
    """The encoder with a decoder of random weights, which depend on the recipe's seed.

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
        decoder = Decoder(dim, encoder.config.bands, sizes.layers, sizes.kernel, sizes.groups)
    return MaskedPredictor(encoder.train(), decoder)


@engine.denormals_as_zero()
def pretrain(
    recipe: PretrainRecipe,
    student: MaskedPredictor,
    crops: Crops,
    folder: Path,
    *,
    identity: Identity,
    progress: StepProgress | None = None,
) -> EAT | None:
    """Pre-train in a folder, from the start or from its last checkpoint.

    Args:
        student: see :func:`build_student`; trained in place.
        folder: of ``checkpoint.safetensors`` and ``log.jsonl``.
        identity: of recipe, recordings and starting encoder; a checkpoint of another is refused.
        progress: called after each step, on the main process.

    Returns:
        The trained encoder on the CPU, of student or teacher depending on ``recipe.export``; None on the other
        processes.

    Raises:
        TrainingError: if loss or gradient is not finite, or the encoder has collapsed; the checkpoint is kept.
        InputError: if a recording cannot be used, or the folder holds another training's checkpoint.
        NearfarError: if a checkpoint cannot be written.
    """
    training, accelerator = recipe.training, engine.make_accelerator(recipe.training)
    student.to(accelerator.device)
    teacher = Teacher(student.encoder)
    fbank = KaldiFbank(recipe.fbank.mean, recipe.fbank.std).to(accelerator.device)
    groups = engine.parameter_groups(student, training.weight_decay)
    engine.train(
        _PreTraining(accelerator, student, crops, recipe.seed, PretrainRecord, recipe, teacher, fbank),
        training,
        accelerator,
        torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas),
        folder,
        identity,
        progress=progress,
        on_step=partial(require_variety, guard=recipe.guard),
    )
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
    for vectors, value, floor in (
        ("targets of the teacher", record.target_spread, guard.min_target_spread),
        ("predictions of the student", record.prediction_spread, guard.min_prediction_spread),
    ):
        if value < floor:
            raise TrainingError(
                f"step {record.step}: the encoder has collapsed: the {vectors} deviate by {value:.4g} from one "
                f"another, less than the floor of {floor:g}, so its output is nearly the same for all input and "
                "training is of no further use. See target_spread and prediction_spread in log.jsonl for when it "
                "began. Start anew with a lower training.learning_rate, more training.warmup_steps, a slower "
                "teacher (a greater teacher.start) or more varied recordings; the last checkpoint is kept."
            )


@dataclass(frozen=True)
class _PreTraining(engine.Task[CropBatch, PretrainRecord]):
    module: MaskedPredictor
    recipe: PretrainRecipe
    teacher: Teacher
    fbank: KaldiFbank

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        return dict(self.teacher.encoder.named_parameters(prefix="teacher"))

    def rate(self, step: int) -> float:
        return engine.learning_rate(step, self.recipe.training)

    def loss(self, module: nn.Module, part: CropBatch, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.accelerator.device
        masked, fbank = part.masked.to(device), self.fbank(part.waveform.to(device))
        with self.accelerator.autocast():
            targets = self.teacher.targets(fbank)
            cells, utterance = module(fbank, masked, self._noise(part, masked))
        frame, whole = frame_loss(cells, targets, masked), utterance_loss(utterance, targets)
        fraction = len(part.files) / rows
        logged = {"frame_loss": frame, "utterance_loss": whole}
        logged |= {"target_spread": spread(targets), "prediction_spread": spread(cells)}
        loss = (frame + self._utterance_weight() * whole) * fraction
        return loss, {name: fraction * value.detach() for name, value in logged.items()}

    def _utterance_weight(self) -> float:
        training, weight = self.recipe.training, self.recipe.training.utterance_weight
        return float(training.batch_size * self.recipe.masking.clones) if weight is None else weight

    def _noise(self, part: CropBatch, masked: Tensor) -> Tensor:
        """The decoder's input at masked cells, (views, cells, D); every row has its own random stream."""
        shape = (self.recipe.masking.clones, masked.shape[1], self.module.encoder.config.embed_dim)
        rows = []
        for seed in part.noise_seeds:
            generator = torch.Generator(masked.device).manual_seed(seed)
            rows.append(torch.randn(shape, generator=generator, device=masked.device))
        return torch.cat(rows) * self.recipe.masking.noise_std

    def after_step(self, step: int) -> None:
        self.teacher.follow(self.module.encoder, self._decay(step))

    def _decay(self, step: int) -> float:
        decay = self.recipe.teacher
        return decay_after(step + 1, decay.start, decay.end, decay.anneal_steps)

    def record(self, step: engine.Step) -> PretrainRecord:
        frame, utterance = step.means["frame_loss"], step.means["utterance_loss"]
        loss, decay = frame + self._utterance_weight() * utterance, self._decay(step.step)
        return super().record(replace(step, means={**step.means, "loss": loss, "teacher_decay": decay}))


# --- folders ----------------------------------------------------------------------------------------------------


def pretrain_encoder(
    recipe: PretrainRecipe,
    folders: Sequence[Path],
    out: Path,
    *,
    licences: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """Pre-train an encoder on all recordings of some folders, from the start or from the last checkpoint.

    Args:
        folders: searched for WAV, FLAC and Ogg files; every channel is a separate sample.
        out: the encoder's folder.
        licences: of the recordings, for the model card.

    Returns:
        The content of ``pretraining.json``, or None on processes that are not the main one.

    Raises:
        InputError: if there are no recordings, one cannot be read, the starting encoder does not load, or ``out``
            holds another training; or if the extra ``train`` is not installed.
        TrainingError: if the training fails or collapses.
        NearfarError: if a file cannot be written.
    """
    require_extras("pre-training", "train")
    recordings = find_recordings(folders)
    start = seeded_start(recipe.encoder.weights, recipe.seed)
    encoder = load_encoder(start, revision=recipe.encoder.revision)
    identity = Identity(recipe.model_key(), recordings_key(recordings), encoder_hash(encoder))
    if (finished := finished_before(out, identity)) is not None:
        logger.warning("%s already holds this encoder; nothing is trained", out)
        return finished if is_main_process() else None
    crops, student = Crops(recordings, recipe, encoder.config), build_student(recipe, encoder)
    if is_main_process():
        write_text(out / "recipe.toml", recipe.to_toml())
        write_json(out / "environment.json", environment())
    trained = pretrain(recipe, student, crops, out, identity=identity, progress=partial(progress, "pre-training"))
    if trained is None:
        return None
    save_encoder(trained, out)
    names = {field.name for field in fields(PretrainRecord)}
    steps = [PretrainRecord(**record) for record in read_log(out / LOG_FILE) if record.keys() == names]
    first, last = steps[0], steps[-1]
    facts = {
        **asdict(identity),
        "encoder_hash": encoder_hash(trained),
        "file_sha256": file_sha256(out / WEIGHTS_FILE),
        "steps": recipe.training.steps,
        "seconds": logged_total(out, "seconds"),
        "wait_seconds": logged_total(out, "wait_seconds"),
        "recordings": len(recordings),
        "loss": last.loss,
    }
    data = data_lines(recordings, folders, licences) + copied_attributions(folders, out)
    write_text(out / "README.md", _model_card(recipe, data, facts, parameter_count(trained), first, last))
    write_json(out / FINISHED_FILE, facts)
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    return facts


def _model_card(
    recipe: PretrainRecipe,
    data: Sequence[str],
    facts: Mapping[str, Any],
    parameters: int,
    first: PretrainRecord,
    last: PretrainRecord,
) -> str:
    """The README.md beside the weights, in Markdown: data, licences, training, losses and hashes."""
    steps, clips = recipe.training.steps, recipe.training.batch_size
    hours = steps * clips * recipe.crop_seconds / 3600
    data_lines = "\n".join(data)
    return f"""---
library_name: nearfar
tags: [audio, self-supervised, eat]
---

# {recipe.name}

{recipe.description or "An EAT encoder"}. An Efficient Audio Transformer encoder \
({parameters / 1e6:.2f} M parameters), pre-trained without labels with EAT's objective (Chen et al., IJCAI 2024). \
Load it with `nearfar.load_encoder`, or use the folder as the encoder of a recipe (`encoder.weights`).

## Data

{data_lines}

## Training

- {steps} steps of {clips} crops of {recipe.crop_seconds:g} s ({hours:.1f} h in total), \
{recipe.masking.clones} masked views each; seed {recipe.seed}; exported: the {recipe.export}
- started from `{recipe.encoder.weights}` (weights {facts["base_hash"][:16]})
- the whole recipe is in `recipe.toml`, versions and command in `environment.json`, every step in `log.jsonl`

## Measured

- last step: loss {last.loss:.4g} (first step {first.loss:.4g}), frame loss {last.frame_loss:.4g} (first step \
{first.frame_loss:.4g}), spread of targets {last.target_spread:.3g} and of predictions {last.prediction_spread:.3g}
- the quality of the encoder has not been measured here; `nearfar run` and `nearfar evaluate` do

## Identity

- `model.safetensors`: SHA-256 {facts["file_sha256"]}
- encoder: {facts["encoder_hash"]}
- recordings: {facts["data_key"]} (names, sizes, lengths)
"""
