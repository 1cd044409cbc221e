"""The recipe: one frozen, typed tree that says how a system is made, read from and written to TOML.

A recipe file may name another one with ``extends``; it then states only what differs. What a run writes beside
its results is always the whole, resolved recipe.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nearfar.errors import InputError

NEAR_CHANNEL, FAR_CHANNEL = 0, 1
"""Left and right, as the challenge records them."""

_REMEDY = "See the reference of recipe keys in docs/reference.md and correct it"


def _named_once(channels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(channels)) != len(channels):
        raise ValueError("near, far or both, each once")
    return channels


PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Channels = Annotated[tuple[Literal["near", "far"], ...], Field(min_length=1), AfterValidator(_named_once)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    """Base of every table of a recipe: frozen, numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Audio(Table):
    """What every clip becomes before the front end."""

    sample_rate_hz: Literal[16000] = 16000
    clip_seconds: PositiveFloat | Literal["longest"] = 16.0
    """Clips are zero-padded to this length; ``longest`` is the longest clip of the data at hand."""
    near_channel: Annotated[int, Field(ge=0)] = NEAR_CHANNEL
    far_channel: Annotated[int, Field(ge=0)] = FAR_CHANNEL
    """Which channels of a file, from 0, the near and the far microphone are."""


class Fbank(Table):
    """Normalisation of the log-mel input: ``(x - mean) / (2 * std)``; the defaults are EAT's AudioSet values."""

    mean: float = -4.268
    std: PositiveFloat = 4.569


class Encoder(Table):
    """Which encoder, and where its weights come from."""

    weights: str = "worstchan/EAT-base_epoch30_pretrain"
    """A folder, file or hub name (see :func:`nearfar.load_encoder`), or ``random:tiny``, ``random:base``..."""
    revision: str | None = None
    """Hub revision; None means the revision pinned in nearfar."""
    mask_padding: bool = False
    """Whether attention and pooling leave out token columns that hold only padding; off as published."""
    drop_path: Rate = 0.1
    """Stochastic depth of the last block while fine-tuning; it grows linearly from 0 at the first block."""


class Head(Table):
    """Attentive statistics pooling, projection and ArcFace."""

    attention_dim: PositiveInt = 128
    embedding_dim: PositiveInt = 256
    scale: PositiveFloat = 30.0
    """s of ArcFace."""
    margin: Annotated[float, Field(ge=0, lt=3.1416)] = 0.2
    """m of ArcFace, in radians."""


class Lora(Table):
    """Low-rank adaptation; read only when ``training.adaptation = "lora"``."""

    rank: PositiveInt = 64
    alpha: PositiveFloat = 8.0
    dropout: Rate = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("attn.qkv", "attn.proj")


class Training(Table):
    """The fine-tuning loop."""

    adaptation: Literal["full", "lora"] = "full"
    channels: Channels = ("near", "far")
    """Each channel of a recording is a sample of its own; ``["near"]`` alone suits mono recordings."""
    steps: PositiveInt = 20_000
    batch_size: PositiveInt = 16
    """Samples (channels of clips) per optimiser step, over all processes and accumulation slices together."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass and process; None means all of a process's share at once."""
    learning_rate: PositiveFloat = 5e-5
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Rate, Rate] = (0.9, 0.95)
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the accelerator has it and float32 on CPU."""
    activation_checkpointing: bool = False
    checkpoint_every: PositiveInt = 500
    loader_threads: PositiveInt = 2


class Augmentation(Table):
    """Random changes to training waveforms and spectrograms; all off in the report."""

    time_shift: bool = False
    """Rotate the clip circularly by a random amount before padding."""
    gain_db: Annotated[float, Field(ge=0)] = 0.0
    """Random gain, uniform in plus or minus this many decibels."""
    mixup_probability: Fraction = 0.0
    """Probability that a sample is mixed with another training sample (waveforms and labels)."""
    frequency_mask_bins: Annotated[int, Field(ge=0, le=128)] = 0
    time_mask_frames: Annotated[int, Field(ge=0)] = 0


class Scoring(Table):
    """From embeddings to one anomaly score per clip."""

    channels: Channels = ("near", "far")
    neighbours: Literal[1] = 1
    """K of equation 3."""
    fusion: Literal["mean"] = "mean"
    """How the channels' scores become one."""
    batch_size: PositiveInt = 8


class Decision(Table):
    """From scores to decisions, which do not enter the official score: a threshold per machine and section."""

    threshold: Literal["gamma", "empirical"] = "gamma"
    """Quantile of a gamma distribution fitted to normal training scores, as the official baseline takes it, or of
    these scores themselves."""
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """The share of normal clips that the threshold is meant to let pass."""


