"""What a recipe trains: an embedder with its ArcFace head, and the folder a trained one is kept in.

A model folder holds ``model.json`` (classes, recipe, versions; written last, so its presence means that the folder
is whole), ``head.safetensors`` (pooling, projection, class centres) and either ``encoder/`` (Hugging Face layout;
full fine-tuning) or ``adapter/`` (peft layout; LoRA) with, for a random start, the frozen ``base/`` encoder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nearfar
from nearfar.config import Head, Recipe
from nearfar.encoders import encoder_hash, load_encoder, save_encoder
from nearfar.encoders.eat import EAT
from nearfar.encoders.lora import add_adapters, load_adapters, merge_adapters, save_adapters
from nearfar.errors import InputError
from nearfar.files import whole_file
from nearfar.frontends.kaldi import Fbank
from nearfar.losses import LOSSES
from nearfar.models.embedder import Embedder, build_embedder, longest_seconds

FORMAT = 1


class Network(nn.Module):
    """An embedder and its angular-margin head as one module, so that it can be trained as one.

    Attributes:
        base_hash: identity of the encoder's weights before training.
    """

    def __init__(self, embedder: Embedder, arcface: nn.Module, base_hash: str) -> None:
        super().__init__()
        self.embedder, self.arcface, self.base_hash = embedder, arcface, base_hash

    def forward(
        self,
        waveform: Tensor,
        samples: Tensor,
        labels: Tensor,
        *,
        other_labels: Tensor | None = None,
        share: Tensor | None = None,
        blank: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> Tensor:
        """Loss per row, (rows,) float32; arguments as in :class:`Embedder` and :mod:`nearfar.losses`."""
        embeddings = self.embedder(waveform, samples, branch_keep=branch_keep, blank=blank)
        loss: Tensor = self.arcface(embeddings, labels, other_labels, share)
        return loss


def build_network(recipe: Recipe, classes: int) -> Network:
    """The network as it is before the first step: pre-trained (or random) encoder, random head.

    Args:
        recipe: ``encoder``, ``head``, ``fbank``, ``lora``, ``training.adaptation`` and ``seed`` are read.
        classes: number of composite labels.

    Raises:
        InputError: if the encoder's weights cannot be had or do not fit, or its positions end before the clips do.
    """
    encoder = load_encoder(start_weights(recipe), revision=recipe.encoder.revision)
    require_positions(encoder, recipe)
    base_hash = encoder_hash(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        embedder = _around(encoder, recipe)
        arcface = build_head(recipe.head, classes)
        if recipe.training.adaptation == "lora":
            embedder.encoder = add_adapters(encoder, recipe.lora)
    encoder.checkpoint_blocks = recipe.training.activation_checkpointing
    return Network(embedder, arcface, base_hash)


def build_head(head: Head, classes: int) -> nn.Module:
    """The loss that a recipe chooses, its centres drawn from torch's random state."""
    entry = LOSSES[head.loss]
    chosen = entry.settings(**{key: getattr(head, key) for key in entry.settings.model_fields})
    return entry.build(classes, head.embedding_dim, chosen)


def require_positions(encoder: EAT, recipe: Recipe) -> None:
    """Refuse clips that are longer than the encoder has positions for, with an :class:`InputError`."""
    seconds = recipe.audio.clip_seconds
    if not isinstance(seconds, str) and seconds > (longest := longest_seconds(encoder.config)):
        raise InputError(
            "audio.clip_seconds",
            found=f"{seconds:g} s",
            expected=f"at most {longest:g} s, where this encoder's table of positions ends",
            remedy="Cut the recordings into shorter clips",
        )


def start_weights(recipe: Recipe) -> str:
    """The recipe's encoder weights; a random start without a seed of its own takes the recipe's."""
    weights = recipe.encoder.weights
    return f"{weights}:{recipe.seed}" if weights.startswith("random:") and weights.count(":") == 1 else weights


def _around(encoder: EAT, recipe: Recipe) -> Embedder:
    return build_embedder(
        encoder,
        Fbank(recipe.fbank.mean, recipe.fbank.std),
        attention_dim=recipe.head.attention_dim,
        embedding_dim=recipe.head.embedding_dim,
        mask_padding=recipe.encoder.mask_padding,
    )


