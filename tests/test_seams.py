"""Every kind of choice is extended from outside the package: a new entry here, one line in its table, no edits.

Each toy is defined in this file alone, entered into its table, and taken through ``run``, ``fit``, ``score``,
``ablate``, ``submit`` and ``submit --check`` on the command line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.command import Nearfar
from tests.fixtures import write_clip
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.config import Recipe, load_recipe
from nearfar.encoders import ENCODERS, SPEEDUPS, Encoder, EncoderFamily, Speedup, Tokens
from nearfar.errors import InputError
from nearfar.features import SOURCES, Source
from nearfar.frontends import KaldiFbank
from nearfar.losses import LOSSES, Loss
from nearfar.pooling import POOLINGS, TRAINED_POOLINGS, Pooling, TrainedPooling
from nearfar.registry import Entry, Registry
from nearfar.scoring import BACKENDS, FUSIONS, Backend, Fusion
from nearfar.settings import PositiveFloat, PositiveInt, Settings
from nearfar.thresholds import RULES, Rule
from nearfar.views import VIEWS, View

LABEL = "Last_INST_task2_1"


# --- a toy of each kind -----------------------------------------------------------------------------------------


class MaximumSettings(Settings):
    """``sharpness``: of the soft maximum over tokens."""

    sharpness: PositiveFloat = 2.0


class SoftMaximum(nn.Module):
    """A trained pooling: a learnt projection of every token, then their soft maximum."""

    def __init__(self, channels: int, sharpness: float) -> None:
        super().__init__()
        self.out_features, self.sharpness = channels // 2, sharpness
        self.linear = nn.Linear(channels, channels // 2)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        values = self.linear(tokens.float()) * self.sharpness
        if keep is not None:
            values = values.masked_fill(~keep.unsqueeze(2), float("-inf"))
        return values.logsumexp(dim=1) / self.sharpness


class CosineSettings(Settings):
    """``temperature``: by which cosines are divided."""

    temperature: PositiveFloat = 0.1


class CosineSoftmax(nn.Module):
    """A loss without a margin: softmax over cosines."""

    def __init__(self, num_classes: int, embedding_size: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.centres = nn.Parameter(torch.randn(num_classes, embedding_size))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        other_labels: Tensor | None = None,
        mixup_lambda: Tensor | None = None,
    ) -> Tensor:
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(self.centres, dim=1).T
        loss = F.cross_entropy(cosines / self.temperature, labels, reduction="none")
        if other_labels is not None and mixup_lambda is not None:
            other = F.cross_entropy(cosines / self.temperature, other_labels, reduction="none")
            loss = mixup_lambda * loss + (1 - mixup_lambda) * other
        return loss


@dataclass(frozen=True)
class PatchConfig:
    dim: int = 6


class PatchEncoder(Encoder):
    """An encoder family: one linear layer on patches of 32 mel bins and 8 frames, no CLS token, no positions."""

    depth, bands, patch_frames, longest_samples = 1, 4, 8, None

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config, self.embed_dim = config, config.dim
        self.patches = nn.Conv2d(1, config.dim, kernel_size=(8, 32), stride=(8, 32))

    def encode(self, spectrogram: Tensor, layers: Any = None, **masks: Any) -> list[Tokens]:
        grid = self.patches(spectrogram)
        return [Tokens(grid.flatten(2).transpose(1, 2), None) for _ in layers or (1,)]


def load_patches(name: str, revision: str | None) -> PatchEncoder:
    encoder = PatchEncoder(PatchConfig())
    if name.startswith("random:"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(name.rpartition(":")[2]))
            encoder = PatchEncoder(PatchConfig())
    else:
        encoder.load_state_dict(load_file(Path(name) / "patches.safetensors"))
    return encoder.eval()


def save_patches(encoder: PatchEncoder, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder.state_dict(), folder / "patches.safetensors")


class RoundingSettings(Settings):
    """``bits``: of a rounded number."""

    bits: PositiveInt = 4


class NarrowPatches(Encoder):
    """A speed-up of encoders: input rounded to few bits, for hardware that would be faster with them."""

    def __init__(self, encoder: Encoder, bits: int) -> None:
        super().__init__()
        self.encoder, self.steps = encoder, 2**bits
        self.config, self.embed_dim, self.depth = encoder.config, encoder.embed_dim, encoder.depth
        self.bands, self.patch_frames = encoder.bands, encoder.patch_frames
        self.longest_samples = encoder.longest_samples

    def encode(self, spectrogram: Tensor, layers: Any = None, **masks: Any) -> list[Tokens]:
        return self.encoder.encode((spectrogram * self.steps).round() / self.steps, layers, **masks)


class SubtractionSettings(Settings):
    """``far_share``: how much of the far channel is subtracted."""

    far_share: PositiveFloat = 0.5


class ResidualEnergySettings(Settings):
    """``octaves``: number of bands."""

    octaves: PositiveInt = 6


def residual_energies(batch: Any, parts: Any, wanted: Any) -> list[Tensor]:
    """A source of features: log energies of octaves of the waveform's spectrum, and their overall level."""
    spectra = torch.fft.rfft(batch.waveform).abs().square()
    out = []
    for settings in wanted:
        edges = [spectra.shape[1] >> number for number in range(settings.octaves + 1)][::-1]
        bands = [spectra[:, low:high].mean(dim=1) for low, high in itertools.pairwise(edges)]
        out.append(torch.stack(bands, dim=1).add(1e-12).log().unsqueeze(1))
    return out


