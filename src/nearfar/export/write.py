"""Writing a detector as a folder that scores anywhere: the graph, its data, its check and its model card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

import nearfar
from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.detector import Detector
from nearfar.detector.machine import FittedMachine
from nearfar.errors import InputError
from nearfar.export.card import model_card
from nearfar.export.graph import DetectorGraph, Outputs
from nearfar.export.onnx_file import OPSET, write_onnx
from nearfar.exported.detector import ExportedDetector
from nearfar.exported.folder import (
    CALIBRATION,
    CARD,
    DESCRIPTION,
    MODEL,
    Description,
    NormalWindow,
    Parity,
    require_harmless,
)
from nearfar.extras import require_extras
from nearfar.files import exclusive, file_sha256, write_signed_json, write_text
from nearfar.pipeline.extractor import Extractor
from nearfar.pipeline.windows import hop_seconds
from nearfar.progress import Progress, silent
from nearfar.scores import Score
from nearfar.thresholds import Calibration
from nearfar.thresholds.file import write_thresholds

LARGEST_DIFFERENCE = 1e-4
"""Of scores, as a fraction of the threshold, or of scores above it."""
COMPARED = 20
"""Normal recordings that are scored by both, if their files are still there."""
NOT_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder, its description, and the size of the graph in bytes."""

    folder: Path
    description: Description
    bytes: int


def export_detector(
    detector: Detector, out: Path, machine: str | None = None, *, progress: Progress = silent
) -> Exported:
    """Write one machine of a detector to a folder, and check its scores.

    Args:
        out: a new or empty folder, or one of an earlier export, which is replaced whole.
        machine: of a detector of several.

    Raises:
        InputError: before anything is written, if the recipe has a choice that cannot be exported, the machine is
            not named, an extra is not installed or ``out`` holds something else; and if scores or decisions differ
            from the detector's, in which case ``out`` is as it was.
    """
    require_extras("nearfar export", "export")
    _require_free(out)
    extractor, fitted, calibration = detector.fitted(machine)
    graph = DetectorGraph(extractor, fitted)
    out.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(out), _written_whole(out) as partial:
        progress("exporting", 0, 3)
        _write_graph(graph, extractor, partial / MODEL)
        require_harmless(partial / MODEL)
        progress("exporting", 1, 3)
        thresholds = [
            entry
            for entry in detector.thresholds
            if (entry.machine, entry.section) == (fitted.machine, fitted.section)
        ]
        write_signed_json(partial / CALIBRATION, calibration.model_dump(mode="json"))
        write_thresholds(partial, thresholds)
        described = _description(graph, extractor, fitted, calibration, partial / MODEL, detector)
        write_signed_json(partial / DESCRIPTION, described.model_dump(mode="json"))
        parity = compared(detector, ExportedDetector(partial), fitted, calibration)
        progress("exporting", 2, 3)
        described = described.model_copy(update={"parity": parity})
        write_signed_json(partial / DESCRIPTION, described.model_dump(mode="json"))
        size = (partial / MODEL).stat().st_size
        write_text(partial / CARD, model_card(described, thresholds, calibration, detector.recipe, size))
        progress("exporting", 3, 3)
    return Exported(out, described, size)


