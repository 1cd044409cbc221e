"""Low-rank adaptation of an encoder through peft.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; equation 2 of the report,
``W = W0 + B A alpha``, with peft's factor ``alpha / rank``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nearfar.config import Lora
from nearfar.encoders.eat import EAT
from nearfar.errors import InputError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""The names that peft gives the two files."""


def add_adapters(encoder: EAT, lora: Lora) -> Any:
    """Freeze the encoder and add trainable adapters to the layers that ``lora.targets`` names.

    Args:
        encoder: changed in place.
        lora: rank, alpha, dropout and the ends of the names of the adapted layers.

    Returns:
        A peft model around the encoder with the same call; only its adapters require gradients.

    Raises:
        InputError: if a target names no layer of the encoder, or one without a weight matrix.
    """
    from peft import LoraConfig, get_peft_model

    for target in lora.targets:
        named = [module for name, module in encoder.named_modules() if f".{name}".endswith(f".{target}")]
        if not named or not all(isinstance(module, nn.Linear | nn.Conv2d) for module in named):
            raise InputError(
                "lora.targets",
                found=f"{target!r}",
                expected="the end of a linear layer's name, such as attn.qkv, attn.proj, mlp.fc1 or mlp.fc2",
                remedy="Correct the recipe",
            )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
    )
    return get_peft_model(encoder, config)


def save_adapters(adapted: Any, folder: Path, base: str) -> None:
    """Write peft's ``adapter_config.json`` and ``adapter_model.safetensors``, naming the base encoder."""
    adapted.peft_config["default"].base_model_name_or_path = base
    with warnings.catch_warnings():
        # peft asks transformers-style base models for their vocabulary; an audio encoder has none.
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder, save_embedding_layers=False)


def merge_adapters(adapted: Any) -> EAT:
    """The plain encoder with the adapters' products added to its weights."""
    merged: EAT = adapted.merge_and_unload()
    return merged


def load_adapters(encoder: EAT, folder: Path) -> EAT:
    """The encoder with the adapters of a folder merged into it; torch's global random state is left as it was.

    Raises:
        InputError: if the folder holds no adapters, or they cannot be read, or they are not exactly the adapters
            of this encoder.
    """
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
        raise _unfit(folder, f"adapters that cannot be loaded ({_last_line(error)})") from None
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if differing := sorted(stored.keys() ^ wanted.keys()):
        raise _unfit(folder, f"{len(differing)} tensors missing or left over ({', '.join(differing[:3])})")
    return merge_adapters(adapted)


def _unfit(folder: Path, found: str) -> InputError:
    return InputError(
        folder,
        found=found,
        expected="all the adapters, in peft's format, of the encoder they were trained on",
        remedy="Use the encoder they were trained on, restore the folder, or train the model again",
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