@dataclass(frozen=True)
class TrainedModel:
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


def save_model(
    folder: Path, network: Network, recipe: Recipe, classes: tuple[str, ...], training: dict[str, Any]
) -> None:
    """Write a trained network as a model folder.

    Args:
        folder: made if needed.
        network: LoRA adapters, if any, are written unmerged and merged afterwards *in place*.
        recipe: the resolved recipe.
        classes: composite labels.
        training: facts about the training to keep beside the model (data fingerprint, steps, seconds).

    Raises:
        InputError: if the encoder cannot be written.
        OSError, SafetensorError: if another file cannot, for instance because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embedder = network.embedder
    if recipe.training.adaptation == "lora":
        save_adapters(embedder.encoder, folder / "adapter", base=recipe.encoder.weights)
        embedder.encoder = merge_adapters(embedder.encoder)
        if recipe.encoder.weights.startswith("random:"):
            # A random start is only sure to come back on the same machine and torch, so it is kept.
            save_encoder(load_encoder(start_weights(recipe)), folder / "base")
    else:
        assert isinstance(embedder.encoder, EAT)
        save_encoder(embedder.encoder, folder / "encoder")
    head = {f"pooling.{key}": value for key, value in embedder.pooling.state_dict().items()}
    head |= {f"projection.{key}": value for key, value in embedder.projection.state_dict().items()}
    centres = network.arcface.centres
    assert isinstance(centres, Tensor)
    head["arcface.centres"] = centres.detach()
    with whole_file(folder / "head.safetensors") as partial:
        save_file({key: value.cpu().contiguous() for key, value in head.items()}, partial)
    card = {
        "format": FORMAT,
        "nearfar": nearfar.__version__,
        "base_encoder": {"weights": recipe.encoder.weights, "hash": network.base_hash},
        "classes": list(classes),
        "training": training,
        "recipe": recipe.model_dump(mode="json"),
    }
    with whole_file(folder / "model.json") as partial:
        partial.write_text(json.dumps(card, indent=1), encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any] | None:
    """The content of a model folder's ``model.json``, or None where there is none.

    Raises:
        InputError: if it is not what :func:`save_model` writes.
    """
    path = folder / "model.json"
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


def load_model(folder: Path, *, encoder: str | None = None) -> TrainedModel:
    """Read a model folder.

    Args:
        folder: as :func:`save_model` writes it.
        encoder: where the encoder is that adapters were trained on, if it is no longer where it was.

    Raises:
        InputError: if the folder holds no whole model, or its base encoder is not the one it was trained on.
    """
    card = read_card(folder)
    if card is None:
        raise InputError(
            folder,
            found="no model.json",
            expected="a trained model",
            remedy="Run nearfar run first",
        )
    recipe = Recipe.model_validate(card["recipe"])
    if recipe.training.adaptation == "lora":
        base = _base_encoder(folder, recipe, card["base_encoder"]["hash"], encoder)
        trained = load_adapters(base, folder / "adapter")
    else:
        trained = load_encoder(folder / "encoder")
    embedder = _around(trained, recipe)
    _load_head(embedder, folder / "head.safetensors")
    embedder.eval().requires_grad_(False)
    return TrainedModel(embedder, recipe, tuple(card["classes"]), _embedder_hash(embedder, trained))


def _base_encoder(folder: Path, recipe: Recipe, expected_hash: str, place: str | None) -> EAT:
    base = folder / "base"
    place = place or (str(base) if base.is_dir() else start_weights(recipe))
    encoder = load_encoder(place, revision=recipe.encoder.revision)
    if (found := encoder_hash(encoder)) != expected_hash:
        raise InputError(
            recipe.encoder.weights if place == str(base) else place,
            found=f"an encoder with hash {found[:12]}",
            expected=f"{expected_hash[:12]}, which the adapters in {folder} were trained on",
            remedy="Give the same encoder weights, or train the model again",
        )
    return encoder


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


def _embedder_hash(embedder: Embedder, encoder: EAT) -> str:
    digest = hashlib.sha256()
    digest.update(repr((encoder.config, embedder.fbank.mean, embedder.fbank.std, embedder.mask_padding)).encode())
    for name, tensor in sorted(embedder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
