"""An exported detector: scores of recordings by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.audio import AudioHeader, choose_channels, read_file
from nearfar.data.clips import CHANNELS, Channel
from nearfar.data.cutting import SHORTEST_S, WHOLE_SECONDS, overlapping_blocks, too_short, window_starts
from nearfar.data.quality import problems
from nearfar.data.signals import SignalFacts, bits_of, bits_of_format, merged_facts, signal_facts
from nearfar.errors import InputError
from nearfar.exported.folder import (
    DESCRIPTION,
    MODEL,
    read_calibration,
    read_description,
    read_thresholds,
)
from nearfar.extras import require_extras
from nearfar.files import as_text
from nearfar.progress import Progress, silent
from nearfar.scores import Failure, Score, WindowScore
from nearfar.threads import parallel_map
from nearfar.thresholds import Calibration, Threshold, threshold_of
from nearfar.thresholds.drift import Drift, find_drift
from nearfar.thresholds.rules import group_weights

Waveform = NDArray[np.float32]
Outputs = dict[str, NDArray[Any]]


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an exported detector."""
    return (folder / DESCRIPTION).is_file()


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """The windows of a recording: where they begin and end in samples, and the graph's outputs for each."""

    begins: list[int]
    ends: list[int]
    outputs: Outputs
    facts: SignalFacts


