"""Export of encoders: from waveforms to tokens and their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import nearfar
from nearfar.encoders import ENCODERS, Encoder, encoder_hash, parameter_count
from nearfar.errors import InputError
from nearfar.export.onnx_file import OPSET, write_onnx
from nearfar.export.signals import LogMel, cannot
from nearfar.export.write import free_folder, made_up
from nearfar.exported.folder import CARD, MODEL, require_harmless
from nearfar.extras import require_extras
from nearfar.files import file_sha256, write_signed_json, write_text
from nearfar.frontends import KaldiFbank
from nearfar.frontends.kaldi import PATCH_FRAMES, SAMPLE_RATE_HZ

DESCRIPTION = "encoder.json"
LARGEST_DIFFERENCE = 1e-3
"""Of tokens, as a fraction of their root mean square."""
SECONDS = 2.0


class Embeddings(NamedTuple):
    """The outputs of an encoder's graph.

    Attributes:
        tokens: (clips, columns * bands, dim) float32, patch tokens of the last block.
        cls: (clips, dim), the token of the whole clip.
        mean: (clips, dim), the mean of the patch tokens.
    """

    tokens: Tensor
    cls: Tensor
    mean: Tensor


class EncoderGraph(nn.Module):
    """An encoder with its front end; clips have their own length, rounded up to whole patches."""

    def __init__(self, encoder: Encoder, mean: float = -4.268, std: float = 4.569) -> None:
        super().__init__()
        self.encoder, self.log_mel, self.mean, self.std = encoder, LogMel(), mean, std
        self.eval().requires_grad_(False)

    def forward(self, waveform: Tensor) -> Embeddings:
        """(clips, samples) float32 at 16 kHz, of one length."""
        log_mel = self.log_mel(waveform)
        missing = (PATCH_FRAMES - log_mel.shape[1] % PATCH_FRAMES) % PATCH_FRAMES
        spectrogram = (nn.functional.pad(log_mel, (0, 0, 0, missing)) - self.mean) / (2.0 * self.std)
        (last,) = self.encoder.encode(spectrogram.unsqueeze(1))
        assert last.cls is not None
        return Embeddings(last.patches, last.cls, last.patches.mean(dim=1))


def export_encoder(name: str, out: Path, *, family: str = "eat") -> dict[str, Any]:
    """Write an encoder as ``model.onnx``, check it, and return the content of ``encoder.json``.

    Args:
        name: as ``encoder.weights`` of a recipe.
        out: a new or empty folder, or one of an earlier export, which is replaced whole.
        family: a name in :data:`nearfar.encoders.ENCODERS`.

    Raises:
        InputError: if there is no such encoder, it or its front end cannot be exported, or tokens of made-up clips
            differ by more than :data:`LARGEST_DIFFERENCE`; then ``out`` is as it was.
    """
    require_extras("nearfar export", "export")
    entry = ENCODERS[family]
    encoder = entry.load(name, None)
    frontend = entry.frontend(*entry.fbank)
    if not isinstance(frontend, KaldiFbank):
        raise cannot("encoder", f"the front end {type(frontend).__name__}")
    graph = EncoderGraph(encoder)
    example = torch.from_numpy(made_up(2, round(SECONDS * SAMPLE_RATE_HZ))["noise"])
    with free_folder(out, DESCRIPTION) as partial:
        axes = {"waveform": {0: "clips", 1: "samples"}, "tokens": {0: "clips", 1: "tokens"}}
        axes |= {output: {0: "clips"} for output in ("cls", "mean")}
        write_onnx(graph, {"waveform": example}, Embeddings._fields, axes, partial / MODEL)
        require_harmless(partial / MODEL)
        facts = {
            "nearfar": nearfar.__version__,
            "opset": OPSET,
            "encoder": name,
            "family": family,
            "encoder_hash": encoder_hash(encoder),
            "parameters": parameter_count(encoder),
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "bands": encoder.bands,
            "embed_dim": encoder.embed_dim,
            "largest_difference": _checked(graph, frontend, partial / MODEL),
            "model_sha256": file_sha256(partial / MODEL),
        }
        write_signed_json(partial / DESCRIPTION, facts)
        write_text(partial / CARD, _card(facts))
    return facts


@torch.inference_mode()
def _checked(graph: EncoderGraph, frontend: KaldiFbank, path: Path) -> float:
    """The largest difference of tokens from those of the encoder with its own front end."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for name, samples in made_up(1, round(1.37 * SECONDS * SAMPLE_RATE_HZ)).items():
        (expected,) = graph.encoder.encode(frontend(torch.from_numpy(samples)))
        found = session.run(["tokens"], {"waveform": samples})[0]
        scale = float(expected.patches.square().mean().sqrt())
        difference = float(np.abs(found - expected.patches.numpy()).max()) / scale
        if not difference <= LARGEST_DIFFERENCE:
            raise InputError(
                name,
                found=f"tokens that differ by {difference:.3g} of their size from the encoder's",
                expected=f"at most {LARGEST_DIFFERENCE:g}",
                remedy="Nothing was written. Report it with the name of the encoder",
            )
        largest = max(largest, difference)
    return largest


def _card(facts: dict[str, Any]) -> str:
    return f"""# {facts["encoder"]}

An audio encoder ({facts["parameters"] / 1e6:.1f} M parameters), exported by nearfar {facts["nearfar"]} to ONNX, \
opset {facts["opset"]}.

- input `waveform`: float32 (clips, samples) at {facts["sample_rate_hz"]} Hz, of one length
- outputs `tokens`: float32 (clips, columns * {facts["bands"]}, {facts["embed_dim"]}); `cls` and `mean`: \
(clips, {facts["embed_dim"]})
- tokens of made-up clips differ from the encoder's by at most {facts["largest_difference"]:.2g} of their size
- encoder {facts["encoder_hash"]}; model.onnx SHA-256 {facts["model_sha256"]}
- the licence of the weights is that of the encoder
"""