class Autoencoder(Table):
    """The challenge's baselines; read only when ``method = "autoencoder"``, and then instead of the tables of the
    encoder and its training. They hear the near channel."""

    epochs: PositiveInt = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Vectors of five frames."""
    learning_rate: PositiveFloat = 1e-3
    validation_fraction: Rate = 0.1
    """The share of training vectors that is held out to watch the loss; it decides nothing."""
    score: Literal["mse", "mahala"] = "mse"
    textbook: bool = False
    """Whether ``mahala`` is the distance it is named after, or what the official code computes (off)."""


class Recipe(Table):
    """Everything that decides what a system computes."""

    name: str
    description: str = ""
    method: Literal["nearest-normal", "autoencoder"] = "nearest-normal"
    """An embedder with a bank of normal embeddings per machine, or an autoencoder per machine."""
    seed: Annotated[int, Field(ge=0)] = 0
    audio: Audio = Audio()
    fbank: Fbank = Fbank()
    encoder: Encoder = Encoder()
    head: Head = Head()
    lora: Lora = Lora()
    training: Training = Training()
    augmentation: Augmentation = Augmentation()
    scoring: Scoring = Scoring()
    decision: Decision = Decision()
    autoencoder: Autoencoder = Autoencoder()

    def with_changes(self, **changes: Any) -> Recipe:
        """A copy with dotted keys changed: ``recipe.with_changes(**{"training.steps": 10})``.

        Raises:
            InputError: if a key does not exist or a value does not fit.
        """
        tree = self.model_dump(mode="json")
        for dotted, value in changes.items():
            *tables, key = dotted.split(".")
            node = tree
            for table in tables:
                node = node.setdefault(table, {})
                if not isinstance(node, dict):
                    raise _unknown_key(f"recipe {self.name}", dotted)
            node[key] = value
        return _validated(tree, f"recipe {self.name}")

    def model_key(self) -> str:
        """Sixteen hex digits that are equal where two recipes train the same model.

        Scoring and decisions do not enter, nor the name, so a near and a fusion system share a model; nor does
        what only decides speed or memory, nor the tables that the recipe's method does not read.
        """
        if self.method == "autoencoder":
            tree = self.model_dump(mode="json", include={"method", "seed", "autoencoder"})
            for scoring_only in ("score", "textbook"):
                del tree["autoencoder"][scoring_only]
            if self.audio.near_channel != NEAR_CHANNEL:
                tree["near_channel"] = self.audio.near_channel
        else:
            tree = self._embedder_tree()
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]

    def _embedder_tree(self) -> dict[str, Any]:
        other = {"name", "description", "method", "scoring", "decision", "autoencoder"}
        tree = self.model_dump(mode="json", exclude=other)
        for speed_only in (
            "checkpoint_every",
            "loader_threads",
            "activation_checkpointing",
            "micro_batch_size",
        ):
            del tree["training"][speed_only]
        if self.training.adaptation != "lora":
            del tree["lora"]
        # The challenge's channels are left out, as they were before files of other recorders could be read: a
        # model that was trained then keeps its key.
        for key, usual in (("near_channel", NEAR_CHANNEL), ("far_channel", FAR_CHANNEL)):
            if tree["audio"][key] == usual:
                del tree["audio"][key]
        return tree

    def to_toml(self) -> str:
        """The whole recipe as TOML; None values, which TOML lacks, are left out and come back as None."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("nearfar") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe that comes with the package (by name) or a TOML file (by path).

    Raises:
        InputError: if there is no such recipe, it is not TOML, has an unknown key or a value that does not fit,
            or its ``extends`` go round in a circle.
    """
    return _validated(_read_tree(str(name_or_path), seen=()), str(name_or_path))


def _read_tree(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    this = name_or_path if name_or_path in recipe_names() else str(Path(name_or_path).resolve())
    if this in seen:
        raise InputError(
            name_or_path,
            found="recipes that extend each other: " + " -> ".join((*seen, this)),
            expected="a chain of extends that ends",
            remedy="Take one 'extends' out",
        )
    try:
        tree = tomllib.loads(_read_text(name_or_path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            name_or_path, found=f"text that is not TOML ({error})", expected="TOML", remedy="Correct the file"
        ) from None
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise InputError(
            name_or_path,
            found=f"extends = {parent!r}",
            expected="a recipe name or path",
            remedy="Correct the file",
        )
    if parent not in recipe_names() and not Path(parent).is_absolute():
        parent = str(Path(name_or_path).parent / parent)
    return _merged(_read_tree(parent, (*seen, this)), tree)


def _read_text(name_or_path: str) -> str:
    if name_or_path in recipe_names():
        return (resources.files("nearfar") / "recipes" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(
            name_or_path,
            found="no recipe of that name and no such file",
            expected=f"one of {', '.join(recipe_names())}, or a TOML file",
            remedy="Check the spelling",
        )
    return path.read_text(encoding="utf-8")


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both_tables else value
    return out


def _validated(tree: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        key = _dotted_key(first["loc"], tree)
        if first["type"] == "extra_forbidden":
            raise _unknown_key(where, key) from None
        # A value that may be one of several things has an error for each of them.
        reasons = [first["msg"]] + [other["msg"] for other in others if _dotted_key(other["loc"], tree) == key]
        raise InputError(
            where,
            found=f"no {key}" if first["type"] == "missing" else f"{key} = {first['input']!r}",
            expected=" or ".join(reason.removeprefix("Value error, ") for reason in reasons),
            remedy=_REMEDY,
        ) from None


def _dotted_key(location: tuple[int | str, ...], tree: dict[str, Any]) -> str:
    """``training.steps``; what pydantic adds to say which kind of value it tried is no key and left out."""
    parts: list[str] = []
    node: Any = tree
    for part in location:
        if isinstance(node, dict):
            node = node.get(str(part))
        elif not isinstance(part, int):
            break
        parts.append(str(part))
    return ".".join(parts)


def _unknown_key(where: str, key: str) -> InputError:
    return InputError(where, found=f"the unknown key {key}", expected="a key of the recipe", remedy=_REMEDY)
