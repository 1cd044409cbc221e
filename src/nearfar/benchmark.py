"""Rates of the steps of a system on one device, each beside a plain matrix product: ``nearfar benchmark``.

Sound and weights are random: rates do not depend on them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nearfar
from nearfar.config import load_recipe
from nearfar.devices import moved
from nearfar.encoders import load_encoder
from nearfar.encoders.eat import EAT, EATConfig, encoder_flops
from nearfar.encoders.speedups import FAST, SPEEDUPS, faster
from nearfar.errors import InputError
from nearfar.frontends import KaldiFbank
from nearfar.frontends.kaldi import SAMPLE_RATE_HZ
from nearfar.models import build_model
from nearfar.scoring import NearestNeighbours
from nearfar.threads import several_threads

CLIP_SECONDS, PADDED_SECONDS = 10.0, 16.0
PRODUCT = 801, 768, 3072
"""Rows, inner and columns of the plain matrix product: the largest of EAT-base on a clip of 16 s."""

QUERIES, NORMALS, PARTS, DIM = 100, 1_000, 8, 768


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of the benchmark.

    Attributes:
        step: what was measured.
        precision: of its matrix products.
        per_second: clips, samples or products per second of the clock.
        gflops: of its matrix products, in 10^9 operations per second; None where it hardly has any.
        of_product: this rate divided by that of the plain product in the same precision.
    """

    step: str
    precision: str
    per_second: float
    gflops: float | None = None
    of_product: float | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The device, the versions, and all rows."""

    device: str
    processor: str
    threads: int
    versions: dict[str, str]
    encoder: str
    rows: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def benchmark(
    device: torch.device,
    *,
    encoder: str = "random:base",
    seconds: float = 3.0,
    batch: int | None = None,
    compiled: bool = False,
    backend: str = "inductor",
    progress: Callable[[str], None] = lambda step: None,
) -> Benchmark:
    """Measure every step for about ``seconds`` each, after a call for warmth.

    Args:
        device: a CPU or a GPU.
        encoder: as :func:`nearfar.load_encoder` takes it.
        seconds: of each measurement; a step that takes longer is measured once.
        batch: clips together; by default 1 on a CPU and 16 on a GPU.
        compiled: also measure the encoder by ``torch.compile``.
        backend: of ``torch.compile``.
        progress: called with the name of each step.

    Raises:
        InputError: if the device is not there, or the encoder cannot be loaded.
    """
    require_device(device)
    batch = batch or (1 if device.type == "cpu" else 16)
    network = load_encoder(encoder).to(device).requires_grad_(False)
    clock = _Clock(device, seconds)
    rows = []
    with several_threads():
        threads = torch.get_num_threads()
        for row in _rows(network, encoder, clock, batch, compiled, backend):
            progress(row.step)
            rows.append(row)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {"nearfar": nearfar.__version__, "torch": torch.__version__, "python": platform.python_version()}
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return Benchmark(name, _processor(), threads, versions, encoder, tuple(rows))


def product_rate(device: torch.device, seconds: float = 0.5) -> float:
    """Operations per second of a plain matrix product: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        InputError: if the device is not there.
    """
    require_device(device)
    with several_threads():
        found = _product(_Clock(device, seconds), torch.bfloat16 if device.type == "cuda" else torch.float32)
    assert found.gflops is not None
    return 1e9 * found.gflops


def require_device(device: torch.device) -> None:
    """Raise an InputError if there is no such device here."""
    there = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    if not there:
        raise InputError(
            "device",
            found=f"{device}, which torch {torch.__version__} does not find here",
            expected="cpu, or cuda with an NVIDIA GPU and a CUDA build of torch",
            remedy="Use the CPU, or install a CUDA build of torch and the GPU's driver",
        )


def _processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class _Clock:
    """Measures calls on a device, whose work may go on after a call has returned."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def __call__(self, work: Callable[[], object]) -> float:
        """Seconds of one call: the mean over as many calls as fit, after one that does not count."""
        work()
        self._wait()
        calls, began = 0, time.perf_counter()
        while True:
            work()
            calls += 1
            self._wait()
            if (passed := time.perf_counter() - began) >= self.seconds:
                return passed / calls

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _rows(network: EAT, name: str, clock: _Clock, batch: int, compiled: bool, backend: str) -> Iterator[Measured]:
    device = clock.device
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        row = _product(clock, dtype)
        products[row.precision] = row.gflops or 0.0
        yield row
    waveform = 0.1 * torch.randn(batch, round(CLIP_SECONDS * SAMPLE_RATE_HZ))
    frontend = KaldiFbank().to(device)
    with torch.inference_mode():
        yield Measured("log-mel of 10 s", "float32", batch / clock(lambda: frontend(moved(waveform, device))))
    kinds: list[tuple[str, Callable[[Tensor], Tensor]]] = [("", network)]
    if compiled:
        kinds.append((", compiled", torch.compile(network, backend=backend)))
    for words, encoder in kinds:
        for precision in products:
            yield _embedding(
                clock, encoder, network.config, frontend, batch, precision, words, products[precision]
            )
    yield _fast_embedding(clock, network, frontend, batch)
    yield from (_training_step(clock, name, batch, precision) for precision in products)
    yield _scoring(device, clock.seconds)


