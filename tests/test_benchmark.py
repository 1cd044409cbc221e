"""``nearfar benchmark``, and the code for GPUs as far as it can be tested without one."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.command import Nearfar

from nearfar.benchmark import Benchmark, benchmark, require_device
from nearfar.devices import moved
from nearfar.encoders.eat import EAT, EAT_BASE, EATConfig, encoder_flops
from nearfar.errors import InputError
from nearfar.frontends import KaldiFbank


@pytest.fixture(scope="module")
def measured() -> Benchmark:
    return benchmark(torch.device("cpu"), encoder="random:tiny", seconds=0.0, compiled=True, backend="eager")


def test_every_step_is_measured_in_its_precisions(measured: Benchmark) -> None:
    steps = [(row.step, row.precision) for row in measured.rows]
    assert steps[:5] == [
        ("matrix product", "float32"),
        ("matrix product", "bfloat16"),
        ("log-mel of 10 s", "float32"),
        ("embedding of 16 s", "float32"),
        ("embedding of 16 s", "bfloat16"),
    ]
    assert ("embedding of 16 s, compiled", "float32") in steps
    assert ("training, samples of 16 s", "bfloat16") in steps
    assert all(row.per_second > 0 and math.isfinite(row.per_second) for row in measured.rows)


def test_shares_are_of_the_product_in_the_same_precision(measured: Benchmark) -> None:
    products = {row.precision: row.gflops for row in measured.rows if row.step == "matrix product"}
    flops = encoder_flops(EATConfig(embed_dim=192, depth=4, num_heads=3), 1600)
    for row in measured.rows:
        if row.step == "embedding of 16 s":
            assert row.gflops == pytest.approx(row.per_second * flops / 1e9)
            assert row.of_product == pytest.approx(row.gflops / products[row.precision])


def test_operations_are_counted_as_by_a_hand_count() -> None:
    # One block of EAT-base on 16 s: qkv, projection and MLP of 801 tokens, and two products of attention.
    rows = 2 * 801 * 768 * 768 * (3 + 1 + 4 + 4) + 2 * 2 * 801 * 801 * 768
    assert encoder_flops(EAT_BASE, 1600) == 12 * rows + 2 * 800 * 256 * 768


def test_a_device_that_is_not_there_is_an_error() -> None:
    require_device(torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="install a CUDA build"):
            require_device(torch.device("cuda"))
    with pytest.raises(InputError, match="does not find"):
        require_device(torch.device("cuda:97"))
    with pytest.raises(InputError, match="does not find"):
        require_device(torch.device("meta"))


def test_the_command_prints_json_and_a_table(nearfar_command: Nearfar) -> None:
    options = ("benchmark", "--encoder", "random:tiny", "--seconds", "0")
    code, out, err = nearfar_command(*options, "--json")
    assert code == 0, err
    tree = json.loads(out)
    assert tree["device"] == "cpu"
    assert tree["versions"]["torch"] == torch.__version__
    assert {row["step"] for row in tree["rows"]} >= {"log-mel of 10 s", "embedding of 10 s, fast"}
    code, _, err = nearfar_command("benchmark", "--device", "abacus")
    assert code == 2
    assert "cpu or cuda" in err


# --- the CUDA path, as far as it can be tested without a GPU ----------------------------------------------------


class Recorded:
    """A tensor's stand-in that records how it is copied."""

    def __init__(self, calls: list[object]) -> None:
        self.device, self.calls = torch.device("cpu"), calls

    def pin_memory(self) -> Recorded:
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, **options: object) -> Recorded:
        self.calls.append((device.type, options))
        return self


def test_tensors_for_a_gpu_are_copied_from_pinned_memory() -> None:
    calls: list[object] = []
    moved(Recorded(calls), torch.device("cuda"))  # type: ignore[arg-type]
    assert calls == ["pinned", ("cuda", {"non_blocking": True})]
    calls.clear()
    moved(Recorded(calls), torch.device("cpu"))  # type: ignore[arg-type]
    assert calls == [("cpu", {})]


def test_front_end_and_encoder_keep_to_the_device_of_their_input() -> None:
    """On the meta device, an operation that mixes devices, as one with a constant of the CPU does, is an error."""
    device = torch.device("meta")
    frontend, encoder = KaldiFbank().to(device), EAT(EATConfig(embed_dim=32, depth=2, num_heads=2)).to(device)
    with torch.inference_mode():
        waveform = torch.zeros(2, 16_000, device=device)
        spectrogram = frontend.normalised(frontend.log_mel(waveform), waveform.shape[1])  # autocast has no meta
        (tokens,) = encoder.encode(spectrogram, token_keep=torch.ones(2, 56, dtype=torch.bool, device=device))
    assert tokens.patches.device == device
    assert tokens.patches.shape == (2, 56, 32)
