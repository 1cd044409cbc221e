"""Safetensors files with a hash of their content: whole or not at all, and damage to any byte is found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfar.files import flush_to_disk, whole_file

_SHA256 = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name, with metadata and the SHA-256 of both; the folder is made if needed.

    Raises:
        OSError, SafetensorError: if the file cannot be written.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    words = dict(metadata or {})
    words[_SHA256] = _content_sha256(content, words)
    with whole_file(path) as partial:
        save_file(content, partial, words)
        flush_to_disk(partial)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, checked against the file's hash if it has one.

    Files that :func:`write_tensors` did not write have none.

    Raises:
        OSError, SafetensorError: if the file cannot be read.
        ValueError: if the content is not the one that the hash is of.
    """
    tensors, words = load_file(path), read_metadata(path)
    expected = words.pop(_SHA256, None)
    if expected is not None and (found := _content_sha256(tensors, words)) != expected:
        raise ValueError(f"SHA-256 {found[:12]}, not {expected[:12]}")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, without reading its tensors; the hash is the entry ``sha256``.

    Raises:
        OSError, SafetensorError: if the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except UnicodeDecodeError as error:
        raise SafetensorError(str(error)) from None


def _content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    found = hashlib.sha256()
    for key, value in sorted(metadata.items()):
        found.update(f"{key}={value}\n".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
