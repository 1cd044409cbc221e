"""Tensors come back bit for bit, and damage to any byte of their file is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nearfar.tensorfiles import read_metadata, read_tensors, write_tensors

TENSORS = {
    "a": torch.tensor([[1.5, -2.0], [float("inf"), 0.1]]),
    "b": torch.tensor(3, dtype=torch.int64),
    "c": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "d": torch.tensor([True, False]),
    "e": torch.zeros(0, 4),
}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tensors.safetensors"
    write_tensors(path, {**TENSORS, "transposed": torch.arange(6.0).reshape(2, 3).T}, {"step": "3"})
    found = read_tensors(path)
    assert found.pop("transposed").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert same(found, TENSORS)
    assert read_metadata(path)["step"] == "3"
    assert same(load_file(path), read_tensors(path))  # an ordinary safetensors file


def test_a_flipped_bit_of_any_byte_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, TENSORS, {"step": "3"})
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert same(read_tensors(path), TENSORS), f"byte {place}"
        except (SafetensorError, ValueError):
            refused += 1
    assert refused > 0.9 * len(whole)


def test_a_file_without_a_hash_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "earlier.safetensors")
    assert read_tensors(tmp_path / "earlier.safetensors")["a"].tolist() == [1.0, 1.0]
    with pytest.raises((OSError, SafetensorError)):
        read_tensors(tmp_path / "missing.safetensors")
