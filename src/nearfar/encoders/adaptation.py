"""Adaptations: ways of training an encoder, and of writing it to a model folder and reading it back.

LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022) is peft's: equation 2 of the
report, ``W = W0 + B A alpha``, with the factor ``alpha / rank``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nearfar.encoders.base import Encoder, EncoderFamily, encoder_hash
from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.files import whole_file
from nearfar.registry import Entry, Registry
from nearfar.settings import PositiveFloat, Rate, Settings

ENCODER_FOLDER, ADAPTER_FOLDER, BASE_FOLDER = "encoder", "adapter", "base"
"""Folders in a model folder: a whole encoder, adapters, and the randomly initialised encoder that they adapt."""

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""Peft's names of the two files of adapters."""

LARGEST_RANK = 1024
"""The width of EAT-large; a higher rank has more parameters than the adapted matrix."""


class LoraSettings(Settings):
    """Low-rank adaptation; read only when ``training.adaptation = "lora"``."""

    rank: Annotated[int, Field(gt=0, le=LARGEST_RANK)] = 64
    """At most the smaller side of each adapted matrix."""
    alpha: PositiveFloat = 8.0
    dropout: Rate = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("attn.qkv", "attn.proj")
    """Ends of the names of the adapted layers."""


@dataclass(frozen=True)
class BaseEncoder:
    """The encoder that a training starts from.

    ``family.load`` takes ``weights`` and ``revision``; ``hash`` is its :func:`encoder_hash`.
    """

    family: EncoderFamily
    weights: str
    revision: str | None
    hash: str

    def load(self, folder: Path, path: str | None = None) -> Encoder:
        """The encoder from ``path``, or else from the model folder's ``base/``, or else from ``weights``.

        Raises:
            InputError: if it cannot be loaded, or has another hash.
        """
        saved = folder / BASE_FOLDER
        source = path or (str(saved) if saved.is_dir() else self.weights)
        encoder = self.family.load(source, self.revision)
        if (found := encoder_hash(encoder)) != self.hash:
            raise InputError(
                self.weights if source == str(saved) else source,
                found=f"an encoder with hash {found[:12]}",
                expected=f"{self.hash[:12]}, which the adapters in {folder} were trained on",
                remedy="Give the same encoder weights, or train the model again",
            )
        return encoder


@dataclass(frozen=True, kw_only=True)
class Adaptation(Entry):
    """A way of training an encoder.

    Attributes:
        trains: whether anything is trained; if not, there is no model folder.
        prepare: make an encoder trainable, in place, and return it or a wrapper around it with the same methods.
        write: write the result of ``prepare`` to a model folder and return the plain, trained encoder.
        read: the trained encoder of a model folder. The last argument is the path of the base encoder if it has
            moved, or None. Raises :class:`InputError` if it cannot be read.
        needs_base: whether a model folder lacks the base encoder that is needed to read it.
    """

    trains: bool = True
    prepare: Callable[[Encoder, Any], Encoder]
    write: Callable[[Encoder, Path, BaseEncoder], Encoder]
    read: Callable[[Path, BaseEncoder, str | None], Encoder]
    needs_base: Callable[[Path], bool] = lambda _: False


def _write_whole(encoder: Encoder, folder: Path, base: BaseEncoder) -> Encoder:
    base.family.save(encoder, folder / ENCODER_FOLDER)
    return encoder


def _write_adapters(adapted: Encoder, folder: Path, base: BaseEncoder) -> Encoder:
    save_adapters(adapted, folder / ADAPTER_FOLDER, base=base.weights)
    # Only the same machine and version of torch is sure to repeat a random start.
    if base.weights.startswith("random:"):
        base.family.save(base.family.load(base.weights, None), folder / BASE_FOLDER)
    return merge_adapters(adapted)


