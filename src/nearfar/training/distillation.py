"""Distillation: a small EAT learns what YAMNet makes of a sound, and keeps the spectrum beside it.

The student sees a random part of the patches of 3.84 s (four patches of YAMNet, 0.96 s each). The mean of the
tokens of each 0.96 s predicts YAMNet's embedding of it (standardised per dimension); every token predicts,
linearly, what its own patch looks like: per mel band, the mean and the deviation over its 16 frames. The first is
what makes sounds of a kind alike, the second what keeps two machines of the kind apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.config.distillation import Distillation
from nearfar.data.mixtures import Mixtures, sound_files
from nearfar.errors import NearfarError
from nearfar.files import whole_file, write_text
from nearfar.models.eat import EAT, EATConfig, build_encoder
from nearfar.models.fbank import FRAME_SAMPLES, FRAME_SHIFT, PATCH_FRAMES, Fbank
from nearfar.models.weights import save_encoder
from nearfar.models.yamnet import EMBEDDING_DIM, PATCH_SAMPLES, YAMNet
from nearfar.models.yamnet import PATCH_FRAMES as SEGMENT_FRAMES

SEGMENTS = 4
FRAMES = SEGMENTS * SEGMENT_FRAMES
SAMPLES = FRAME_SAMPLES + (FRAMES - 1) * FRAME_SHIFT
SEGMENT_COLUMNS = SEGMENT_FRAMES // PATCH_FRAMES
COLUMNS = FRAMES // PATCH_FRAMES
STATISTICS_MIXTURES = 64
LARGEST_TARGET = 4.0
FIRST_CONTRAST = 3.0


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
            self.to_spectrum = nn.Linear(config.embed_dim, 2 * PATCH_FRAMES)

    def losses(self, fbank: Tensor, target: Tensor, kept: Tensor, first_column: int) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the embeddings and of the patches' statistics.

        Args:
            fbank: (batch, 1, 384, 128) float32, normalised.
            target: (batch, 4, 1024) standardised embeddings of the teacher.
            kept: (batch, tokens) int64, the patch tokens that the student sees.
            first_column: where in the table of positions the crop stands.
        """
        tokens = visible_tokens(self.encoder, fbank, kept, first_column)
        segment = kept // (self.encoder.config.bands * SEGMENT_COLUMNS)
        of_segment = F.one_hot(segment, SEGMENTS).to(tokens.dtype)  # (batch, tokens, segments)
        count = of_segment.sum(dim=1)
        means = (of_segment.transpose(1, 2) @ tokens) / count.clamp_min(1.0).unsqueeze(2)
        errors = (self.to_embedding(means).float() - target).square().mean(dim=2)
        heard = (count > 0).to(errors.dtype)
        wanted = patch_statistics(fbank).gather(1, kept[..., None].expand(-1, -1, 2 * PATCH_FRAMES))
        return (errors * heard).sum() / heard.sum(), F.mse_loss(self.to_spectrum(tokens).float(), wanted)


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
    """Mean and deviation over time of each mel band of each patch, at 4 (mean) and 8 (deviation) times their size
    in the normalised fbank so that both vary by about one: (batch, 1, frames, 128) to (batch, tokens, 32)."""
    patches = fbank.unfold(2, PATCH_FRAMES, PATCH_FRAMES).unfold(3, PATCH_FRAMES, PATCH_FRAMES)
    patches = patches[:, 0].flatten(1, 2)  # (batch, tokens, time, mel)
    return torch.cat([4 * patches.mean(dim=2), 8 * patches.std(dim=2, correction=0)], dim=2)