class CentreSettings(Settings):
    """``power``: of the distance to the centre."""

    power: PositiveInt = 2


class Centre:
    """A scoring back-end: the distance to the mean of normal clips."""

    def __init__(self, normals: Tensor, settings: CentreSettings) -> None:
        self.normals, self.power = normals.flatten(1), settings.power

    def score(self, features: Any) -> np.ndarray:
        distances = (features.flatten(1) - self.normals.mean(dim=0)).norm(dim=1)
        return (distances.double() ** self.power).numpy()

    def leave_one_out(self) -> np.ndarray:
        rest = (self.normals.sum(dim=0) - self.normals) / max(len(self.normals) - 1, 1)
        return ((self.normals - rest).norm(dim=1).double() ** self.power).numpy()


def highest_normal(scores: Any, false_alarm_rate: float, groups: Any = None) -> float:
    """A threshold rule: the highest score of a normal clip."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise InputError("threshold", found="no scores", expected="one or more", remedy="Record normal clips")
    return float(values.max())


class Toy(NamedTuple):
    """A toy: its table and entry, the recipe that chooses it, and what a grid sets it against."""

    table: Registry[Any]
    entry: Entry
    base: str
    choice: dict[str, Any]
    instead: dict[str, Any]


FROZEN = {"encoder.weights": "random:tiny"}
TOYS = {
    "trained pooling": Toy(
        TRAINED_POOLINGS,
        TrainedPooling(
            build=lambda channels, chosen: SoftMaximum(channels, chosen.sharpness),
            settings=MaximumSettings,
            description="soft maximum of sharpness {sharpness:g}",
        ),
        "tiny-near",
        {"head.pooling": "toy", "head.sharpness": 3.0},
        {"head.pooling": "asp"},
    ),
    "loss": Toy(
        LOSSES,
        Loss(
            build=lambda classes, size, chosen: CosineSoftmax(classes, size, chosen.temperature),
            settings=CosineSettings,
            description="softmax of temperature {temperature:g}",
        ),
        "tiny-near",
        {"head.loss": "toy", "head.temperature": 0.2},
        {"head.loss": "adacos"},
    ),
    "pooling": Toy(
        POOLINGS,
        Pooling(
            pool=lambda tokens, chosen: (tokens * chosen.sharpness).logsumexp(dim=-2) / chosen.sharpness,
            settings=MaximumSettings,
            description="soft maximum of sharpness {sharpness:g}",
        ),
        "frozen-eat",
        FROZEN | {"features.pooling": "toy", "features.sharpness": 3.0},
        {"features.pooling": "mean"},
    ),
    "encoder family": Toy(
        ENCODERS,
        EncoderFamily(load=load_patches, save=save_patches, frontend=KaldiFbank, description="patches"),
        "frozen-eat",
        {"encoder.family": "toy", "encoder.weights": "random:6"},
        {"encoder.family": "eat", "encoder.weights": "random:tiny"},
    ),
    "trained encoder family": Toy(
        ENCODERS,
        EncoderFamily(load=load_patches, save=save_patches, frontend=KaldiFbank, description="patches"),
        "tiny-near",
        {"encoder.family": "toy", "encoder.weights": "random:6"},
        {"encoder.family": "eat", "encoder.weights": "random:tiny"},
    ),
    "speed-up": Toy(
        SPEEDUPS,
        Speedup(
            apply=lambda encoder, chosen: NarrowPatches(encoder, chosen.bits),
            settings=RoundingSettings,
            description="patches of {bits} bits",
        ),
        "frozen-eat",
        FROZEN | {"inference.speedups": ["toy"], "inference.bits": 6},
        {"inference.speedups": ["int8"]},
    ),
    "view of waveforms": Toy(
        VIEWS,
        View(
            description="near less {far_share:g} far",
            settings=SubtractionSettings,
            channels=("near", "far"),
            waveform=lambda recorded, chosen, rate: (
                recorded["near"] - np.float32(chosen.far_share) * recorded["far"]
            ),
        ),
        "nearfar-best",
        {"scoring.views": ["toy"], "scoring.far_share": 0.25},
        {"scoring.views": ["near"]},
    ),
    "view of features": Toy(
        VIEWS,
        View(
            description="near beside far",
            views=("near", "far"),
            combine=lambda features, chosen: torch.cat([features["near"], features["far"]], dim=2),
        ),
        "frozen-eat",
        FROZEN | {"scoring.views": ["near", "toy"]},
        {"scoring.views": ["near"]},
    ),
    "source of features": Toy(
        SOURCES,
        Source(
            description="energies of octaves",
            settings=ResidualEnergySettings,
            extract=residual_energies,
            uses_encoder=False,
            aggregation=lambda settings: f"energies of {settings.octaves} octaves",
        ),
        "nearfar-best",
        {"features.source": "toy", "features.octaves": 5, "scoring.views": ["near"]},
        {"features.source": "log-mel"},
    ),
    "back-end": Toy(
        BACKENDS,
        Backend(
            description="distance to the centre to the power of {power}",
            settings=CentreSettings,
            fit=lambda normals, target, settings, seed, workspace: Centre(normals, settings),
        ),
        "nearfar-best",
        {"scoring.backend": "toy", "scoring.power": 3},
        {"scoring.backend": "mahalanobis"},
    ),
    "fusion": Toy(
        FUSIONS,
        Fusion(
            description="maximum of",
            fuse=lambda scores, normals: np.max(np.stack(list(scores.values())), axis=0),
            uses_normals=False,
        ),
        "frozen-eat",
        FROZEN | {"scoring.views": ["near", "far"], "scoring.fusion": "toy"},
        {"scoring.fusion": "mean"},
    ),
    "threshold rule": Toy(
        RULES,
        Rule(find=highest_normal, description="highest score of a normal clip"),
        "nearfar-best",
        {"threshold.rule": "toy"},
        {"threshold.rule": "empirical"},
    ),
}

SHORT = {"training.steps": 3, "training.warmup_steps": 1, "training.batch_size": 4}
SHORTLY = [option for key, value in SHORT.items() for option in ("--set", f"{key}={value}")]


@pytest.fixture
def toy(request: pytest.FixtureRequest) -> Iterator[Toy]:
    chosen = TOYS[request.param]
    chosen.table["toy"] = chosen.entry
    yield chosen
    del chosen.table["toy"]


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One machine, clips of 0.5 s: 6 source and 2 target for training, 8 for the test."""
    root = tmp_path_factory.mktemp("development")
    write_training(root)
    for domain in ("source", "target"):
        for number, label in enumerate(("normal", "normal", "anomaly", "anomaly")):
            name = f"section_00_{domain}_test_{label}_{number:04d}_noAttribute.wav"
            write_clip(root / "mill" / "test" / name, 0.5, 500.0 * (1 + 2 * (label == "anomaly")), 100 + number)
    return root


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same machine with four test clips whose names state neither domain nor label."""
    root = tmp_path_factory.mktemp("evaluation")
    write_training(root)
    for number in range(4):
        write_clip(root / "mill" / "test" / f"section_00_{number:04d}.wav", 0.5, 500.0 + 400 * number, number)
    return root


def write_training(root: Path) -> None:
    for domain, clips in (("source", 6), ("target", 2)):
        for number in range(clips):
            name = f"section_00_{domain}_train_normal_{number:04d}_spd_{number % 2}.wav"
            write_clip(root / "mill" / "train" / name, 0.5, 500.0 * (1 + 0.1 * (domain == "target")), number)


@pytest.mark.parametrize("toy", TOYS, indirect=True)
def test_a_toy_goes_through_every_command(
    toy: Toy,
    development: Path,
    evaluation: Path,
    nearfar_command: Nearfar,
    tmp_path: Path,
) -> None:
    recipe = load_recipe(toy.base).with_changes(**toy.choice, name="with-toy")
    file = tmp_path / "with-toy.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")

    run = succeed(nearfar_command, "run", file, "--data", development, "--out", tmp_path / "run", *SHORTLY)
    assert "mill" in run
    assert (tmp_path / "run" / "results.json").is_file()

    model = ["--model", tmp_path / "run" / "model"] if recipe.trains else []
    detector = tmp_path / "detector"
    succeed(nearfar_command, "fit", development, "--out", detector, "--recipe", file, *SHORTLY, *model)
    code, out, err = nearfar_command("score", detector, evaluation / "mill" / "test", "--json")
    assert code in (0, 1), err
    assert len(json.loads(out)) == 4
    if toy.table is RULES:
        succeed(nearfar_command, "threshold", detector, "--rule", "toy", "--false-alarm-rate", 0.1)

    grid = tmp_path / "grid.toml"
    grid.write_text(grid_text(file, toy), encoding="utf-8")
    ablation = json.loads(
        succeed(nearfar_command, "ablate", grid, "--data", development, "--out", tmp_path / "grid", "--json")
    )
    assert {row["values"]["choice"] for row in ablation["rows"]} == {"toy", "other"}

    succeed(nearfar_command, "run", file, "--data", evaluation, "--out", tmp_path / "eval", *SHORTLY, *model)
    author = ("--author", "Ada Last <ada@inst.example>", "--institution", "Institute")
    package = tmp_path / "package"
    runs = (tmp_path / "eval", "--dev", tmp_path / "run")
    succeed(nearfar_command, "submit", *runs, "--label", LABEL, "--out", package, *author)
    succeed(nearfar_command, "submit", "--check", package)
    meta = next(package.rglob("*.meta.yaml")).read_text(encoding="utf-8")
    description = yaml.safe_load(meta)["system"]["description"]
    assert words_of(toy) in " ".join(str(value) for value in description.values())


@pytest.mark.parametrize("toy", TOYS, indirect=True)
def test_results_are_identified_by_the_settings_of_chosen_entries_alone(toy: Toy) -> None:
    recipe = load_recipe(toy.base).with_changes(**toy.choice)
    other = recipe.with_changes(**toy.instead)
    identity = parts_that_decide(recipe)
    assert identity != parts_that_decide(other)
    for key in toy.choice:
        if key.rpartition(".")[2] in toy.entry.settings.model_fields:
            assert parts_that_decide(recipe.with_changes(**{key: 9})) != identity
            assert parts_that_decide(other.with_changes(**{key: 9})) == parts_that_decide(other)


@pytest.mark.parametrize("toy", TOYS, indirect=True)
def test_a_misspelt_toy_is_refused_by_its_name(toy: Toy) -> None:
    key, value = next(
        (key, value) for key, value in toy.choice.items() if value in ("toy", ["near", "toy"], ["toy"])
    )
    with pytest.raises(InputError, match="did you mean 'toy'"):
        load_recipe(toy.base).with_changes(**{key: "toyy" if isinstance(value, str) else ["toyy"]})


def parts_that_decide(recipe: Recipe) -> Any:
    return recipe.system_identity(), recipe.threshold.identity()


def succeed(command: Callable[..., Any], *arguments: Any) -> str:
    code, out, err = command(*arguments)
    assert code == 0, (arguments, out, err)
    return str(out)


def grid_text(base: Path, toy: Toy) -> str:
    def table(changes: dict[str, Any]) -> str:
        return (
            "{ " + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in changes.items()) + " }"
        )

    lines = [f'base = "{base}"', "[set]", *(f'"{key}" = {value}' for key, value in SHORT.items())]
    return "\n".join([*lines, "[axes.choice]", "toy = {}", f"other = {table(toy.instead)}"]) + "\n"


def words_of(toy: Toy) -> str:
    """The description of the toy, with the settings of its recipe."""
    own = {key.rpartition(".")[2]: value for key, value in toy.choice.items()}
    settings = toy.entry.settings(**{key: own[key] for key in toy.entry.settings.model_fields if key in own})
    return toy.entry.described(settings)