class ExportedDetector:
    """Scores recordings of one machine as the detector that it was exported from.

    Departures, contributions in words and known faults are not part of an export.

    Args:
        folder: as ``nearfar export`` writes it.
        threads: of ONNX Runtime for one recording; recordings are spread over workers.

    Raises:
        InputError: if the folder is no exported detector, damaged, or holds a model that may not be run, or ONNX
            Runtime is not installed.
    """

    def __init__(self, folder: Path | str, threads: int = 1) -> None:
        require_extras("an exported detector", "edge")
        import onnxruntime

        self.folder = Path(folder)
        self.description = read_description(self.folder)
        self.calibration: Calibration = read_calibration(self.folder)
        self.thresholds: tuple[Threshold, ...] = read_thresholds(self.folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(self.folder / MODEL), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]
        self._data = self._calibration_inputs()

    @property
    def machines(self) -> tuple[str, ...]:
        """The name of the machine."""
        return (self.description.name,)

    @property
    def views(self) -> tuple[str, ...]:
        """The scored views."""
        return self.description.views

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float64]]:
        """The graph's inputs beside the samples: thresholds and calibration."""
        return self._data

    def run(self, samples: Waveform) -> Outputs:
        """The graph's outputs for windows (windows, channels, samples) float32, by name."""
        return dict(zip(self._names, self._session.run(None, {"samples": samples, **self._data}), strict=True))

    def score_many(
        self,
        recordings: Iterable[Path | str],
        machine: str | None = None,
        *,
        domain: str | None = None,
        keep_errors: bool = False,
        progress: Progress = silent,
    ) -> Iterator[Score | Failure]:
        """Score files: an iterator of their scores, in order; arguments as those of ``Detector.score_many``.

        Raises:
            InputError: if it is of another machine, or, without ``keep_errors``, a recording cannot be used.
        """
        of = self.description
        if machine is not None and as_text(machine) not in (of.name, of.machine):
            raise InputError(
                "machine", found=repr(machine), expected=of.name, remedy="Check the spelling, or omit the name"
            )
        listed = [Path(recording) for recording in recordings]

        def score(path: Path) -> Score | Failure:
            try:
                return self._score(as_text(path), self._read(path), domain)
            except InputError as error:
                if not keep_errors:
                    raise
                return Failure(as_text(path), error)

        for done, entry in enumerate(parallel_map(score, listed), start=1):
            progress("scoring recordings", done, len(listed))
            yield entry

    def _calibration_inputs(self) -> Mapping[str, NDArray[np.float64]]:
        """Thresholds, and the normal scores with their weights in p-values, of either domain."""
        of, values, weights = self.description, [], []
        entries = self.calibration.recordings
        for name in ("source", "target"):
            chosen = threshold_of(self.thresholds, of.machine, of.section, name)
            values.append(np.inf if chosen is None or chosen.value is None else chosen.value)
            own = None if chosen is None else chosen.domain
            row = np.zeros(len(entries))
            inside = np.array([own in (None, entry.domain) for entry in entries], dtype=bool)
            row[inside] = group_weights(self.calibration.groups(own))
            weights.append(row)
        return {
            "thresholds": np.array(values),
            "calibration_scores": np.array([entry.score for entry in entries], np.float64),
            "calibration_weights": np.stack(weights),
        }

    def drift(self, scores: Iterable[Score]) -> tuple[Drift, ...]:
        """Whether the scores of recent recordings have shifted alike; see :class:`Drift`."""
        entries = list(scores)
        values = [entry.score for entry in entries]
        found = (
            find_drift(self.description.name, self.calibration, values, entries[0].threshold) if entries else None
        )
        return () if found is None else (found,)

    # --- reading -----------------------------------------------------------------------------------------------

    def _read(self, path: Path) -> _Read:
        """Windows of a file, scored; a long file block by block."""
        of = self.description
        rate, window, hop = of.sample_rate_hz, of.window_samples, of.hop_samples
        header, whole = read_file(path, max(WHOLE_SECONDS, 2 * window / rate))
        most = bits_of_format(header.subtype)
        if whole is not None:
            channels = self._channels(as_text(path), whole, header.sample_rate_hz)
            count = next(iter(channels.values())).size
            begins = window_starts(count, window, hop)
            facts = signal_facts(_named(channels), rate, header.sample_rate_hz, bits_of(whole, most))
            return self._scored(channels, 0, begins, facts)
        return self._read_long(path, header, most)

    def _read_long(self, path: Path, header: AudioHeader, most: int | None) -> _Read:
        of = self.description
        rate, window = of.sample_rate_hz, of.window_samples
        waiting = window_starts(header.frames_at(rate), window, of.hop_samples)
        found: list[_Read] = []
        numbers = of.near_channel, of.far_channel
        for start, block in overlapping_blocks(path, of.channels, rate, *numbers, window):
            channels = dict(zip(of.channels, block, strict=True))
            end = start + block.shape[1]
            ready = [begin for begin in waiting if begin + window <= end]
            waiting = waiting[len(ready) :]
            facts = signal_facts(_named(channels), rate, header.sample_rate_hz, most)
            if ready:
                found.append(self._scored(channels, start, ready, facts))
            if waiting and end >= header.frames_at(rate):
                found.append(self._scored(channels, start, waiting, facts))
                waiting = []
        outputs = {name: np.concatenate([one.outputs[name] for one in found]) for name in self._names}
        return _Read(
            [begin for one in found for begin in one.begins],
            [end for one in found for end in one.ends],
            outputs,
            merged_facts([one.facts for one in found], header.seconds),
        )

    def _channels(self, name: str, samples: Waveform, recorded_hz: int) -> dict[Channel, Waveform]:
        """The channels of the graph, and both microphones where there are two, for the checks of quality."""
        of = self.description

        def read(chosen: Sequence[Channel]) -> dict[Channel, Waveform]:
            waveform = choose_channels(
                samples, recorded_hz, name, chosen, of.sample_rate_hz, near=of.near_channel, far=of.far_channel
            )
            if waveform.shape[1] < SHORTEST_S * of.sample_rate_hz:
                raise too_short(name, waveform.shape[1] / of.sample_rate_hz)
            return dict(zip(chosen, waveform, strict=True))

        has_both = of.near_channel != of.far_channel and len(samples) > max(of.near_channel, of.far_channel)
        if has_both and set(of.channels) != set(CHANNELS):
            with suppress(InputError):  # a fault of a channel that is not scored
                return read(CHANNELS)
        return read(of.channels)

    def _scored(
        self, channels: Mapping[Channel, Waveform], start: int, begins: Sequence[int], facts: SignalFacts
    ) -> _Read:
        used = np.stack([channels[name] for name in self.description.channels])
        window, rows, ends = self.description.window_samples, [], []
        for begin in begins:
            cut = used[:, begin - start : begin - start + window]
            ends.append(begin + cut.shape[1])
            rows.append(self.run(np.ascontiguousarray(cut[None], np.float32)))
        outputs = {name: np.concatenate([row[name] for row in rows]) for name in self._names}
        return _Read(list(begins), ends, outputs, facts)

    # --- rows --------------------------------------------------------------------------------------------------

    def _score(self, name: str, read: _Read, domain: str | None) -> Score:
        of, outputs = self.description, read.outputs
        rate = of.sample_rate_hz
        scores = outputs["score"]
        worst = int(scores.argmax())
        nearest = int(outputs["nearest"][worst])
        normal = None if nearest < 0 else of.normal_windows[nearest]
        of_domain = domain or ("source" if normal is None else normal.domain)
        threshold = threshold_of(self.thresholds, of.machine, of.section, of_domain)
        value = None if threshold is None else threshold.value
        own = None if threshold is None else threshold.domain
        score = float(scores[worst])
        quality = () if of.profile is None else tuple(problems(read.facts, of.profile, of.window_samples / rate))
        comparable = all(problem.comparable for problem in quality)
        anomalous = None if value is None or (score > value and not comparable) else score > value
        return Score(
            file=name,
            machine=of.name,
            score=score,
            threshold=value,
            margin=None if value is None else score - value,
            p_value=self.calibration.p_value(score, own),
            anomalous=anomalous,
            domain=own,
            nearest=None if normal is None else normal.recording,
            nearest_begin_s=None if normal is None else normal.begin_s,
            nearest_file=None if normal is None else normal.file,
            views=dict(zip(of.views, outputs["view_scores"][worst].tolist(), strict=True)),
            departure=None,
            windows=tuple(self._window(read, index) for index in range(len(read.begins))),
            quality=quality,
            threshold_from=None if value is None or threshold is None else threshold.found_from,
        )

    def _window(self, read: _Read, index: int) -> WindowScore:
        of = self.description
        nearest = int(read.outputs["nearest"][index])
        normal = None if nearest < 0 else of.normal_windows[nearest]
        return WindowScore(
            begin_s=read.begins[index] / of.sample_rate_hz,
            end_s=read.ends[index] / of.sample_rate_hz,
            score=float(read.outputs["score"][index]),
            views=dict(zip(of.views, read.outputs["view_scores"][index].tolist(), strict=True)),
            nearest=None if normal is None else normal.recording,
            nearest_begin_s=None if normal is None else normal.begin_s,
        )


def _named(channels: Mapping[Channel, Waveform]) -> dict[str, Waveform]:
    return {str(name): samples for name, samples in channels.items()}