class Lessons:
    """Mixtures with what the teacher makes of them; those that were asked for before are remembered."""

    def __init__(self, mixtures: Mixtures, teacher: YAMNet) -> None:
        self.mixtures, self.teacher, self.fbank = mixtures, teacher, Fbank()
        self.known: dict[int, tuple[Tensor, Tensor]] = {}
        first = torch.cat([self._taught(number)[1] for number in range(STATISTICS_MIXTURES)])
        self.mean, self.std = first.mean(dim=0), first.std(dim=0)
        # Dimensions that hardly ever fire would count as much as others.
        self.std = self.std.clamp_min(max(0.2 * float(self.std.median()), 1e-6))

    def _taught(self, number: int) -> tuple[Tensor, Tensor]:
        if number not in self.known:
            waveform = torch.from_numpy(self.mixtures[number])
            segments = waveform.unfold(0, PATCH_SAMPLES, SEGMENT_FRAMES * FRAME_SHIFT)
            with torch.inference_mode():
                fbank, embedding = self.fbank(waveform[None])[0].half(), self.teacher(segments)[0]
            self.known[number] = fbank.clone(), embedding.clone()
        return self.known[number]

    def batch(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """(batch, 1, 384, 128) normalised fbanks and (batch, 4, 1024) standardised targets."""
        taught = [self._taught(number) for number in numbers]
        embeddings = torch.stack([embedding for _, embedding in taught])
        target = ((embeddings - self.mean) / self.std).clamp(-LARGEST_TARGET, LARGEST_TARGET)
        return torch.stack([fbank for fbank, _ in taught]).float(), target


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
) -> EAT:
    """Train a student and write it to ``out`` in Hugging Face layout, with its plan and ``log.jsonl``, the losses.

    ``out/checkpoint`` keeps the state every ``save_every`` steps; called again, it goes on from there and ends at
    the same weights, as every draw is a function of the seed and the step.

    Args:
        plan: what decides the weights, beside the recordings.
        folders: of recordings, each as likely to be heard as any other.
        teacher: see :func:`nearfar.models.yamnet.load_yamnet`.
        out: folder; made if needed.
        progress: called with finished and all steps.

    Raises:
        InputError: if a folder holds no recordings.
        NearfarError: if the loss becomes infinite.
    """
    files = sound_files(folders, plan.excluded)
    student = Student(EATConfig(plan.embed_dim, plan.depth, plan.num_heads), plan.seed)
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.95), weight_decay=plan.weight_decay)
    lessons = Lessons(Mixtures(files, SAMPLES, plan.seed), teacher)
    out.mkdir(parents=True, exist_ok=True)
    for step in range(_restored(out / "checkpoint", student, optimizer), plan.steps):
        losses = _step(plan, step, student, optimizer, lessons)
        with (out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, "embedding": losses[0], "spectrum": losses[1]}) + "\n")
        if not math.isfinite(sum(losses)):
            raise NearfarError(f"{out}: the loss is {losses} at step {step}. Lower the learning rate.")
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            _save(out / "checkpoint", student, optimizer, step + 1)
            save_encoder(student.encoder, out)
            write_text(out / "distillation.toml", plan.to_toml())
        if progress is not None:
            progress(step + 1, plan.steps)
    return student.encoder.eval()


def _step(
    plan: Distillation, step: int, student: Student, optimizer: torch.optim.Optimizer, lessons: Lessons
) -> tuple[float, float]:
    rng = np.random.default_rng([plan.seed, 1, step])
    known = (step + 1) * plan.new_per_step
    new = list(range(known - plan.new_per_step, known))
    old = rng.integers(known, size=plan.batch_size - plan.new_per_step).tolist()
    fbank, target = lessons.batch(new + old)
    tokens = COLUMNS * student.encoder.config.bands
    visible = round(tokens * rng.uniform(plan.fewest_kept, 1.0))
    kept = np.argsort(rng.random((len(fbank), tokens)), axis=1)[:, :visible]
    first_column = int(rng.integers(plan.farthest_column + 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
        embedding, spectrum = student.losses(fbank, target, torch.from_numpy(kept), first_column)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, plan)
    optimizer.zero_grad()
    (embedding + plan.spectrum_weight * spectrum).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.parameters(), 4.0)
    optimizer.step()
    return float(embedding.detach()), float(spectrum.detach())


def _save(folder: Path, student: Student, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Weights and AdamW's moments in one file that appears whole."""
    tensors = {f"student.{name}": value.contiguous() for name, value in student.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "state.safetensors") as partial:
        save_file(tensors | {"step": torch.tensor(step)}, partial)


def _restored(folder: Path, student: Student, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 where there is no checkpoint."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return 0
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
