"""Distillation: a small EAT learns what YAMNet makes of a sound and what its spectrum is, past noise and level.

The student sees a random part of the patches of 3.84 s (four patches of YAMNet, 0.96 s each), twice: of what is
heard, and of what is wanted in it (less noise, another level). From both, the mean of the tokens of each 0.96 s
predicts YAMNet's embedding of what is wanted (standardised per dimension), and every token predicts, linearly,
what its own patch of it looks like: per mel band the mean, less the level of the whole, and how fast it changes.
The first is what makes sounds of a kind alike, the second what keeps two machines of the kind apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.distillation.mixtures import GROUP, Mixtures, by_folder, sound_files
from nearfar.distillation.plan import Distillation
from nearfar.distillation.yamnet import EMBEDDING_DIM, PATCH_SAMPLES, YAMNet
from nearfar.distillation.yamnet import PATCH_FRAMES as SEGMENT_FRAMES
from nearfar.encoders import save_encoder
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.errors import InputError, NearfarError
from nearfar.files import whole_file, write_text
from nearfar.frontends.kaldi import FRAME_SAMPLES, FRAME_SHIFT, PATCH_FRAMES, KaldiFbank

SEGMENTS = 4
FRAMES = SEGMENTS * SEGMENT_FRAMES
SAMPLES = FRAME_SAMPLES + (FRAMES - 1) * FRAME_SHIFT
SEGMENT_COLUMNS = SEGMENT_FRAMES // PATCH_FRAMES
COLUMNS = FRAMES // PATCH_FRAMES
STATISTICS_MIXTURES = 64
LARGEST_TARGET = 4.0
FIRST_CONTRAST = 3.0
LAGS = (1, 4)
"""Frames between the values whose differences tell how fast a band changes."""
STATISTICS = (1 + len(LAGS)) * PATCH_FRAMES


class Lesson(NamedTuple):
    """A batch of mixtures.

    Attributes:
        heard, wanted: (batch, 1, 384, 128) float32, normalised fbanks with the noise and with less of it.
        embedding: (batch, 4, 1024) standardised embeddings of the teacher, of what is wanted.
    """

    heard: Tensor
    wanted: Tensor
    embedding: Tensor


class Losses(NamedTuple):
    """The losses of an update; see the module."""

    embedding: Tensor
    spectrum: Tensor


class Student(nn.Module):
    """An EAT with the two linear heads that distillation needs."""

    def __init__(self, config: EATConfig, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config, seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed + 1)
            # A random start hears little through positions of amplitude 1; see the recipe tiny-fusion.
            self.encoder.local_encoder.proj.weight.mul_(FIRST_CONTRAST)
            self.to_embedding = nn.Linear(config.embed_dim, EMBEDDING_DIM)
            self.to_spectrum = nn.Linear(config.embed_dim, STATISTICS)

    def losses(self, lesson: Lesson, kept: Tensor, first_column: int, offset: Tensor) -> Losses:
        """What the student has still to learn.

        Args:
            lesson: batch of mixtures.
            kept: (2 batch, tokens) int64, the patch tokens that the student sees of what is heard, then of what is
                wanted.
            first_column: where in the table of positions the crop stands.
            offset: (batch,) added to the normalised fbank of what is wanted: another level.
        """
        fbank = torch.cat([lesson.heard, lesson.wanted + offset[:, None, None, None]])
        tokens = visible_tokens(self.encoder, fbank, kept, first_column)
        means, count = _means_by(kept // (self.encoder.config.bands * SEGMENT_COLUMNS), SEGMENTS, tokens)
        target = lesson.embedding.repeat(2, 1, 1)
        errors = (self.to_embedding(means).float() - target).square().mean(dim=2)
        noticed = (count > 0).to(errors.dtype)
        wanted = patch_statistics(lesson.wanted).repeat(2, 1, 1)
        wanted = wanted.gather(1, kept[..., None].expand(-1, -1, STATISTICS))
        return Losses(
            (errors * noticed).sum() / noticed.sum(),
            F.mse_loss(self.to_spectrum(tokens).float(), wanted),
        )


def _means_by(group: Tensor, groups: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the tokens of each group, (batch, groups, D), 0 where it has none; number, (batch, groups)."""
    member = F.one_hot(group, groups).to(tokens.dtype)  # (batch, tokens, groups)
    count = member.sum(dim=1)
    return (member.transpose(1, 2) @ tokens) / count.clamp_min(1.0).unsqueeze(2), count


