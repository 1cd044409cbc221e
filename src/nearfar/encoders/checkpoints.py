"""What the families of encoders share in reading and writing their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from nearfar.encoders.base import Encoder
from nearfar.encoders.weights import CONFIG_FILE, READERS, WEIGHTS_FILE
from nearfar.errors import InputError
from nearfar.files import whole_file

E = TypeVar("E", bound=Encoder)


def random_start(name: str, sizes: Mapping[str, Callable[[], E]]) -> E:
    """The encoder that ``random:SIZE`` or ``random:SIZE:SEED`` names, in evaluation mode; seed 0 by default."""
    _, size, *seed = name.split(":")
    if size not in sizes or len(seed) > 1 or not all(re.fullmatch(r"\d{1,18}", part) for part in seed):
        raise InputError(
            name,
            found="a random start of unknown size or seed",
            expected=f"random:SIZE or random:SIZE:SEED with SIZE one of {', '.join(sizes)}",
            remedy="Correct the name",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed[0]) if seed else 0)
        encoder = sizes[size]()
    encoder.eval()
    return encoder


def save_folder(encoder: Encoder, config: Mapping[str, Any], folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``; each file appears whole or not at all.

    Raises:
        InputError: if the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().float().clone() for name, tensor in encoder.state_dict().items()}
    try:
        with whole_file(folder / WEIGHTS_FILE) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
        with whole_file(folder / CONFIG_FILE) as partial:
            partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            folder,
            found=f"a folder that cannot be written ({error})",
            expected="a writable folder",
            remedy="Free some space or choose another folder",
        ) from None


def find_weights(name: str, *, example: str, source: str) -> Path:
    """The file of weights that a path names: the path itself, or ``model.safetensors`` in a folder.

    Raises:
        InputError: if there is no such file, or its name does not end as that of a checkpoint.
    """
    path = Path(name)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    if not path.is_file() or path.suffix not in READERS:
        raise InputError(
            name,
            found="no such checkpoint",
            expected=f"a file such as {example}, a folder with config.json and model.safetensors, or random:tiny",
            remedy=f"Check the path; {source} links to the released files",
        )
    return path


def read_checkpoint(path: Path, config_key: str, refusal: Callable[[Path, str], InputError]) -> tuple[Any, Any]:
    """Tensors by name, and configuration: a checkpoint's ``model`` and ``config_key``, or a folder's two files."""
    if path.suffix != ".safetensors":
        state = READERS[path.suffix](path, whole=True)
        if not isinstance(state.get(config_key), dict) or not isinstance(state.get("model"), dict):
            raise refusal(path, f"a checkpoint without the entries {config_key} and model")
        return state["model"], state[config_key]
    config: Any = {}
    beside = path.with_name(CONFIG_FILE)
    if beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise refusal(beside, f"no JSON ({error})") from None
        if not isinstance(config, dict):
            raise refusal(beside, f"a JSON {type(config).__name__}")
    return READERS[path.suffix](path), config


def differences(encoder: Encoder, tensors: Mapping[str, Any]) -> list[str]:
    """What is wrong with tensors as the weights of an encoder; empty if they fit exactly."""
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    wrong = [f"no {name}" for name in shapes if name not in tensors]
    wrong += [f"an unknown {name}" for name in tensors if name not in shapes]
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            wrong.append(f"{name} of type {getattr(value, 'dtype', type(value).__name__)}")
        elif name in shapes and tuple(value.shape) != shapes[name]:
            wrong.append(f"{name} of shape {tuple(value.shape)} instead of {shapes[name]}")
        elif not torch.isfinite(value).all():
            wrong.append(f"{name} with NaN or infinite values")
    return wrong


def first_of(wrong: list[str], at_most: int = 4) -> str:
    """The first few, and how many more there are."""
    return ", ".join(wrong[:at_most]) + (f" and {len(wrong) - at_most} more" if len(wrong) > at_most else "")