def _require_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(out, found="a file", expected="a folder", remedy="Give another name")
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise InputError(
            out,
            found="a folder that holds something else",
            expected="a new or empty folder, or an earlier export",
            remedy="Give another folder",
        )


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end, or is removed after an error."""
    partial = Path(mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_graph(graph: DetectorGraph, extractor: Extractor, path: Path) -> None:
    samples, normals = extractor.padded_samples, 3
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "samples": 0.05 * torch.randn(2, len(graph.channels), samples, generator=generator),
        "thresholds": torch.zeros(2, dtype=torch.float64),
        "calibration_scores": torch.arange(normals, dtype=torch.float64),
        "calibration_weights": torch.ones(2, normals, dtype=torch.float64),
    }
    axes: dict[str, Mapping[int, str]] = {
        "samples": {0: "windows", 2: "samples"},
        "calibration_scores": {0: "normals"},
        "calibration_weights": {1: "normals"},
    }
    axes |= {name: {0: "windows"} for name in Outputs._fields}
    write_onnx(graph, inputs, Outputs._fields, axes, path)


def _description(
    graph: DetectorGraph,
    extractor: Extractor,
    fitted: FittedMachine,
    calibration: Calibration,
    model: Path,
    detector: Detector,
) -> Description:
    recipe: Any = extractor.recipe
    rate = recipe.audio.sample_rate_hz
    windows = [fitted.nearest(index) for index in range(len(fitted.recording))]
    return Description(
        nearfar=nearfar.__version__,
        opset=OPSET,
        machine=fitted.machine,
        section=fitted.section,
        name=detector.name_of(fitted),
        recipe=recipe.name,
        sample_rate_hz=rate,
        channels=graph.channels,
        near_channel=recipe.audio.near_channel,
        far_channel=recipe.audio.far_channel,
        window_samples=extractor.padded_samples,
        hop_samples=max(1, round(hop_seconds(recipe) * rate)),
        views=tuple(recipe.scoring.views),
        parts=graph.parts,
        normal_windows=tuple(
            NormalWindow(recording=name, begin_s=begin_s, file=file, domain=fitted.domain(index))
            for index, (name, begin_s, file) in enumerate(windows)
        ),
        profile=fitted.profile,
        parity=Parity(windows=0, recordings=0, largest=0.0),
        model_sha256=file_sha256(model),
    )


# --- check --------------------------------------------------------------------------------------------------


def made_up(channels: int, samples: int, rate_hz: int = SAMPLE_RATE_HZ) -> dict[str, NDArray[np.float32]]:
    """Recordings (channels, samples) that no machine makes, by name: noise, tones, clicks, quiet, loud, short."""
    random, time_s = np.random.default_rng(0), np.arange(samples) / rate_hz
    noise = random.standard_normal((channels, samples))
    tones = np.stack([np.sin(2 * np.pi * 440 * (1 + 0.3 * c) * time_s) for c in range(channels)])
    clicks = 0.01 * noise
    clicks[:, :: rate_hz // 7] += 0.5
    signals = {
        "noise": 0.1 * noise,
        "tones": 0.3 * tones + 0.001 * noise,
        "clicks": clicks,
        "quiet": 1e-4 * noise,
        "loud": np.clip(0.6 * noise, -1, 1),
        "short": 0.1 * noise[:, : max(rate_hz // 2, samples // 3)],
    }
    return {name: signal.astype(np.float32) for name, signal in signals.items()}


def compared(
    detector: Detector, exported: ExportedDetector, fitted: FittedMachine, calibration: Calibration
) -> Parity:
    """The differences of scores on normal and made-up recordings.

    Raises:
        InputError: if a score differs by more than :data:`LARGEST_DIFFERENCE` of the threshold, or a decision.
    """
    of = exported.description
    count = 1 + max(of.near_channel, of.far_channel)
    invented = made_up(count, of.window_samples + of.hop_samples // 2, of.sample_rate_hz)
    folder = Path(mkdtemp(prefix="nearfar-"))
    try:
        paths = [Path(file) for file in fitted.files if Path(file).is_file()][:COMPARED]
        normals = len(paths)
        for name, samples in invented.items():
            paths.append(folder / f"{name}.wav")
            soundfile.write(paths[-1], samples.T, of.sample_rate_hz, subtype="FLOAT")
        name = detector.name_of(fitted)
        wanted = detector.score_many(paths, name, keep_errors=True, explain=False)
        pairs = zip(paths, wanted, exported.score_many(paths, keep_errors=True), strict=True)
        largest, windows = 0.0, 0
        for path, one, other in pairs:
            if not isinstance(one, Score) or not isinstance(other, Score):
                if type(one) is not type(other):
                    raise _differs(path.name, "one of them cannot score the recording")
                continue
            difference = max(
                abs(a.score - b.score) for a, b in zip(one.windows, other.windows, strict=True)
            ) / _scale(one, calibration)
            if not difference <= LARGEST_DIFFERENCE:
                raise _differs(path.name, f"scores {one.score:.7g} and {other.score:.7g}")
            if one.anomalous != other.anomalous:
                raise _differs(path.name, f"decisions at scores {one.score:.7g} and {other.score:.7g}")
            largest, windows = max(largest, difference), windows + len(one.windows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Parity(windows=windows, recordings=normals, largest=largest)


def _scale(score: Score, calibration: Calibration) -> float:
    """The size of the threshold, or of the score where that is larger: rounding grows with it."""
    normal = calibration.scores()
    threshold = score.threshold or float(np.abs(normal).max(initial=0.0))
    return max(abs(threshold), abs(score.score), NOT_SAME)


def _differs(recording: str, found: str) -> InputError:
    return InputError(
        recording,
        found=f"{found} of the detector and of the export",
        expected=f"the same decision, and scores that differ by at most {LARGEST_DIFFERENCE:g} of the threshold",
        remedy="Nothing was written. Report it with the recipe of the detector",
    )
