"""Fixtures that every test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import settings
from tests.command import Finished, Nearfar

from nearfar import cli
from nearfar.config import Recipe, load_recipe

# A slow moment of a shared machine is not a failure.
settings.register_profile("nearfar", deadline=None)
settings.load_profile("nearfar")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of specifications, golden arrays and recordings beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the golden arrays and recordings in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Arrays computed once with the published EAT code and the official baseline."""
    return shared / "golden"


@pytest.fixture
def nearfar_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Nearfar:
    """``nearfar ARGUMENTS`` in this process, through the entry point."""

    def run(*arguments: str | Path | float) -> Finished:
        monkeypatch.setattr(sys, "argv", ["nearfar", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return Finished(stopped.value.code or 0, out, err)

    return run


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
