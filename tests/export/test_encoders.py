"""Exported encoders against the encoders and against arrays of the published code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests.command import Nearfar

from nearfar.encoders import load_encoder
from nearfar.errors import InputError
from nearfar.export import encoders
from nearfar.export.encoders import export_encoder
from nearfar.frontends import KaldiFbank


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "encoder"
    export_encoder("eat-tiny", out)
    return out


@torch.inference_mode()
@pytest.mark.parametrize("samples", [400, 16_000, 40_123])
def test_tokens_are_the_encoders(samples: int, exported: Path) -> None:
    waveform = 0.1 * torch.randn(3, samples, generator=torch.Generator().manual_seed(samples))
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    tokens, cls, mean = session.run(None, {"waveform": waveform.numpy()})
    (expected,) = load_encoder("eat-tiny").encode(KaldiFbank()(waveform))
    assert expected.cls is not None
    np.testing.assert_allclose(tokens, expected.patches.numpy(), atol=1e-3)
    np.testing.assert_allclose(cls, expected.cls.numpy(), atol=1e-3)
    np.testing.assert_allclose(mean, expected.patches.mean(dim=1).numpy(), atol=1e-3)


def test_the_folder_says_what_it_is_and_is_replaced(exported: Path, tmp_path: Path) -> None:
    facts = json.loads((exported / "encoder.json").read_text())
    assert facts["encoder"] == "eat-tiny"
    assert facts["largest_difference"] < 1e-3
    assert facts["model_sha256"] in (exported / "README.md").read_text()
    export_encoder("eat-tiny", exported)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        export_encoder("eat-tiny", tmp_path)


def test_a_difference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(InputError, match="tokens that differ"):
        export_encoder("random:tiny:0", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_an_encoder_by_name(tmp_path: Path, nearfar_command: Nearfar) -> None:
    done = nearfar_command("export", "random:tiny:1", "--to", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["family"] == "eat"
    refused = nearfar_command("export", "no-such-thing", "--to", tmp_path / "other")
    assert refused.code == 2
    assert "no-such-thing" in refused.err