def visible_tokens(encoder: EAT, fbank: Tensor, kept: Tensor, first_column: int) -> Tensor:
    """The encoder's last tokens where it sees only ``kept``: (batch, kept tokens, D), CLS left out."""
    patches = encoder.local_encoder(fbank)
    first = first_column * encoder.config.bands
    patches = patches + encoder.fixed_positional_encoder.positions[:, first : first + patches.shape[1]]
    seen = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
    x = encoder.pre_norm(torch.cat([encoder.extra_tokens.expand(len(seen), -1, -1), seen], dim=1))
    for block in encoder.blocks:
        x = block(x)
    tokens: Tensor = x[:, 1:]
    return tokens


def patch_statistics(fbank: Tensor) -> Tensor:
    """What each patch looks like, level aside: (batch, 1, frames, 128) to (batch, tokens, 48) float32.

    Of each mel band the mean over time less that of the whole fbank, and the root mean square of the differences
    of values 1 and 4 frames apart, at 4 (mean) and 8 (differences) times their size in the normalised fbank so
    that all vary by about one.
    """
    patches = fbank.unfold(2, PATCH_FRAMES, PATCH_FRAMES).unfold(3, PATCH_FRAMES, PATCH_FRAMES)
    patches = patches[:, 0].flatten(1, 2)  # (batch, tokens, time, mel)
    level = fbank.mean(dim=(1, 2, 3))[:, None, None]
    changes = [(patches[:, :, lag:] - patches[:, :, :-lag]).square().mean(dim=2).sqrt() for lag in LAGS]
    return torch.cat([4 * (patches.mean(dim=2) - level), *(8 * change for change in changes)], dim=2)


class Lessons:
    """Mixtures with what the teacher makes of them; those that were asked for before are remembered."""

    def __init__(self, mixtures: Mixtures, teacher: YAMNet) -> None:
        self.mixtures, self.teacher, self.fbank = mixtures, teacher, KaldiFbank()
        self.per_decibel = math.log(10) / 10 / (2 * self.fbank.std)
        """What a decibel adds to the normalised fbank."""
        self.known: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        first = torch.cat([self._taught(number)[2] for number in range(STATISTICS_MIXTURES)])
        self.mean, self.std = first.mean(dim=0), first.std(dim=0)
        # Dimensions that hardly ever fire would count as much as others.
        self.std = self.std.clamp_min(max(0.2 * float(self.std.median()), 1e-6))

    def _taught(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        if number not in self.known:
            waveforms = torch.from_numpy(np.stack(self.mixtures[number]))
            segments = waveforms[1].unfold(0, PATCH_SAMPLES, SEGMENT_FRAMES * FRAME_SHIFT)
            with torch.inference_mode():
                fbanks, embedding = self.fbank(waveforms).half(), self.teacher(segments)[0]
            self.known[number] = fbanks[0].clone(), fbanks[1].clone(), embedding.clone()
        return self.known[number]

    def batch(self, numbers: list[int]) -> Lesson:
        """The mixtures of these numbers."""
        heard, wanted, embedding = map(torch.stack, zip(*map(self._taught, numbers), strict=True))
        target = ((embedding - self.mean) / self.std).clamp(-LARGEST_TARGET, LARGEST_TARGET)
        return Lesson(heard.float(), wanted.float(), target)


def learning_rate_at(step: int, plan: Distillation) -> float:
    """Linear warm-up, constant, and linear to 0 over the last fifth."""
    rising = (step + 1) / plan.warmup_steps
    falling = (plan.steps - step) / (plan.steps / 5)
    return plan.learning_rate * min(1.0, rising, falling)


def distil(
    plan: Distillation,
    folders: Sequence[Path],
    teacher: YAMNet,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    machines: Sequence[Path] = (),
) -> EAT:
    """Train a student and write it to ``out`` in Hugging Face layout, with its plan and ``log.jsonl``, the losses.

    ``out/checkpoint`` keeps the state every ``save_every`` steps; called again, it goes on from there and ends at
    the same weights, as every draw is a function of the seed and the step.

    Args:
        plan: what decides the weights, beside the recordings.
        folders: of recordings of any kind, each as likely to be heard as any other.
        teacher: see :func:`nearfar.distillation.yamnet.load_yamnet`.
        out: folder; made if needed.
        progress: called with finished and all steps.
        machines: folders of recordings of machines with hardly any noise, to be heard in that of ``folders``.

    Raises:
        InputError: if a folder holds no recordings, or ``out`` a checkpoint of another plan or other recordings.
        NearfarError: if the loss becomes infinite.
    """
    files = sound_files(folders, plan.excluded)
    student = Student(EATConfig(plan.embed_dim, plan.depth, plan.num_heads), plan.seed)
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.95), weight_decay=plan.weight_decay)
    recorded = by_folder(sound_files(machines, plan.excluded))
    identity = {"plan": plan.key(), "recordings": _recordings_key((*files, *recorded))}
    mixtures = Mixtures(files, SAMPLES, plan.seed, recorded, plan.machine_share)
    lessons = Lessons(mixtures, teacher)
    out.mkdir(parents=True, exist_ok=True)
    for step in range(_restored(out / "checkpoint", student, optimizer, identity), plan.steps):
        losses = _step(plan, step, student, optimizer, lessons)
        with (out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step} | losses) + "\n")
        if not math.isfinite(sum(losses.values())):
            raise NearfarError(f"{out}: the loss is {losses} at step {step}. Lower the learning rate.")
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            _save(out / "checkpoint", student, optimizer, step + 1, identity)
            save_encoder(student.encoder, out)
            write_text(out / "distillation.toml", plan.to_toml())
        if progress is not None:
            progress(step + 1, plan.steps)
    return student.encoder.eval()


