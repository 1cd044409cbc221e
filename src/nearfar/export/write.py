"""Writing a detector as a folder that scores anywhere: the graph, its data, its check and its model card."""

from __future__ import annotations

import shutil
import time
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
from nearfar.export.openvino import write_openvino
from nearfar.export.precision import PRECISIONS
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
ROUNDS = 5
_CONVERTED, _WHOLE = "converted.onnx", "whole.onnx"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder, its description, and the size of the graph in bytes."""

    folder: Path
    description: Description
    bytes: int


def export_detector(
    detector: Detector,
    out: Path,
    machine: str | None = None,
    *,
    precision: str = "fp32",
    openvino: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write one machine of a detector to a folder, and check its scores.

    Args:
        out: a new or empty folder, or one of an earlier export, which is replaced whole.
        machine: of a detector of several.
        precision: a name in :data:`nearfar.export.precision.PRECISIONS`. Of others than ``fp32``, the differences
            are measured and stated, and not limited.
        openvino: also write the graph for OpenVINO.

    Raises:
        InputError: before anything is written, if the recipe has a choice that cannot be exported, the machine is
            not named, an extra is not installed or ``out`` holds something else; and if scores or decisions differ
            from the detector's, in which case ``out`` is as it was.
    """
    require_extras("nearfar export", "export", *(["openvino"] if openvino else []))
    convert = PRECISIONS[precision].convert
    extractor, fitted, calibration = detector.fitted(machine)
    graph = DetectorGraph(extractor, fitted)
    with free_folder(out) as partial:
        progress("exporting", 0, 3)
        _write_graph(graph, extractor, partial / MODEL)
        if convert is not None:
            convert(partial / MODEL, partial / _CONVERTED)
            (partial / MODEL).rename(partial / _WHOLE)
            (partial / _CONVERTED).rename(partial / MODEL)
        require_harmless(partial / MODEL)
        progress("exporting", 1, 3)
        thresholds = [
            entry
            for entry in detector.thresholds
            if (entry.machine, entry.section) == (fitted.machine, fitted.section)
        ]
        write_signed_json(partial / CALIBRATION, calibration.model_dump(mode="json"))
        write_thresholds(partial, thresholds)
        described = _description(graph, extractor, fitted, partial / MODEL, detector, precision)
        write_signed_json(partial / DESCRIPTION, described.model_dump(mode="json"))
        parity = compared(detector, ExportedDetector(partial), fitted, calibration, exact=convert is None)
        if convert is not None:
            parity = parity.model_copy(update={"speed": _speed(partial, described)})
            (partial / _WHOLE).unlink()
        if openvino:
            found = write_openvino(partial, _windows(described), LARGEST_DIFFERENCE)
            parity = parity.model_copy(update={"openvino": found})
        progress("exporting", 2, 3)
        described = described.model_copy(update={"parity": parity})
        write_signed_json(partial / DESCRIPTION, described.model_dump(mode="json"))
        size = (partial / MODEL).stat().st_size
        write_text(partial / CARD, model_card(described, thresholds, calibration, detector.recipe, size))
        progress("exporting", 3, 3)
    return Exported(out, described, size)


@contextmanager
def free_folder(out: Path, mark: str = DESCRIPTION) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end, or is removed after an error.

    Args:
        out: new, empty, or with a file ``mark``.
        mark: the file by which an earlier export is recognised.

    Raises:
        InputError: if ``out`` holds something else, or another program is writing there.
    """
    _require_free(out, mark)
    out.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(out), _written_whole(out) as partial:
        yield partial


def _require_free(out: Path, mark: str) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(out, found="a file", expected="a folder", remedy="Give another name")
    if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
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
    model: Path,
    detector: Detector,
    precision: str,
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
        precision=precision,
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
    detector: Detector,
    exported: ExportedDetector,
    fitted: FittedMachine,
    calibration: Calibration,
    *,
    exact: bool = True,
) -> Parity:
    """The differences of scores on normal and made-up recordings.

    Raises:
        InputError: with ``exact``, if a score differs by more than :data:`LARGEST_DIFFERENCE` of the threshold, or
            a decision.
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
        differences: list[float] = []
        decisions = 0
        for path, one, other in pairs:
            if not isinstance(one, Score) or not isinstance(other, Score):
                if type(one) is not type(other):
                    raise _differs(path.name, "one of them cannot score the recording")
                continue
            windows = zip(one.windows, other.windows, strict=True)
            differences += [abs(a.score - b.score) / _scale(one, calibration) for a, b in windows]
            decisions += one.anomalous != other.anomalous
            if exact and not max(differences) <= LARGEST_DIFFERENCE:
                raise _differs(path.name, f"scores {one.score:.7g} and {other.score:.7g}")
            if exact and decisions:
                raise _differs(path.name, f"decisions at scores {one.score:.7g} and {other.score:.7g}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    mean = sum(differences) / len(differences)
    return Parity(
        windows=len(differences), recordings=normals, largest=max(differences), mean=mean, decisions=decisions
    )


def _windows(of: Description) -> list[NDArray[np.float32]]:
    """One whole made-up window of each kind, (1, channels, samples)."""
    signals = made_up(len(of.channels), of.window_samples, of.sample_rate_hz)
    return [signal[None] for signal in signals.values() if signal.shape[1] == of.window_samples]


def _speed(folder: Path, of: Description) -> float:
    """The pace of the model of a folder as a multiple of that of the whole one, in turns, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        for name in (_WHOLE, MODEL)
    ]
    feed = {"samples": _windows(of)[0], **ExportedDetector(folder).inputs}
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for session, times in zip(sessions, seconds, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - began)
    whole, converted = (min(times) for times in seconds)
    return whole / converted


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