def add_adapters(encoder: Encoder, lora: LoraSettings) -> Encoder:
    """Freeze an encoder and add trainable adapters to the layers that ``lora.targets`` names.

    Returns a peft model around the encoder, which is changed in place. It has the encoder's attributes and
    methods; only its adapters require gradients.

    Raises:
        InputError: if a target names no layer of the encoder, or one without a weight matrix, or the rank is
            larger than the smaller side of such a matrix, or peft is not installed.
    """
    require_extras("LoRA", "train")
    from peft import LoraConfig, get_peft_model

    for target in lora.targets:
        layers = [module for name, module in encoder.named_modules() if f".{name}".endswith(f".{target}")]
        matrices = [layer.weight for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
        if not layers or len(matrices) < len(layers):
            raise InputError(
                "lora.targets",
                found=f"{target!r}",
                expected="the end of a linear layer's name, such as attn.qkv, attn.proj, mlp.fc1 or mlp.fc2",
                remedy="Correct the recipe",
            )
        side = min(min(matrix.flatten(1).shape) for matrix in matrices)
        if lora.rank > side:
            raise InputError(
                "lora.rank",
                found=str(lora.rank),
                expected=f"at most {side}, the smaller side of the weights of {target}",
                remedy="Correct the recipe",
            )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
    )
    return cast(Encoder, get_peft_model(encoder, config))


def save_adapters(adapted: Any, folder: Path, base: str) -> None:
    """Write peft's ``adapter_config.json``, which names the encoder ``base``, and ``adapter_model.safetensors``.

    Raises:
        OSError, SafetensorError: if a file cannot be written.
    """
    from peft import get_peft_model_state_dict

    config = adapted.peft_config["default"]
    config.base_model_name_or_path = base
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    with whole_file(folder / WEIGHTS_FILE) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"format": "pt"})
    config.save_pretrained(folder)


def merge_adapters(adapted: Any) -> Encoder:
    """The plain encoder with the adapters' products added to its weights."""
    return cast(Encoder, adapted.merge_and_unload())


def load_adapters(encoder: Encoder, folder: Path) -> Encoder:
    """Merge the adapters of a folder into an encoder; torch's global random state stays as it was.

    Raises:
        InputError: if the folder does not hold exactly the adapters of this encoder, they cannot be read, or peft
            is not installed.
    """
    require_extras(str(folder), "train")
    from peft import PeftModel, get_peft_model_state_dict

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise _unfit(folder, f"no {name}")
    try:
        stored = load_file(folder / WEIGHTS_FILE)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft only warns of missing tensors; they are an error below
            adapted = PeftModel.from_pretrained(encoder, folder)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise _unfit(folder, f"adapters that cannot be loaded ({reason})") from None
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if differing := sorted(stored.keys() ^ expected.keys()):
        raise _unfit(folder, f"{len(differing)} tensors missing or left over ({', '.join(differing[:3])})")
    return merge_adapters(adapted)


def _unfit(folder: Path, found: str) -> InputError:
    return InputError(
        folder,
        found=found,
        expected="all the adapters, in peft's format, of the encoder they were trained on",
        remedy="Use the encoder they were trained on, restore the folder, or train the model again",
    )


ADAPTATIONS: Registry[Adaptation] = Registry("adaptation")
ADAPTATIONS["full"] = Adaptation(
    prepare=lambda encoder, _: encoder,
    write=_write_whole,
    read=lambda folder, base, _: base.family.load(str(folder / ENCODER_FOLDER), None),
    description="full fine-tuning",
)
ADAPTATIONS["lora"] = Adaptation(
    prepare=add_adapters,
    write=_write_adapters,
    read=lambda folder, base, path: load_adapters(base.load(folder, path), folder / ADAPTER_FOLDER),
    needs_base=lambda folder: not (folder / BASE_FOLDER).is_dir(),
    settings=LoraSettings,
    table="lora",
    description="LoRA",
)
ADAPTATIONS["none"] = Adaptation(
    trains=False,
    prepare=lambda encoder, _: encoder.requires_grad_(False),
    write=lambda encoder, *_: encoder,
    read=lambda folder, base, path: base.load(folder, path),
    description="frozen",
)
