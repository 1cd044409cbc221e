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

from pydantic import Field

from nearfar.config.tables import (
    FAR_CHANNEL,
    NEAR_CHANNEL,
    Audio,
    Augmentation,
    Autoencoder,
    Cancellation,
    Decision,
    Detection,
    Encoder,
    Fbank,
    Features,
    Head,
    Lora,
    Scoring,
    Training,
)
from nearfar.config.validation import RecipeTable, validated
from nearfar.errors import InputError

__all__ = [
    "FAR_CHANNEL",
    "NEAR_CHANNEL",
    "Audio",
    "Augmentation",
    "Autoencoder",
    "Cancellation",
    "Decision",
    "Detection",
    "Encoder",
    "Fbank",
    "Features",
    "Head",
    "Lora",
    "Recipe",
    "Scoring",
    "Training",
    "load_recipe",
    "recipe_names",
]

_NEWER = {
    "head": ("loss", "sub_centres", "trainable_centres"),
    "training": ("target_share", "pseudo_labels"),
    "augmentation": ("far_noise_probability", "far_noise_snr_db"),
}
"""Keys that joined after models had been trained; at their defaults they do not enter a model's key."""


class Recipe(RecipeTable):
    """Everything that decides what a system computes."""

    method: Literal["nearest-normal", "autoencoder"] = "nearest-normal"
    """An embedder with a bank of normal embeddings per machine, or an autoencoder per machine."""
    seed: Annotated[int, Field(ge=0)] = 0
    audio: Audio = Audio()
    cancellation: Cancellation = Cancellation()
    fbank: Fbank = Fbank()
    encoder: Encoder = Encoder()
    head: Head = Head()
    lora: Lora = Lora()
    training: Training = Training()
    augmentation: Augmentation = Augmentation()
    features: Features = Features()
    scoring: Scoring = Scoring()
    decision: Decision = Decision()
    detection: Detection = Detection()
    autoencoder: Autoencoder = Autoencoder()

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
        other = {"name", "description", "method", "features", "scoring", "decision", "detection", "autoencoder"}
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
        if "cancelled" not in self.training.channels:
            del tree["cancellation"]
        for table, kind in (("head", Head), ("training", Training), ("augmentation", Augmentation)):
            for key in _NEWER[table]:
                usual = kind.model_fields[key].default
                if tree[table][key] == (list(usual) if isinstance(usual, tuple) else usual):
                    del tree[table][key]
        # The challenge's channels are left out, as they were before files of other recorders could be read: a
        # model that was trained then keeps its key.
        for key, usual in (("near_channel", NEAR_CHANNEL), ("far_channel", FAR_CHANNEL)):
            if tree["audio"][key] == usual:
                del tree["audio"][key]
        return tree


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
    return validated(Recipe, _read_tree(str(name_or_path), seen=()), str(name_or_path))


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
