"""A pre-training step against a plain one, and how long training waits for recordings.

    python benchmarks/pretraining.py [--size base] [--clips 4] [--clones 16] [--rounds 3]

The plain step computes the same targets and the same two losses from the same masks, but feeds all 512 tokens of
every view to the student (with a mask token at masked cells) and computes the teacher once per view.
That the targets are equal is checked. The plain student's predictions are another model's (it attends to mask
tokens), so its losses are of the same definition and not of the same value.
Targets: the step 2.5 times as fast; waiting below 5 % of the steps' time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from reference import interleaved
from torch import Tensor, nn

from nearfar.checkpoint import Identity
from nearfar.data.recordings import find_recordings
from nearfar.encoders.eat import build_encoder
from nearfar.pretraining.batches import Crops
from nearfar.pretraining.model import MaskedPredictor, Teacher, frame_loss, inverse_block_masks, utterance_loss
from nearfar.pretraining.recipe import PretrainRecipe
from nearfar.pretraining.run import build_student, pretrain

THREADS, FRAMES = 2, 1024


class PlainStudent(nn.Module):
    """The student as in BERT: every token passes every block."""

    def __init__(self, student: MaskedPredictor) -> None:
        super().__init__()
        self.encoder, self.decoder = student.encoder, student.decoder
        self.mask_token = nn.Parameter(torch.zeros(student.encoder.config.embed_dim))

    def forward(self, fbank: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """fbank: (views, 1, frames, 128), masked: (views, cells). Returns cells and utterance."""
        tokens = self.encoder.local_encoder(fbank)
        tokens = torch.where(masked[..., None], self.mask_token, tokens)
        tokens = tokens + self.encoder.fixed_positional_encoder.positions[:, : tokens.shape[1]]
        x = self.encoder.with_cls(tokens)
        for block in self.encoder.blocks:
            x = block(x)
        return self.decoder(x[:, 1:]), x[:, 0]


def finish(student: nn.Module, teacher: Teacher, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 4.0)
    optimizer.step()
    teacher.follow(student.encoder, 0.9998)


def steps(size: str, clips: int, clones: int, rounds: int) -> dict[str, float]:
    """Median seconds of either step."""
    recipe = PretrainRecipe(name="benchmark")
    encoder = build_encoder(size)
    student, plain = build_student(recipe, encoder), PlainStudent(build_student(recipe, build_encoder(size)))
    teacher, other = Teacher(student.encoder), Teacher(plain.encoder)
    fbank = torch.randn(clips, 1, FRAMES, 128)
    masks = inverse_block_masks(np.random.default_rng(0), clips * clones, FRAMES // 16, 8)
    masked, views = torch.from_numpy(masks), clips * clones
    ours, theirs = (torch.optim.AdamW(model.parameters(), lr=1e-6) for model in (student, plain))
    repeated = fbank.repeat_interleave(clones, dim=0)
    difference = (teacher.targets(fbank).repeat_interleave(clones, dim=0) - other.targets(repeated)).abs().max()
    assert float(difference) < 1e-4, f"the reference has other targets: {float(difference)}"

    def fast_step() -> None:
        targets = teacher.targets(fbank)
        noise = 0.01 * torch.randn(*masked.shape, encoder.config.embed_dim)
        cells, utterance = student(fbank, masked, noise)
        loss = frame_loss(cells, targets, masked) + views * utterance_loss(utterance, targets)
        finish(student, teacher, ours, loss)

    def plain_step() -> None:
        targets = other.targets(repeated)
        cells, utterance = plain(repeated, masked)
        loss = frame_loss(cells, targets, masked) + views * utterance_loss(utterance, targets)
        finish(plain, other, theirs, loss)

    seconds = interleaved({"nearfar": fast_step, "plain": plain_step}, rounds)
    speedup = median(p / n for p, n in zip(seconds["plain"], seconds["nearfar"], strict=True))
    return {
        "seconds_plain": round(median(seconds["plain"]), 3),
        "seconds_nearfar": round(median(seconds["nearfar"]), 3),
        "speedup": round(speedup, 2),
    }


def waiting(size: str, clips: int, clones: int, count: int) -> float:
    """Fraction of the steps' time spent waiting, without the first step, on 44.1 kHz stereo FLAC files of 30 s."""
    changes = {
        "encoder": {"weights": f"random:{size}"},
        "masking": {"clones": clones},
        "training": {"steps": count, "batch_size": clips, "warmup_steps": 1, "checkpoint_every": count},
    }
    recipe = PretrainRecipe.model_validate({"name": "benchmark", **changes})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(8):
            sound = 0.1 * np.random.default_rng(index).standard_normal((30 * 44_100, 2))
            soundfile.write(folder / f"{index}.flac", sound, 44_100)
        encoder = build_encoder(size)
        crops = Crops(find_recordings([folder]), recipe, encoder.config)
        pretrain(recipe, build_student(recipe, encoder), crops, folder, identity=Identity("benchmark", "data"))
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][1:]
    return sum(record["wait_seconds"] for record in records) / sum(record["seconds"] for record in records)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", default="tiny")
    options.add_argument("--clips", type=int, default=4)
    options.add_argument("--clones", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    torch.set_num_threads(THREADS)
    result = {"size": given.size, "clips": given.clips, "clones": given.clones}
    result |= steps(given.size, given.clips, given.clones, given.rounds)
    print(f"plain step    {result['seconds_plain']:7.3f} s")
    print(f"nearfar       {result['seconds_nearfar']:7.3f} s, {result['speedup']} times as fast (target 2.5)")
    result["wait_fraction"] = round(waiting(given.size, given.clips, given.clones, 3 * given.rounds), 4)
    print(f"waiting       {100 * result['wait_fraction']:.2f} % of the steps' time (target below 5)")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
