"""Detection of faults of near and far channels on a sample of recordings: silent, clipped, swapped, ...

Gains differ, so that levels do not distinguish near from far. The sound of the machine arrives first, and with
fewer echoes, at the near microphone; see :func:`nearfar.data.delay.far_leads`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nearfar.data.audio import STEP_16_BIT, AudioHeader, read_beginning
from nearfar.data.clips import Clip
from nearfar.data.delay import Delays, beyond, correlate, drift, far_leads, lag_s, prominence
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.progress import Progress, silent

Kind = Literal["dead", "identical", "clipped", "misaligned", "drift", "swapped"]
Waveform = NDArray[np.float32]

SAMPLED_CLIPS = 12
"""Clips checked per machine and domain, spread evenly over its list."""
SAMPLED_SECONDS = 16.0
"""Length read from the start of each clip."""
LONGEST_LAG_S = 0.03
"""Sound travels 10 m in 30 ms; channels with a larger delay are misaligned."""

_DEAD_DB = -50.0
"""A far channel with this much less power than near is unplugged; no distance explains it."""
_SAME = 1e-4
"""Channels are identical where less than this fraction of far's power remains without the best
multiple of near."""
_TOPS, _BELOW, _LOUD = 10, 8, 0.1
"""Clipped: least number of samples at the maximum, 16-bit steps below it with fewer than twice as many, and least
maximum."""
_BEYOND, _CLEAR = 1.3, 7.0
"""Misaligned: least ratio of the peak beyond the longest lag to the peak within, and least prominence."""
_DRIFT_GAIN = 1.3
"""Drift: least ratio of peaks with and without correction. Measured: 1.00 without drift, 1.9 or more
with 100 ppm."""
_LEADS, _DRIER, _SHARP = 8.0, 4.0, 15.0
"""Swapped: least values of :func:`nearfar.data.delay.far_leads`, and prominence. Measured: 4.2 and 2.1 with noise
near the far microphone, 17 and 5 with swapped channels."""


@dataclass(frozen=True, slots=True)
class ChannelWarning:
    """A fault of the channels of a machine's recordings.

    Attributes:
        kind: the fault.
        machine: the machine type.
        files: names of the recordings with the fault.
        checked: number of recordings checked.
        message: a sentence with its full stop.
        remedy: an imperative sentence with its full stop.
    """

    kind: Kind
    machine: str
    files: tuple[str, ...]
    checked: int
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.machine}: {self.message} {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """The fields as text, numbers and a list."""
        return {**asdict(self), "files": list(self.files)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ChannelWarning:
        """The inverse of :meth:`to_json`."""
        return cls(**{**tree, "files": tuple(tree["files"])})


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """The start of a clip: (samples,) of both channels, and their correlations unless one is silent."""

    clip: Clip
    near: Waveform
    far: Waveform
    delays: Delays | None

    @property
    def dead(self) -> str:
        """The silent channel: near, far, both, or an empty string."""
        near, far = _is_flat(self.near), _is_flat(self.far)
        quiet = not near and _power(self.far) < 10 ** (_DEAD_DB / 10) * _power(self.near)
        return {(True, True): "both", (True, False): "near", (False, True): "far"}.get((near, far or quiet), "")


def check_channels(
    dataset: Dataset, *, near: int = 0, far: int = 1, progress: Progress = silent
) -> list[ChannelWarning]:
    """Check a sample of every machine's training clips for faults of their near and far channels.

    Files that cannot be read, hold NaN or lack one of the two channels are skipped: reading them for use raises an
    error.

    Args:
        dataset: recordings; training clips are sampled from every domain.
        near, far: indices, from 0, of the microphones' channels in the files.
        progress: called with the task ``checking channels``.

    Returns:
        warnings by machine, the gravest first; empty without faults.
    """
    if near == far:
        return []
    headers = dataset.select(split="train").headers()
    sampled: dict[str, list[Clip]] = {}
    for machine in dataset.machines:
        domains: dict[str | None, list[Clip]] = {}
        for clip in dataset.train(machine):
            header = headers[clip.path]
            if isinstance(header, AudioHeader) and header.channels > max(near, far):
                domains.setdefault(clip.domain, []).append(clip)
        sampled[machine] = [clip for clips in domains.values() for clip in _every(clips)]
    total, done = sum(map(len, sampled.values())), 0
    warnings = []
    for machine, clips in sampled.items():
        samples = []
        for clip in clips:
            samples += _read_sample(clip, near, far)
            done += 1
            progress("checking channels", done, total)
        warnings += _check_machine(machine, samples)
    return warnings


def _every(clips: Sequence[Clip]) -> Sequence[Clip]:
    return clips[:: -(-len(clips) // SAMPLED_CLIPS)]


def _read_sample(clip: Clip, near: int, far: int) -> list[_Sample]:
    """A list of one sample, empty for a recording that cannot be checked."""
    try:
        samples, rate_hz = read_beginning(clip.path, SAMPLED_SECONDS)
    except InputError:
        return []
    if not np.isfinite(samples).all():
        return []
    pair = samples[near], samples[far]
    alive = not any(_is_flat(channel) for channel in pair)
    return [_Sample(clip, *pair, correlate(*pair, rate_hz) if alive else None)]


def _check_machine(machine: str, samples: list[_Sample]) -> list[ChannelWarning]:
    """The checks, gravest first; each is made on recordings without the graver faults."""
    checked = len(samples)
    warnings: list[ChannelWarning] = []

    def warn(kind: Kind, found: Sequence[_Sample], problem: str, remedy: str) -> None:
        names = tuple(sample.clip.name for sample in found)
        message = f"In {len(found)} of {checked} recordings that were checked, such as {names[0]}, {problem}."
        warnings.append(ChannelWarning(kind, machine, names, checked, message, f"{remedy}."))

    for channel in ("both", "near", "far"):
        dead = [sample for sample in samples if sample.dead == channel]
        if dead:
            name = "both channels are" if channel == "both" else f"the {channel} channel is"
            remedy = "Check the microphone and its cable, or use only the other channel"
            warn("dead", dead, f"{name} silent", "Check the recorder" if channel == "both" else remedy)
    clipped = [
        sample for sample in samples if not sample.dead and (is_clipped(sample.near) or is_clipped(sample.far))
    ]
    if clipped:
        problem = "the sound is clipped: its peaks are cut off at one value, as by an overdriven recorder"
        warn("clipped", clipped, problem, "Lower the gain and record again")
    samples = [sample for sample in samples if not sample.dead]
    identical = [sample for sample in samples if _is_same(sample.near, sample.far)]
    if identical:
        problem = "near and far are the same signal but for a gain"
        warn("identical", identical, problem, "Check the wiring and the export, or use only the near channel")
    samples = [sample for sample in samples if sample not in identical and sample.delays is not None]
    misaligned = [sample for sample in samples if _is_misaligned(sample)]
    if misaligned:
        lag = float(np.median([lag_s(d.whole, d.rate_hz) for d in map(_delays, misaligned)]))
        order = "later" if lag > 0 else "earlier"
        problem = (
            f"far is about {1e3 * abs(lag):.0f} ms {order} than near, which is more than the "
            f"{1e3 * LONGEST_LAG_S:.0f} ms that sound takes for 10 m"
        )
        warn("misaligned", misaligned, problem, "Record both with one recorder, or shift one channel")
    samples = [sample for sample in samples if sample not in misaligned]
    if samples:
        _check_clocks(samples, warn)
        _check_order(samples, warn)
    return warnings


def _check_clocks(samples: list[_Sample], warn: Callable[[Kind, Sequence[_Sample], str, str], None]) -> None:
    delays = [_delays(sample) for sample in samples]
    alike = [d for d in delays if (d.rate_hz, d.hop_s) == (delays[0].rate_hz, delays[0].hop_s)]
    ppm, gain = drift(alike)
    if ppm and gain >= _DRIFT_GAIN:
        behind = "behind" if ppm > 0 else "ahead of"
        problem = f"far runs {behind} near by about {abs(ppm):.0f} parts per million: their clocks differ"
        warn(
            "drift",
            samples,
            problem,
            "Record both with one recorder or a common word clock, or resample one channel",
        )


def _check_order(samples: list[_Sample], warn: Callable[[Kind, Sequence[_Sample], str, str], None]) -> None:
    """Noise sources move between clips, the machine does not: it dominates the mean correlation over clips."""
    for domain in {sample.clip.domain for sample in samples}:
        of_domain = [_delays(sample) for sample in samples if sample.clip.domain == domain]
        rate = of_domain[0].rate_hz
        width = of_domain[0].values.shape[1]
        alike = [d.whole for d in of_domain if d.rate_hz == rate and d.values.shape[1] == width]
        mean = np.mean(alike, axis=0)
        leads, drier = far_leads(mean, rate)
        if lag_s(mean, rate) >= 0 or leads < _LEADS or drier < _DRIER or prominence(mean) < _SHARP:
            return
    problem = "the loudest sound arrives at far before near, and with fewer echoes: the channels look swapped"
    remedy = (
        "Check which channel is which microphone, and exchange the channel numbers near and far if not. If they "
        "are right, another machine is closer to the far microphone and louder than this one"
    )
    warn("swapped", samples, problem, remedy)


def _delays(sample: _Sample) -> Delays:
    assert sample.delays is not None
    return sample.delays


def _is_misaligned(sample: _Sample) -> bool:
    delays = _delays(sample)
    whole = delays.whole
    return prominence(whole) >= _CLEAR and beyond(whole, LONGEST_LAG_S, delays.rate_hz) >= _BEYOND


def _is_flat(channel: Waveform) -> bool:
    return float(channel.max() - channel.min()) <= STEP_16_BIT


def _power(channel: Waveform) -> float:
    return float(np.var(channel, dtype=np.float64))


def _is_same(near: Waveform, far: Waveform) -> bool:
    """Differences of successive samples are compared, as a common hum makes any two channels similar."""
    a, b = (np.diff(channel.astype(np.float64)) for channel in (near, far))
    shared = float(a @ b) ** 2 / max(float(a @ a) * float(b @ b), 1e-30)
    return shared > 1.0 - _SAME


def is_clipped(channel: Waveform) -> bool:
    for signed in (channel, -channel):
        below = float(signed.max()) - signed
        at_top = int((below < 0.5 * STEP_16_BIT).sum())
        if signed.max() >= _LOUD and at_top >= _TOPS and 2 * at_top > int((below < _BELOW * STEP_16_BIT).sum()):
            return True
    return False