def _product(clock: _Clock, dtype: torch.dtype) -> Measured:
    rows, inner, columns = PRODUCT
    left = torch.randn(rows, inner, device=clock.device, dtype=dtype)
    right = torch.randn(inner, columns, device=clock.device, dtype=dtype)
    with torch.inference_mode():
        taken = clock(lambda: [left @ right for _ in range(20)]) / 20
    precision = str(dtype).removeprefix("torch.")
    return Measured("matrix product", precision, 1 / taken, 2 * rows * inner * columns / taken / 1e9, 1.0)


def _precision(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _embedding(
    clock: _Clock,
    encoder: Callable[[Tensor], Tensor],
    config: EATConfig,
    frontend: KaldiFbank,
    batch: int,
    precision: str,
    words: str,
    product: float,
) -> Measured:
    """Waveforms of 16 s in the processor's memory to the mean over tokens."""
    waveform = 0.1 * torch.randn(batch, round(PADDED_SECONDS * SAMPLE_RATE_HZ))

    def embed() -> Tensor:
        spectrogram = frontend(moved(waveform, clock.device))
        with _precision(clock.device, precision):
            return encoder(spectrogram)[:, 1:].float().mean(dim=1)

    with torch.inference_mode():
        taken = clock(embed)
        frames = frontend(waveform[:1].to(clock.device)).shape[2]
    gflops = batch * encoder_flops(config, frames) / taken / 1e9
    return Measured(f"embedding of 16 s{words}", precision, batch / taken, gflops, gflops / product)


def _fast_embedding(clock: _Clock, network: EAT, frontend: KaldiFbank, batch: int) -> Measured:
    """The same from 10 s with the speed-ups of ``--fast``."""
    waveform = 0.1 * torch.randn(batch, round(CLIP_SECONDS * SAMPLE_RATE_HZ))
    chosen = {name: SPEEDUPS[name].settings() for name in FAST}
    encoder, _ = faster(network, chosen)

    def embed() -> Tensor:
        (tokens,) = encoder.encode(frontend(moved(waveform, clock.device)))
        return tokens.patches.mean(dim=1)

    with torch.inference_mode():
        return Measured("embedding of 10 s, fast", "int8", batch / clock(embed))


def _training_step(clock: _Clock, encoder: str, batch: int, precision: str) -> Measured:
    """Forward and backward pass, and the optimiser's step, of full fine-tuning on samples of 16 s."""
    recipe = load_recipe("eat-fusion").with_changes(**{"encoder.weights": encoder})
    model = build_model(recipe, classes=10).train().to(clock.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate)
    waveform = 0.1 * torch.randn(batch, round(PADDED_SECONDS * SAMPLE_RATE_HZ))
    samples, labels = torch.full((batch,), waveform.shape[1]), torch.arange(batch) % 10

    def step() -> None:
        on_device = [moved(tensor, clock.device) for tensor in (waveform, samples, labels)]
        with _precision(clock.device, precision):
            loss = model(*on_device).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Measured("training, samples of 16 s", precision, batch / clock(step))


def _scoring(device: torch.device, seconds: float) -> Measured:
    """Scores of clips against a bank, which nearfar computes on the processor whatever the device."""
    random = torch.Generator().manual_seed(0)
    bank = torch.randn(NORMALS, PARTS, DIM, generator=random)
    queries = torch.randn(QUERIES, PARTS, DIM, generator=random)
    scorer = NearestNeighbours().fit(bank)
    taken = _Clock(torch.device("cpu"), seconds)(lambda: scorer.score(queries))
    flops = 2 * QUERIES * NORMALS * PARTS * DIM
    return Measured(
        f"scoring against {NORMALS} x {PARTS} x {DIM}, on the CPU", "float32", QUERIES / taken, flops / taken / 1e9
    )
