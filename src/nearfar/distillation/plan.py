"""The settings of a distillation, read from and written to TOML."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar

import tomli_w
from pydantic import Field, ValidationError, model_validator

from nearfar.config.validation import digest
from nearfar.distillation.mixtures import GROUP
from nearfar.errors import InputError
from nearfar.settings import Fraction, NotNegative, PositiveFloat, PositiveInt, Settings

SHIPPED = "eat-tiny"


class Distillation(Settings):
    """The settings of :func:`nearfar.distillation.training.distil`; the defaults are those of eat-tiny."""

    embed_dim: PositiveInt = 192
    depth: PositiveInt = 4
    num_heads: PositiveInt = 3
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the encoder's initial weights, the mixtures and every draw."""
    steps: PositiveInt = 6000
    groups_per_step: PositiveInt = 2
    """Groups of four mixtures per optimiser step; each mixture is encoded twice, noisy and cleaner."""
    new_per_step: PositiveInt = 1
    """Number of new groups among them; the others are drawn from all earlier groups."""
    machine_share: Fraction = 0.4
    """Fraction of groups that are of a machine in noise, if recordings of machines are given."""
    learning_rate: PositiveFloat = 1e-3
    """Of AdamW, after the warm-up; over the last fifth of the steps it falls to 0."""
    warmup_steps: PositiveInt = 50
    weight_decay: NotNegative = 0.05
    fewest_kept: Annotated[float, Field(gt=0, le=1)] = 0.35
    """The fraction of visible tokens is uniform from this to 1, drawn at each step."""
    spectrum_weight: NotNegative = 1.0
    """Weight of the tokens' loss beside that of embeddings."""
    level_range_db: NotNegative = 12.0
    """The cleaner mixture is up to this much louder or softer than the noisy one."""
    farthest_column: Annotated[int, Field(ge=0)] = 96
    """A crop starts at a random column (of 0.16 s) of the table of positions, up to this one."""
    bfloat16: bool = True
    """Matrix products in bfloat16, the rest in float32."""
    save_every: PositiveInt = 100
    excluded: tuple[str, ...] = ()
    """Patterns of recordings to leave out, matched from the right of a path: ``5-*``, ``rain/*``."""

    @model_validator(mode="after")
    def _fits(self) -> Distillation:
        if self.new_per_step > self.groups_per_step:
            raise ValueError("new_per_step is at most groups_per_step")
        return self

    micro_batch_size: ClassVar[int | None] = None
    clip_norm: ClassVar[float | None] = 4.0
    loader_threads: ClassVar[int] = 1

    @property
    def batch_size(self) -> int:
        return GROUP * self.groups_per_step

    @property
    def precision(self) -> str:
        return "bf16" if self.bfloat16 else "fp32"

    @property
    def checkpoint_every(self) -> int:
        return self.save_every

    def key(self) -> str:
        """Sixteen hex digits, equal for plans that train the same encoder from the same recordings."""
        return digest(self.model_dump(mode="json", exclude={"save_every"}))

    def to_toml(self) -> str:
        """The whole plan as TOML."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def load_distillation(name_or_path: str) -> Distillation:
    """The plan of the shipped ``eat-tiny``, or one from a TOML file.

    Raises:
        InputError: if there is no such file, or its content is not a plan.
    """
    try:
        shipped = resources.files("nearfar") / "encoders" / "shipped" / SHIPPED / "distillation.toml"
        text = (shipped if name_or_path == SHIPPED else Path(name_or_path)).read_text(encoding="utf-8")
        return Distillation.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise InputError(
            name_or_path,
            found=" ".join(str(error).split())[:300],
            expected=f"{SHIPPED}, or a TOML file with keys of Distillation",
            remedy="Correct it",
        ) from None
