"""A family of encoders, a trained pooling and a loss that are registered at run time make a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.config import Recipe, load_recipe
from nearfar.encoders import ENCODERS, Encoder, EncoderFamily, Tokens
from nearfar.errors import InputError
from nearfar.frontends import Frontend
from nearfar.losses import LOSSES, Loss
from nearfar.models import build_model, load_model, save_model
from nearfar.pooling import TRAINED_POOLINGS, TrainedPooling
from nearfar.settings import PositiveInt, Settings


@dataclass(frozen=True)
class ToyConfig:
    width: int = 6


class Envelope(Frontend):
    """The mean and largest magnitude of every 100 samples, (batch, 1, frames, 2)."""

    def frame_count(self, samples: int) -> int:
        return samples // 100

    def forward(self, waveform: Tensor) -> Tensor:
        frames = waveform.abs().unfold(1, 100, 100)
        return torch.stack([frames.mean(dim=2), frames.amax(dim=2)], dim=2).unsqueeze(1)


class Toy(Encoder):
    """Two frames a column, one band, no CLS token."""

    bands, patch_frames, longest_samples = 1, 2, 20_000

    def __init__(self, config: ToyConfig = ToyConfig()) -> None:
        super().__init__()
        self.config, self.embed_dim, self.depth = config, config.width, 1
        self.mix = nn.Linear(4, config.width)

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        columns = spectrogram.shape[2] // 2
        patches = spectrogram[:, 0, : 2 * columns].reshape(len(spectrogram), columns, 4)
        return [Tokens(self.mix(patches).tanh(), None)] * len(layers or (1,))


def load_toy(name: str, revision: str | None) -> Toy:
    torch.manual_seed(0)
    toy = Toy()
    if Path(name).is_dir():
        toy.load_state_dict(load_file(Path(name) / "toy.safetensors"))
    return toy.eval()


def save_toy(encoder: Toy, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder.state_dict(), folder / "toy.safetensors")


class PowerMean(nn.Module):
    """The mean of powers of the tokens that are kept."""

    def __init__(self, channels: int, power: int) -> None:
        super().__init__()
        self.out_features, self.power = channels, power
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        counted = torch.ones(tokens.shape[:2]) if keep is None else keep.float()
        total = (tokens**self.power * self.scale * counted.unsqueeze(2)).sum(dim=1)
        return total / counted.sum(dim=1, keepdim=True)


class PowerSettings(Settings):
    power: PositiveInt = 1


class SquaredDistance(nn.Module):
    """Half the squared distance to the centre of the class."""

    def __init__(self, num_classes: int, embedding_size: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, embedding_size))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        other_labels: Tensor | None = None,
        mixup_lambda: Tensor | None = None,
    ) -> Tensor:
        return 0.5 * (embeddings - self.centres[labels]).square().sum(dim=1)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    toy = EncoderFamily(load=load_toy, save=save_toy, frontend=lambda mean, std: Envelope(), description="toy")
    monkeypatch.setitem(ENCODERS, "toy", toy)
    power = TrainedPooling(
        build=lambda channels, chosen: PowerMean(channels, chosen.power),
        settings=PowerSettings,
        description="power mean",
    )
    monkeypatch.setitem(TRAINED_POOLINGS, "power", power)
    squared = Loss(
        build=lambda classes, size, _: SquaredDistance(classes, size), description="distance to centres"
    )
    monkeypatch.setitem(LOSSES, "squared", squared)
    return load_recipe("tiny-near").with_changes(
        **{
            "encoder.family": "toy",
            "encoder.weights": "random:toy",
            "encoder.mask_padding": True,
            "head.pooling": "power",
            "head.power": 2,
            "head.loss": "squared",
            "head.embedding_dim": 3,
            "audio.clip_seconds": 1.0,
            "lora.rank": 2,
            "lora.targets": ["mix"],
        }
    )


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_model_of_toys_trains_and_comes_back(recipe: Recipe, adaptation: str, tmp_path: Path) -> None:
    recipe = recipe.with_changes(**{"training.adaptation": adaptation})
    waveform = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(1))
    samples, labels = torch.tensor([16_000, 9_000, 200]), torch.tensor([0, 1, 1])
    model = build_model(recipe, classes=2)
    assert isinstance(model.embedder.frontend, Envelope)
    assert isinstance(model.embedder.pooling, PowerMean)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        rows = model(waveform, samples, labels)
        assert rows.shape == (3,)
        optimizer.zero_grad()
        rows.mean().backward()
        optimizer.step()
        losses.append(float(rows.detach().mean()))
    assert losses == sorted(losses, reverse=True)
    model.eval()
    save_model(tmp_path, model, recipe, ("a", "b"), {})
    trained = load_model(tmp_path)
    assert type(trained.embedder.encoder) is Toy
    with torch.no_grad():
        torch.testing.assert_close(trained.embedder(waveform, samples), model.embedder(waveform, samples))
        padding = waveform.clone()
        padding[2, 200:] = 9.0
        torch.testing.assert_close(trained.embedder(padding, samples), trained.embedder(waveform, samples))


def test_clips_beyond_the_toys_limit_are_refused(recipe: Recipe) -> None:
    build_model(recipe.with_changes(**{"audio.clip_seconds": 1.25}), 2)
    with pytest.raises(InputError, match=r"audio\.clip_seconds: found 1\.3 s; expected at most 1\.25 s"):
        build_model(recipe.with_changes(**{"audio.clip_seconds": 1.3}), 2)
