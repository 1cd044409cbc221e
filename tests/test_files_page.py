"""docs/files.md names every file, key and tensor of what is written, and its example reads a detector."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from tests.documentation import output_and_comments, page, python_blocks

from nearfar import Detector, load_recipe
from nearfar.export.write import export_detector

PAGE = "docs/files.md"


def section(heading: str) -> str:
    """The text of a section of the page."""
    return page(PAGE).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def keys_of(file: Path) -> set[str]:
    """The keys of an object, or of the first of a list."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return set(content[0] if isinstance(content, list) else content)


def named(heading: str) -> set[str]:
    """What stands in code type in a section."""
    return set(re.findall(r"`([^`\n]+)`", section(heading)))


@pytest.fixture(scope="module")
def detector(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("workshop") / "pump7"
    Detector.fit(small_factory / "hummer").save(out)
    return out


def test_files_and_keys_of_a_detector(detector: Path) -> None:
    names = named("A detector")
    for file in detector.iterdir():
        assert file.name in names
        if file.suffix == ".json":
            assert keys_of(file) <= names, file.name


def test_tensors_of_a_detector(detector: Path) -> None:
    names = {*named("A detector"), "000/features/near", "000/features/cancelled"}
    with safe_open(detector / "banks.safetensors", "np") as tensors:
        keys = set(tensors.keys())
        for name, types in {"000/features/near": "F32", "000/recording": "I64", "000/target": "U8"}.items():
            assert tensors.get_slice(name).get_dtype() == types
        windows, _, _ = tensors.get_slice("000/features/near").get_shape()
        assert tensors.get_slice("000/begins_s").get_shape() == [windows]
    assert "000/features/VIEW" in names
    assert {key for key in keys if not key.startswith("000/signals/")} <= names
    written = {name for name in named("A detector") if re.fullmatch(r"000/[a-z_]+/?[a-z_]*", name)}
    assert written <= keys, "tensors that are not written"


def test_files_and_keys_of_an_export(detector: Path, tmp_path: Path) -> None:
    export_detector(Detector.load(detector), tmp_path / "exported")
    names = named("An export")
    written = {file.name for file in (tmp_path / "exported").iterdir()}
    assert {"model.onnx", "exported.json"} <= written
    assert keys_of(tmp_path / "exported" / "exported.json") <= names


@pytest.mark.slow
def test_files_and_keys_of_a_trained_model(small_factory: Path, tmp_path: Path) -> None:
    recipe = load_recipe("tiny-lora-near").with_changes(**{"training.steps": 2})
    Detector.fit(small_factory / "hummer", recipe, model=tmp_path / "model")
    assert keys_of(tmp_path / "model" / "model.json") <= {*named("A trained model"), "sha256"}
    with safe_open(tmp_path / "model" / "head.safetensors", "np") as tensors:
        found = set(tensors.keys())
    assert {"projection.weight", "projection.bias", "arcface.centres"} <= found
    assert all(name.startswith("pooling.") or name in named("A trained model") for name in found)


def test_the_example_reads_a_detector(detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(detector.parent)
    ((_, code),) = python_blocks(PAGE)
    printed, _ = output_and_comments(code, PAGE)
    assert len(printed) == 3
    assert printed[0].startswith("hummer near (")
