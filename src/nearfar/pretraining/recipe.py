"""The recipe of self-supervised pre-training; the defaults are those of the published EAT-base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from nearfar.config.tables import FbankNormalisation
from nearfar.config.validation import RecipeTable, digest, read_toml, validated
from nearfar.settings import Fraction, NotNegative, PositiveFloat, PositiveInt, Settings

OpenFraction = Annotated[float, Field(gt=0, lt=1)]

RECIPES = "recipes/pretrain"
"""The folder of pre-training recipes in the package."""


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("an odd number")
    return number


Odd = Annotated[PositiveInt, AfterValidator(_odd)]


class Start(Settings):
    """The encoder to start from."""

    weights: str = "random:base"
    """As ``encoder.weights`` of a system's recipe: ``random:SIZE``, or a folder, file or hub name."""
    revision: str | None = None


class Masking(Settings):
    """Inverse block masks, see :func:`nearfar.pretraining.model.inverse_block_masks`."""

    clones: PositiveInt = 16
    """Masked views per clip; one pass of the teacher serves all of them."""
    ratio: OpenFraction = 0.8
    adjust: NotNegative = 0.07
    block: Odd = 5
    noise_std: NotNegative = 0.01
    """Standard deviation of the noise in the decoder's input at masked cells."""


class DecoderSizes(Settings):
    """The convolutional decoder; ``groups`` divide the encoder's width."""

    layers: PositiveInt = 6
    kernel: Odd = 3
    groups: PositiveInt = 16


class TeacherDecay(Settings):
    """The teacher's decay grows linearly from ``start`` to ``end`` over ``anneal_steps`` and stays there."""

    start: Fraction = 0.9998
    end: Fraction = 0.99999
    anneal_steps: PositiveInt = 100_000


class Guard(Settings):
    """Training counts as collapsed if a spread in ``log.jsonl`` is below its floor at ``from_step`` or later."""

    min_target_spread: NotNegative = 0.1
    min_prediction_spread: NotNegative = 0.01
    from_step: Annotated[int, Field(ge=0)] = 1_000


class PretrainTraining(Settings):
    """The training loop."""

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "loader_threads", "micro_batch_size"}
    )

    steps: PositiveInt = 400_000
    batch_size: PositiveInt = 48
    """Clips per optimiser step, over all processes; each has ``masking.clones`` views."""
    micro_batch_size: PositiveInt | None = None
    """Clips per forward pass and process; None means all of a process's rows at once."""
    learning_rate: PositiveFloat = 5e-4
    final_learning_rate: NotNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 53_333
    weight_decay: NotNegative = 0.05
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.95)
    clip_norm: PositiveFloat | None = 4.0
    utterance_weight: NotNegative | None = None
    """Weight of the mean utterance loss beside the mean frame loss. None is the number of views in a batch, as in
    the published code on one process."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: PositiveInt = 500
    loader_threads: PositiveInt = 2


class PretrainRecipe(RecipeTable):
    """The settings of a pre-training; with the recordings they decide its result."""

    seed: Annotated[int, Field(ge=0)] = 0
    crop_seconds: Annotated[float, Field(ge=0.5)] = 10.24
    """A clip is a random crop of one channel of a recording; shorter recordings are repeated to fill it."""
    export: Literal["student", "teacher"] = "student"
    """The encoder that is written."""
    encoder: Start = Start()
    fbank: FbankNormalisation = FbankNormalisation()
    masking: Masking = Masking()
    decoder: DecoderSizes = DecoderSizes()
    teacher: TeacherDecay = TeacherDecay()
    training: PretrainTraining = PretrainTraining()
    guard: Guard = Guard()

    def model_key(self) -> str:
        """Sixteen hex digits, equal for recipes that train the same encoder."""
        tree = self.model_dump(mode="json", exclude={"name", "description", "guard"})
        return digest(tree | {"training": self.training.identity()})


def load_pretrain_recipe(name_or_path: str | Path) -> PretrainRecipe:
    """Read a pre-training recipe that comes with the package (by name) or a TOML file (by path).

    Raises:
        InputError: if there is no such recipe, it is not TOML, has an unknown key or a value that does not fit.
    """
    name = str(name_or_path)
    return validated(PretrainRecipe, read_toml(name, RECIPES, "pre-training recipe"), name)
