"""The folder of a trained model.

It holds ``model.json`` (classes, recipe, versions; written last, so its presence means that the folder is whole),
``head.safetensors`` (pooling, projection, class centres) and the files of the adaptation: ``encoder/`` for full
fine-tuning; ``adapter/`` for LoRA with, for a random start, the frozen ``base/`` encoder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import nearfar
from nearfar.config import Recipe
from nearfar.encoders import Adaptation, BaseEncoder
from nearfar.errors import InputError
from nearfar.files import whole_file
from nearfar.models.embedder import Embedder, EmbedderWithLoss, build_embedder, start_weights

FORMAT = 1
CARD_FILE, HEAD_FILE = "model.json", "head.safetensors"
CENTRES = "arcface.centres"
"""The name of the class centres in ``head.safetensors``, for every loss."""


@dataclass(frozen=True)
class TrainedEmbedder:
    """A trained embedder, ready for inference.

    Attributes:
        embedder: in evaluation mode, adapters merged.
        recipe: the recipe it was trained with.
        classes: composite labels in the order of the class centres.
        weights_hash: identity of everything that decides an embedding of a given waveform.
    """

    embedder: Embedder
    recipe: Recipe
    classes: tuple[str, ...]
    weights_hash: str


def _base(recipe: Recipe, base_hash: str) -> BaseEncoder:
    return BaseEncoder(recipe.encoder.entry("family"), start_weights(recipe), recipe.encoder.revision, base_hash)


def save_model(
    folder: Path, model: EmbedderWithLoss, recipe: Recipe, classes: tuple[str, ...], training: dict[str, Any]
) -> None:
    """Write a trained model, its resolved recipe and its composite labels as a model folder, created if needed.

    Args:
        model: LoRA adapters, if any, are written unmerged and merged afterwards *in place*.
        training: facts about the training for ``model.json`` (data fingerprint, steps, seconds).

    Raises:
        InputError: if the encoder cannot be written.
        OSError, SafetensorError: if another file cannot, for instance because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embedder = model.embedder
    adaptation: Adaptation = recipe.training.entry("adaptation")
    embedder.encoder = adaptation.write(embedder.encoder, folder, _base(recipe, model.base_hash))
    head = {f"pooling.{key}": value for key, value in embedder.pooling.state_dict().items()}
    head |= {f"projection.{key}": value for key, value in embedder.projection.state_dict().items()}
    head[CENTRES] = model.loss.get_parameter("centres").detach()
    with whole_file(folder / HEAD_FILE) as partial:
        save_file({key: value.cpu().contiguous() for key, value in head.items()}, partial)
    card = {
        "format": FORMAT,
        "nearfar": nearfar.__version__,
        "base_encoder": {"weights": recipe.encoder.weights, "hash": model.base_hash},
        "classes": list(classes),
        "training": training,
        "recipe": recipe.model_dump(mode="json"),
    }
    with whole_file(folder / CARD_FILE) as partial:
        partial.write_text(json.dumps(card, indent=1), encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any] | None:
    """The content of a model folder's ``model.json``, or None if there is none.

    Raises:
        InputError: if it was not written by :func:`save_model`.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}")
        if missing := {"base_encoder", "classes", "training", "recipe"} - card.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
        Recipe.model_validate(card["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            path,
            found=f"a model card that cannot be read ({' '.join(str(error).split())})",
            expected=f"a model of format {FORMAT}",
            remedy="Train the model again, or use the nearfar version that wrote it",
        ) from None
    return card


def load_model(folder: Path, *, encoder: str | None = None) -> TrainedEmbedder:
    """Read a model folder; ``encoder`` is the path of the encoder that adapters were trained on, if it has moved.

    Raises:
        InputError: if the folder holds no whole model, or its base encoder is not the one it was trained on.
    """
    card = read_card(folder)
    if card is None:
        raise InputError(
            folder, found=f"no {CARD_FILE}", expected="a trained model", remedy="Run nearfar run first"
        )
    recipe = Recipe.model_validate(card["recipe"])
    base = _base(recipe, card["base_encoder"]["hash"])
    trained = recipe.training.entry("adaptation").read(folder, base, encoder)
    embedder = build_embedder(trained, recipe)
    _load_head(embedder, folder / HEAD_FILE)
    embedder.eval().requires_grad_(False)
    return TrainedEmbedder(embedder, recipe, tuple(card["classes"]), _embedder_hash(embedder, recipe))


def _load_head(embedder: Embedder, path: Path) -> None:
    try:
        tensors = load_file(path)
        for name, module in (("pooling", embedder.pooling), ("projection", embedder.projection)):
            prefix = f"{name}."
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            module.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            path,
            found=f"a head that cannot be loaded ({str(error).splitlines()[-1].strip()})",
            expected="pooling and projection of this model's recipe",
            remedy="Train the model again or restore the file",
        ) from None


def _embedder_hash(embedder: Embedder, recipe: Recipe) -> str:
    sizes = getattr(embedder.encoder, "config", None) or embedder.encoder.sizes()
    constants = (sizes, recipe.fbank.mean, recipe.fbank.std, embedder.mask_padding)
    digest = hashlib.sha256(repr(constants).encode())
    for name, tensor in sorted(embedder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
