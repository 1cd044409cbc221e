"""Distillation of YAMNet and of spectral statistics into a small EAT.

The encoder's input is a random part of the patches of 3.84 s (four patches of YAMNet, 0.96 s each), twice: of a
noisy mixture, and of its cleaner counterpart at another level. From both, the mean of the tokens of each 0.96 s
predicts YAMNet's embedding of the clean mixture (standardised per dimension), and every token predicts, linearly,
statistics of its own patch: per mel band the mean less the level of the whole mixture, and the size of changes
over time. The embeddings bring similar sounds together, the statistics separate machines of the same type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.checkpoint import Identity
from nearfar.config.validation import digest
from nearfar.distillation.mixtures import GROUP, Mixtures, by_folder, sound_files
from nearfar.distillation.plan import Distillation
from nearfar.distillation.yamnet import EMBEDDING_DIM, PATCH_SAMPLES, YAMNet
from nearfar.distillation.yamnet import PATCH_FRAMES as SEGMENT_FRAMES
from nearfar.encoders import save_encoder
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.extras import require_extras
from nearfar.files import write_text
from nearfar.frontends.kaldi import FRAME_SAMPLES, FRAME_SHIFT, PATCH_FRAMES, KaldiFbank
from nearfar.progress import StepProgress
from nearfar.training.engine import Task, denormals_as_zero, make_accelerator, train

SEGMENTS = 4
FRAMES = SEGMENTS * SEGMENT_FRAMES
SAMPLES = FRAME_SAMPLES + (FRAMES - 1) * FRAME_SHIFT
SEGMENT_COLUMNS = SEGMENT_FRAMES // PATCH_FRAMES
COLUMNS = FRAMES // PATCH_FRAMES
STATISTICS_MIXTURES = 64
LARGEST_TARGET = 4.0
FIRST_CONTRAST = 3.0
LAGS = (1, 4)
"""Frames between the values whose differences measure the changes of a band."""
STATISTICS = (1 + len(LAGS)) * PATCH_FRAMES


@dataclass(frozen=True)
class DistillationBatch:
    """Mixtures with their targets, and the random draws of a step.

    Attributes:
        noisy, clean: (rows, 1, 384, 128) float32, normalised fbanks.
        embedding: (rows, 4, 1024) float32, standardised embeddings that the teacher makes of the clean mixtures.
        visible: (2, rows, tokens) int64, the visible patch tokens of the noisy and of the clean mixtures.
        first_column: column of the table of positions at which the crops start.
        offset: (rows,) float32, added to the normalised fbank of the clean mixtures: another level.
        files: (rows,) names of the mixtures.
    """

    noisy: Tensor
    clean: Tensor
    embedding: Tensor
    visible: Tensor
    first_column: int
    offset: Tensor
    files: tuple[str, ...]

    def part(self, rows: slice) -> DistillationBatch:
        """The batch of some of the rows."""
        names = ("noisy", "clean", "embedding", "offset", "files")
        return replace(self, visible=self.visible[:, rows], **{name: getattr(self, name)[rows] for name in names})


class DistilledEncoder(nn.Module):
    """An EAT with the two linear heads that distillation needs."""

    def __init__(self, config: EATConfig, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config, seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed + 1)
            # A random start is dominated by positions of amplitude 1; see the recipe tiny-fusion.
            self.encoder.local_encoder.proj.weight.mul_(FIRST_CONTRAST)
            self.to_embedding = nn.Linear(config.embed_dim, EMBEDDING_DIM)
            self.to_spectrum = nn.Linear(config.embed_dim, STATISTICS)

    def forward(
        self, noisy: Tensor, clean: Tensor, embedding: Tensor, visible: Tensor, first_column: int, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses of embeddings and of statistics, see the module; arguments as in :class:`DistillationBatch`."""
        fbank = torch.cat([noisy, clean + offset[:, None, None, None]])
        visible = visible.flatten(0, 1)
        tokens = visible_tokens(self.encoder, fbank, visible, first_column)
        segment = F.one_hot(visible // (self.encoder.config.bands * SEGMENT_COLUMNS), SEGMENTS).to(tokens.dtype)
        count = segment.sum(dim=1)  # (batch, segments)
        means = (segment.transpose(1, 2) @ tokens) / count.clamp_min(1.0).unsqueeze(2)
        errors = (self.to_embedding(means).float() - embedding.repeat(2, 1, 1)).square().mean(dim=2)
        has_tokens = (count > 0).to(errors.dtype)
        statistics = patch_statistics(clean).repeat(2, 1, 1)
        statistics = statistics.gather(1, visible[..., None].expand(-1, -1, STATISTICS))
        spectrum = F.mse_loss(self.to_spectrum(tokens).float(), statistics)
        return (errors * has_tokens).sum() / has_tokens.sum(), spectrum


def visible_tokens(encoder: EAT, fbank: Tensor, visible: Tensor, first_column: int) -> Tensor:
    """The encoder's output for the ``visible`` patches alone: (batch, visible, D), without CLS."""
    patches = encoder.local_encoder(fbank)
    first = first_column * encoder.config.bands
    patches = patches + encoder.fixed_positional_encoder.positions[:, first : first + patches.shape[1]]
    x = encoder.with_cls(patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[2])))
    for block in encoder.blocks:
        x = block(x)
    return x[:, 1:]


