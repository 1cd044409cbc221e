"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import typer
from hypothesis import settings
from safetensors.torch import load_file
from tests.browser import BROWSER, DRIVER, start_browser
from tests.command import Finished, Nearfar
from torch import Tensor

from nearfar import cli
from nearfar.challenge import run as run_module
from nearfar.charts import machine_figure
from nearfar.config import Recipe, load_recipe
from nearfar.data.layouts import read_dataset
from nearfar.models import build_model
from nearfar.training.labels import LabelledSamples, label_samples

# A slow moment of a shared machine is not a failure.
settings.register_profile("nearfar", deadline=None)
settings.load_profile("nearfar")


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: nothing of it is looked through for garbage again and again."""
    gc.freeze()


WITHOUT_GRADIENT = ("pooling.linear2.bias",)
"""A softmax over tokens does not see it: its gradient is rounding noise, of which AdamW makes whole steps."""

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of specifications and recordings beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the specifications and recordings in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden_arrays() -> Path:
    """The folder of arrays from outside oracles that comes with the tests; its README states their origin."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def runs_without_figures() -> Iterator[None]:
    """Runs draw no figures, which takes longer than all the rest; tests of figures ask for ``with_figures``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "machine_figure", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def with_figures() -> Callable[[], AbstractContextManager[None]]:
    """A context in which runs draw their figures after all."""

    @contextmanager
    def drawn() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_module, "machine_figure", machine_figure)
            yield

    return drawn


COMMANDS = functools.cache(typer.main.get_command)
"""Makes the commands of the command line only once: they are the same at every call."""


@pytest.fixture
def nearfar_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Nearfar:
    """``nearfar ARGUMENTS`` in this process, through the entry point."""

    def run(*arguments: str | Path | float) -> Finished:
        monkeypatch.setattr(sys, "argv", ["nearfar", *map(str, arguments)])
        monkeypatch.setattr(typer.main, "get_command", COMMANDS)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return Finished(stopped.value.code or 0, out, err)

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser, see :func:`tests.browser.show`; skips where there is none."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    driver = start_browser()
    yield driver
    driver.quit()


def write_clip(path: Path, seconds: float, tone_hz: float, seed: int, sample_rate_hz: int = 16_000) -> None:
    """Two channels of a tone in noise; the far one holds less of the tone."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    tone = np.sin(2 * np.pi * tone_hz * time + random.uniform(0, 6))
    near, far = (0.1 * level * tone + 0.02 * random.standard_normal(len(time)) for level in (1.0, 0.2))
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.stack([near, far], axis=1), sample_rate_hz, subtype="PCM_16")


@pytest.fixture(scope="session")
def small_factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machines in the DCASE 2026 layout, 1 s clips: 8 source and 2 target for training, 2 per test group."""
    root = tmp_path_factory.mktemp("factory")
    for number, (machine, tone_hz) in enumerate({"hummer": 440.0, "whiner": 1500.0}.items()):
        seed = 1000 * number
        for domain, clips, shift in (("source", 8, 1.0), ("target", 2, 1.1)):
            for index in range(clips):
                name = f"section_00_{domain}_train_normal_{index:04d}_spd_{index % 2 + 1}.wav"
                write_clip(root / machine / "train" / name, 1.0, tone_hz * shift * (1 + index % 2), seed + index)
            for label, fault in (("normal", 1.0), ("anomaly", 2.7)):
                for index in range(2):
                    name = f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav"
                    tone = tone_hz * shift * fault * (1 + index % 2)
                    write_clip(root / machine / "test" / name, 1.0, tone, seed + 500 + index + 10 * (fault > 1))
    return root


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """A recipe for ``small_factory`` that trains in a few seconds: tiny encoder, one-second clips."""
    return load_recipe("tiny-fusion").with_changes(
        **{
            "training.steps": 6,
            "training.batch_size": 4,
            "training.warmup_steps": 2,
            "training.checkpoint_every": 2,
        }
    )


@pytest.fixture(scope="session")
def labelled(small_factory: Path) -> LabelledSamples:
    """40 samples: both channels of the training clips of two machines."""
    return label_samples(clip for clip in read_dataset(small_factory).clips if clip.split == "train")


@pytest.fixture(scope="session")
def short_recipe(small_recipe: Recipe) -> Recipe:
    """Resolved to the one-second clips, four steps, and the numbers that tests compute with by hand."""
    return small_recipe.with_changes(
        **{
            "audio.clip_seconds": 1.0,
            "training.steps": 4,
            "training.learning_rate": 1e-3,
            "training.final_learning_rate": 2e-5,
            "training.weight_decay": 0.05,
            "training.betas": [0.9, 0.95],
        }
    )


@pytest.fixture
def one_thread():
    """Sums in the same order as in a subprocess with OMP_NUM_THREADS=1."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def start_tensors():
    """The weights of a full fine-tuning before its first step, named as in a model folder."""

    def read(recipe: Recipe, classes: int) -> dict[str, Tensor]:
        network = build_model(recipe, classes)
        parts = {
            "model.": network.embedder.encoder,
            "pooling.": network.embedder.pooling,
            "projection.": network.embedder.projection,
            "arcface.": network.loss,
        }
        return {
            prefix + name: tensor.clone()
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }

    return read


@pytest.fixture(scope="session")
def model_tensors():
    """Every tensor of a model folder of full fine-tuning, but the positions, which nothing trains."""

    def read(folder: Path) -> dict[str, Tensor]:
        tensors = load_file(folder / "encoder" / "model.safetensors") | load_file(folder / "head.safetensors")
        return {name: tensor for name, tensor in tensors.items() if not name.endswith("positions")}

    return read


@pytest.fixture(scope="session")
def largest_difference():
    """The largest distance between two trainings' tensors, relative to how far the first one moved the tensor."""

    def compare(one: dict[str, Tensor], other: dict[str, Tensor], start: dict[str, Tensor]) -> float:
        assert one.keys() == other.keys() == start.keys()
        distances = []
        for name in one.keys() - set(WITHOUT_GRADIENT):
            a, b, before = one[name], other[name], start[name]
            if name.endswith("qkv.bias"):  # attention does not see the bias of the keys either
                a, b, before = (torch.cat([tensor.chunk(3)[0], tensor.chunk(3)[2]]) for tensor in (a, b, before))
            moved = float((a - before).norm())
            assert moved > 0, f"{name} has not been trained"
            distances.append(float((a - b).norm()) / moved)
        return max(distances)

    return compare
