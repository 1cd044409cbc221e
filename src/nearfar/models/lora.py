"""Low-rank adaptation of an encoder through peft.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; equation 2 of the report,
``W = W0 + B A alpha``, with peft's factor ``alpha / rank``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from nearfar.config import Lora
from nearfar.errors import InputError
from nearfar.models.eat import EAT


def add_adapters(encoder: EAT, lora: Lora) -> Any:
    """Freeze the encoder and add trainable adapters to the layers that ``lora.targets`` names.

    Args:
        encoder: changed in place.
        lora: rank, alpha, dropout and the ends of the names of the adapted layers.

    Returns:
        A peft model around the encoder with the same call; only its adapters require gradients.

    Raises:
        InputError: if a target names no layer of the encoder.
    """
    from peft import LoraConfig, get_peft_model

    names = [name for name, _ in encoder.named_modules()]
    for target in lora.targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise InputError(
                "lora.targets",
                found=f"{target!r}",
                expected="the end of a layer's name, such as attn.qkv, attn.proj, mlp.fc1 or mlp.fc2",
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
    """The encoder with the adapters of a folder merged into it.

    Raises:
        InputError: if the folder holds no adapters, or adapters of other shapes.
    """
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(
            folder,
            found="no adapter_model.safetensors",
            expected="adapters in peft's format",
            remedy="Train the model again or restore the folder",
        )
    try:
        adapted = PeftModel.from_pretrained(encoder, folder)
    except RuntimeError as error:
        raise InputError(
            folder,
            found=f"adapters that do not fit the encoder ({str(error).splitlines()[-1].strip()})",
            expected="adapters of the same encoder",
            remedy="Use the encoder they were trained on",
        ) from None
    return merge_adapters(adapted)