def patch_statistics(fbank: Tensor) -> Tensor:
    """Statistics of each patch, level aside: (batch, 1, frames, 128) to (batch, tokens, 48) float32.

    Of each mel band the mean over time less that of the whole fbank, and the root mean square of the differences
    of values 1 and 4 frames apart, at 4 (mean) and 8 (differences) times their size in the normalised fbank so
    that all vary by about one.
    """
    patches = fbank.unfold(2, PATCH_FRAMES, PATCH_FRAMES).unfold(3, PATCH_FRAMES, PATCH_FRAMES)
    patches = patches[:, 0].flatten(1, 2)  # (batch, tokens, time, mel)
    level = fbank.mean(dim=(1, 2, 3))[:, None, None]
    changes = [(patches[:, :, lag:] - patches[:, :, :-lag]).square().mean(dim=2).sqrt() for lag in LAGS]
    return torch.cat([4 * (patches.mean(dim=2) - level), *(8 * change for change in changes)], dim=2)


class DistillationBatches:
    """The batches of a distillation, as functions of plan and step.

    Mixtures and the teacher's embeddings of them are computed once and stay in memory.
    """

    def __init__(self, plan: Distillation, mixtures: Mixtures, teacher: YAMNet) -> None:
        self.plan, self.mixtures, self.teacher, self.fbank = plan, mixtures, teacher, KaldiFbank()
        self.per_decibel = math.log(10) / 10 / (2 * self.fbank.std)
        """Change of the normalised fbank per decibel."""
        self._compute = cache(self._uncached)
        first = torch.cat([self._compute(number)[2] for number in range(STATISTICS_MIXTURES)])
        self.mean, self.std = first.mean(dim=0), first.std(dim=0)
        # Without a floor, dimensions that are hardly ever active would count as much as others.
        self.std = self.std.clamp_min(max(0.2 * float(self.std.median()), 1e-6))

    def _uncached(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Fbanks (float16) of the noisy and the clean mixture, and embeddings, not standardised yet."""
        waveforms = torch.from_numpy(np.stack(self.mixtures[number]))
        segments = waveforms[1].unfold(0, PATCH_SAMPLES, SEGMENT_FRAMES * FRAME_SHIFT)
        with torch.inference_mode():
            fbanks, embedding = self.fbank(waveforms).half(), self.teacher(segments)[0]
        return fbanks[0].clone(), fbanks[1].clone(), embedding.clone()

    def rows(self, step: int, first: int, last: int) -> DistillationBatch:
        """Rows ``first`` to ``last`` (exclusive) of a step's batch."""
        plan, rng = self.plan, np.random.default_rng([self.plan.seed, 1, step])
        available = (step + 1) * plan.new_per_step
        groups = [*range(available - plan.new_per_step, available)]
        groups += rng.integers(available, size=plan.groups_per_step - plan.new_per_step).tolist()
        numbers = [GROUP * group + member for group in groups for member in range(GROUP)]
        tokens, rows = COLUMNS * EATConfig().bands, len(numbers)
        count = round(tokens * rng.uniform(plan.fewest_kept, 1.0))
        visible = torch.from_numpy(np.argsort(rng.random((2 * rows, tokens)), axis=1)[:, :count])
        first_column = int(rng.integers(plan.farthest_column + 1))
        levels_db = rng.uniform(-plan.level_range_db, plan.level_range_db, rows)
        computed = zip(*map(self._compute, numbers[first:last]), strict=True)
        noisy, clean, embedding = map(torch.stack, computed)
        return DistillationBatch(
            noisy.float(),
            clean.float(),
            embedding=((embedding - self.mean) / self.std).clamp(-LARGEST_TARGET, LARGEST_TARGET),
            visible=visible.view(2, rows, count)[:, first:last],
            first_column=first_column,
            offset=torch.from_numpy(levels_db[first:last]).float() * self.per_decibel,
            files=tuple(f"mixture {number}" for number in numbers[first:last]),
        )


def learning_rate_at(step: int, plan: Distillation) -> float:
    """Linear warm-up, constant, and linear to 0 over the last fifth."""
    rising = (step + 1) / plan.warmup_steps
    falling = (plan.steps - step) / (plan.steps / 5)
    return plan.learning_rate * min(1.0, rising, falling)


@dataclass(frozen=True, slots=True)
class DistillationRecord:
    """A line of ``log.jsonl``; see :class:`nearfar.training.engine.Step`."""

    step: int
    embedding: float
    spectrum: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    wait_seconds: float


@denormals_as_zero()
def distil(
    plan: Distillation,
    folders: Sequence[Path],
    teacher: YAMNet,
    out: Path,
    progress: StepProgress | None = None,
    machines: Sequence[Path] = (),
) -> EAT:
    """Distil an encoder into the folder ``out``, in Hugging Face layout, with its plan and ``log.jsonl``.

    A checkpoint and the encoder are written every ``save_every`` steps; called again, training resumes from there
    and ends with the same weights, as every draw is a function of seed and step.

    Args:
        folders: of recordings of any kind; each folder is equally probable.
        teacher: see :func:`nearfar.distillation.yamnet.load_yamnet`.
        machines: folders of recordings of machines with hardly any noise, to be mixed with those of ``folders``.

    Raises:
        InputError: if a folder holds no recordings, or ``out`` a checkpoint of another plan or other
            recordings, or the extra ``train`` is not installed.
        TrainingError: if the loss or its gradient is not finite.
    """
    require_extras("distillation", "train")
    files = sound_files(folders, plan.excluded)
    by_machine = by_folder(sound_files(machines, plan.excluded))
    accelerator = make_accelerator(plan)
    module = DistilledEncoder(EATConfig(plan.embed_dim, plan.depth, plan.num_heads), plan.seed)
    mixtures = Mixtures(files, SAMPLES, plan.seed, by_machine, plan.machine_share)
    batches = DistillationBatches(plan, mixtures, teacher)
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.95), weight_decay=plan.weight_decay)

    def save(record: DistillationRecord) -> None:
        finished = record.step + 1
        if accelerator.is_main_process and (finished % plan.save_every == 0 or finished == plan.steps):
            save_encoder(module.encoder, out)
            write_text(out / "distillation.toml", plan.to_toml())

    task = _Distillation(accelerator, module.to(accelerator.device), batches, plan.seed, DistillationRecord, plan)
    sizes = [
        [(path.parent.name, path.name, path.stat().st_size) for path in folder] for folder in (*files, *by_machine)
    ]
    identity = Identity(plan.key(), digest(sizes))
    train(task, plan, accelerator, optimizer, out, identity, progress=progress, on_step=save)
    return module.encoder.cpu().eval()


@dataclass(frozen=True)
class _Distillation(Task[DistillationBatch, DistillationRecord]):
    plan: Distillation

    def rate(self, step: int) -> float:
        return learning_rate_at(step, self.plan)

    def loss(self, module: nn.Module, part: DistillationBatch, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.accelerator.autocast():
            embedding, spectrum = module(**self.tensors(part), first_column=part.first_column)
        return embedding + self.plan.spectrum_weight * spectrum, {"embedding": embedding, "spectrum": spectrum}