def _step(
    plan: Distillation, step: int, student: Student, optimizer: torch.optim.Optimizer, lessons: Lessons
) -> dict[str, float]:
    rng = np.random.default_rng([plan.seed, 1, step])
    known = (step + 1) * plan.new_per_step
    groups = [*range(known - plan.new_per_step, known)]
    groups += rng.integers(known, size=plan.groups_per_step - plan.new_per_step).tolist()
    lesson = lessons.batch([GROUP * group + member for group in groups for member in range(GROUP)])
    batch_size = GROUP * plan.groups_per_step
    tokens = COLUMNS * student.encoder.config.bands
    visible = round(tokens * rng.uniform(plan.fewest_kept, 1.0))
    kept = torch.from_numpy(np.argsort(rng.random((2 * batch_size, tokens)), axis=1)[:, :visible])
    first_column = int(rng.integers(plan.farthest_column + 1))
    levels_db = rng.uniform(-plan.level_range_db, plan.level_range_db, batch_size)
    offset = torch.from_numpy(levels_db).float() * lessons.per_decibel
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
        losses = student.losses(lesson, kept, first_column, offset)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, plan)
    optimizer.zero_grad()
    (losses.embedding + plan.spectrum_weight * losses.spectrum).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.parameters(), 4.0)
    optimizer.step()
    return {name: float(loss.detach()) for name, loss in losses._asdict().items()}


def _recordings_key(folders: Sequence[Sequence[Path]]) -> str:
    """Sixteen hex digits of the recordings' names and sizes."""
    named = [[(path.parent.name, path.name, path.stat().st_size) for path in folder] for folder in folders]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def _save(
    folder: Path, student: Student, optimizer: torch.optim.Optimizer, step: int, identity: dict[str, str]
) -> None:
    """Weights and AdamW's moments in one file that appears whole."""
    tensors = {f"student.{name}": value.contiguous() for name, value in student.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "state.safetensors") as partial:
        save_file(tensors | {"step": torch.tensor(step)}, partial, metadata=identity)


def _restored(folder: Path, student: Student, optimizer: torch.optim.Optimizer, identity: dict[str, str]) -> int:
    """The step to go on from; 0 where there is no checkpoint."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        found = file.metadata() or {}
    for what, expected in identity.items():
        if found.get(what) != expected:
            raise InputError(
                path,
                found=f"a checkpoint of other {what} ({found.get(what)})",
                expected=f"{what} {expected}",
                remedy="Give another --out folder, or the plan and recordings that it was begun with",
            )
    tensors = load_file(path)
    student.load_state_dict(
        {n.removeprefix("student."): t for n, t in tensors.items() if n.startswith("student.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])
