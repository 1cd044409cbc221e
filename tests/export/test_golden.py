"""Encoder and front end through ONNX Runtime against arrays of the published code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nearfar.encoders import Encoder, load_encoder
from nearfar.export.onnx_file import write_onnx
from nearfar.export.signals import LogMel


class LastTokens(nn.Module):
    """(clips, 1, frames, 128) to (clips, tokens, dim), with CLS in front as in the published code."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrogram: Tensor) -> Tensor:
        (last,) = self.encoder.encode(spectrogram)
        assert last.cls is not None
        return torch.cat([last.cls[:, None], last.patches], dim=1)


def session(module: nn.Module, name: str, example: Tensor, axes: dict[int, str], path: Path):
    """ONNX Runtime with the module, exported for an example."""
    write_onnx(module.eval(), {name: example}, ["out"], {name: axes, "out": axes}, path)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_tokens_are_those_of_the_published_encoder(golden_arrays: Path, tmp_path: Path) -> None:
    golden = load_file(golden_arrays / "eat_tiny_A.safetensors")
    shutil.copy(golden_arrays / "eat_tiny_A.weights.safetensors", tmp_path / "model.safetensors")
    sizes = {"embed_dim": 48, "depth": 3, "num_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    encoder = load_encoder(tmp_path / "model.safetensors")
    # Traced with another length and number of clips than the arrays have.
    example = torch.zeros(1, 1, 64, 128)
    run = session(LastTokens(encoder), "spectrogram", example, {0: "clips", 2: "frames"}, tmp_path / "m.onnx")
    frames = int(golden["in.short_frames"])
    for samples, wanted in (("out.features", None), ("out.short_features", frames)):
        spectrogram = golden["input_fbank"][:, :, :wanted].numpy()
        (found,) = run.run(None, {"spectrogram": np.ascontiguousarray(spectrogram)})
        np.testing.assert_allclose(found, golden[samples].numpy(), atol=2e-5, rtol=1e-5)


def test_log_mel_is_that_of_torchaudio(golden_arrays: Path, tmp_path: Path) -> None:
    golden = load_file(golden_arrays / "fbank_1p3s.safetensors")
    run = session(LogMel(), "waveform", torch.zeros(2, 8000), {0: "clips", 1: "samples"}, tmp_path / "m.onnx")
    (found,) = run.run(None, {"waveform": golden["waveform"][None].numpy()})
    raw = golden["fbank_raw"].numpy()
    np.testing.assert_allclose(found[0], raw, atol=4e-3)
    assert np.abs((found[0] - raw) / (2 * 4.569)).mean() < 2e-5
