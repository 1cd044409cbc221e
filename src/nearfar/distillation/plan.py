"""What decides the weights of a distilled encoder, beside the recordings: read from and written to TOML."""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field, ValidationError, model_validator

from nearfar.settings import PositiveFloat, PositiveInt, Settings
from nearfar.errors import InputError

SHIPPED = "eat-tiny"


class Distillation(Settings):
    """A plan for :func:`nearfar.distillation.training.distil`; the defaults are those of eat-tiny."""

    embed_dim: PositiveInt = 192
    depth: PositiveInt = 4
    num_heads: PositiveInt = 3
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the student's start, the mixtures and every draw."""
    steps: PositiveInt = 6000
    groups_per_step: PositiveInt = 2
    """Groups of four mixtures of an update; each mixture is seen twice, with its noise and with less of it."""
    new_per_step: PositiveInt = 1
    """Groups of which so many are new; the others are drawn from all that were heard before."""
    machine_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """How many of the groups are of a machine in noise, where recordings of machines are given."""
    learning_rate: PositiveFloat = 1e-3
    """Of AdamW, after the warm-up; over the last fifth of the steps it falls to 0."""
    warmup_steps: PositiveInt = 50
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    fewest_kept: Annotated[float, Field(gt=0, le=1)] = 0.35
    """The share of tokens that the student sees is uniform from here to 1, drawn for each update."""
    spectrum_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the loss of tokens against that of embeddings."""
    level_range_db: Annotated[float, Field(ge=0)] = 12.0
    """The mixture with less noise is heard up to so much louder or softer than the other."""
    farthest_column: Annotated[int, Field(ge=0)] = 96
    """A crop stands at a random time of the table of positions, up to this column of 0.16 s."""
    bfloat16: bool = True
    """Matrix products in it, the rest in float32."""
    save_every: PositiveInt = 100
    excluded: tuple[str, ...] = ()
    """Recordings that are left out, as patterns of their last folders and names: ``5-*``, ``rain/*``."""

    @model_validator(mode="after")
    def _fits(self) -> Distillation:
        if self.new_per_step > self.groups_per_step:
            raise ValueError("new_per_step is at most groups_per_step")
        return self

    def key(self) -> str:
        """Sixteen hex digits that are equal where two plans train the same encoder of the same recordings."""
        tree = self.model_dump(mode="json", exclude={"save_every"})
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """The whole plan as TOML."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def load_distillation(name_or_path: str) -> Distillation:
    """The plan that the shipped ``eat-tiny`` was made by, or one from a TOML file.

    Raises:
        InputError: if there is no such file, or it holds something else.
    """
    if name_or_path == SHIPPED:
        text = (resources.files("nearfar") / "encoders" / "shipped" / SHIPPED / "distillation.toml").read_text(
            "utf-8"
        )
        return Distillation.model_validate(tomllib.loads(text))
    try:
        return Distillation.model_validate(tomllib.loads(Path(name_or_path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise InputError(
            name_or_path,
            found=" ".join(str(error).split())[:300],
            expected=f"{SHIPPED}, or a TOML file with keys of Distillation",
            remedy="Correct it",
        ) from None
