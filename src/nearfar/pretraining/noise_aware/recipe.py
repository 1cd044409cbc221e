"""The recipe of pre-training noise-aware layers; the defaults are the published settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from nearfar.config.tables import FbankNormalisation
from nearfar.config.validation import RecipeTable, digest, read_toml, validated
from nearfar.encoders.noise_aware import LayerSizes
from nearfar.pretraining.recipe import RECIPES, OpenFraction, Start
from nearfar.settings import Fraction, NotNegative, PositiveFloat, PositiveInt, Settings


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("the smaller number first")
    return values


Span = Annotated[tuple[float, float], AfterValidator(_ascending)]
PositiveSpan = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]


class Rooms(Settings):
    """Simulated rooms: shoeboxes with one machine, two microphones near it and noises in the corners."""

    count: PositiveInt = 1_000
    """Rooms; a sample takes one of them at random."""
    side_m: PositiveSpan = (3.0, 8.0)
    """Length, width and height, drawn separately."""
    reverberation_s: PositiveSpan = (0.1, 0.4)
    """Time in which the sound falls by 60 dB; at least what walls without echo would give."""
    near_m: PositiveFloat = 0.05
    """Distance of the near microphone from the machine."""
    far_m: PositiveSpan = (0.1, 1.0)
    """Distance of the far microphone."""
    noises: Annotated[int, Field(ge=1, le=8)] = 4
    """Noise sources, each in a corner of its own."""
    corner_m: PositiveFloat = 0.3
    """Distance of a noise source from its walls."""
    snr_db: Span = (-10.0, 10.0)
    """Machine to noise at the near microphone."""
    clean_s: PositiveFloat = 0.05
    """The wanted signal is the machine at the near microphone with its reflections up to this time."""
    most_reflections: PositiveInt = 12
    """Order up to which reflections are computed."""


class NoiseAwareTraining(Settings):
    """The training loop; the learning rate is constant."""

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "loader_threads", "micro_batch_size"}
    )

    steps: PositiveInt = 100_000
    batch_size: PositiveInt = 160
    """Samples per optimiser step, over all processes."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass and process; None means all of a process's rows at once."""
    learning_rate: PositiveFloat = 1e-4
    weight_decay: NotNegative = 0.01
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.999)
    clip_norm: PositiveFloat | None = 1.0
    average_decay: Fraction = 0.999
    """Of the exponential moving average of the layers, which is exported."""
    all_blocks: bool = False
    """Whether the losses are means over all blocks instead of those of the last one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: PositiveInt = 500
    loader_threads: PositiveInt = 2


class NoiseAwareRecipe(RecipeTable):
    """The settings of a pre-training of noise-aware layers; with the recordings they decide its result."""

    seed: Annotated[int, Field(ge=0)] = 0
    crop_seconds: Annotated[float, Field(ge=0.5)] = 10.0
    """Machine and noises are random crops of recordings; shorter recordings are repeated to fill them."""
    encoder: Start = Start(weights="worstchan/EAT-base_epoch30_pretrain")
    fbank: FbankNormalisation = FbankNormalisation()
    layers: LayerSizes = LayerSizes()
    rooms: Rooms = Rooms()
    training: NoiseAwareTraining = NoiseAwareTraining()

    def model_key(self) -> str:
        """Sixteen hex digits, equal for recipes that train the same layers."""
        tree = self.model_dump(mode="json", exclude={"name", "description"})
        return digest(tree | {"training": self.training.identity()})


def load_noise_aware_recipe(name_or_path: str | Path) -> NoiseAwareRecipe:
    """Read a recipe that comes with the package (by name) or a TOML file (by path).

    Raises:
        InputError: if there is no such recipe, it is not TOML, has an unknown key or a value that does not fit.
    """
    name = str(name_or_path)
    return validated(NoiseAwareRecipe, read_toml(name, RECIPES, "pre-training recipe"), name)
