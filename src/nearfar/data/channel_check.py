"""Detection of faults of near and far channels on a sample of recordings: silent, clipped, swapped, ...

Gains differ, so that levels do not distinguish near from far. The sound of the machine arrives first, and with
fewer echoes, at the near microphone; see :func:`nearfar.data.delay.far_leads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from nearfar.data.audio import STEP_16_BIT, AudioHeader, Waveform, is_silent, read_beginning
from nearfar.data.clips import Clip
from nearfar.data.delay import Delays, beyond, correlate, drift, far_leads, lag_s, prominence
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.progress import Progress, silent

Kind = Literal["dead", "identical", "clipped", "quiet", "misaligned", "drift", "swapped"]

SAMPLED_CLIPS = 12
"""Clips checked per machine and domain, spread evenly over its list."""
SAMPLED_SECONDS = 16.0
"""Length read from the start of each clip."""
LONGEST_LAG_S = 0.03
"""Sound travels 10 m in 30 ms; channels with a larger delay are misaligned."""

DEAD_DB = -50.0
"""Dead: power of a far channel relative to near below which it is unplugged; no distance explains it."""
QUIET_DB = -70.0
"""A near channel of less power, relative to full scale, is close to the floor of the log-mel spectrogram."""
_SAME = 1e-4
"""Identical: largest fraction of far's power that remains after subtracting the best multiple of near."""
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
        files: names of the recordings with the fault.
        checked: number of recordings checked.
        message, remedy: sentences with their full stops.
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
        """The fields as text, numbers and a tuple."""
        return asdict(self)


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
        near_power, far_power = (np.var(channel, dtype=np.float64) for channel in (self.near, self.far))
        if is_silent(self.near):
            return "both" if is_silent(self.far) else "near"
        return "far" if is_silent(self.far) or far_power < 10 ** (DEAD_DB / 10) * near_power else ""


def check_channels(
    dataset: Dataset, *, near: int = 0, far: int = 1, progress: Progress = silent
) -> list[ChannelWarning]:
    """Check a sample of every machine's training clips for faults of their near and far channels.

    Files that cannot be read, hold NaN or lack one of the two channels are skipped; reading their waveforms raises
    errors.

    Args:
        dataset: recordings; training clips are sampled from every domain.
        near, far: indices, from 0, of the microphones' channels in the files.
        progress: called with the task ``checking channels``.

    Returns:
        warnings by machine, the most severe first; empty without faults.
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
        evenly_spread = (clips[:: -(-len(clips) // SAMPLED_CLIPS)] for clips in domains.values())
        sampled[machine] = [clip for clips in evenly_spread for clip in clips]
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


def _read_sample(clip: Clip, near: int, far: int) -> list[_Sample]:
    """A list of one sample, empty for a recording that cannot be checked."""
    try:
        samples, rate_hz = read_beginning(clip.path, SAMPLED_SECONDS)
    except InputError:
        return []
    if not np.isfinite(samples).all():
        return []
    pair = samples[near], samples[far]
    return [_Sample(clip, *pair, None if any(map(is_silent, pair)) else correlate(*pair, rate_hz))]


def _check_machine(machine: str, samples: list[_Sample]) -> list[ChannelWarning]:
    """The checks, most severe fault first; each excludes recordings with a more severe one."""
    checked = len(samples)
    warnings: list[ChannelWarning] = []

    def warn(kind: Kind, faulty: Sequence[_Sample], problem: str, remedy: str) -> None:
        if faulty:
            names = tuple(sample.clip.name for sample in faulty)
            message = f"In {len(faulty)} of {checked} recordings that were checked, such as {names[0]}, {problem}."
            warnings.append(ChannelWarning(kind, machine, names, checked, message, f"{remedy}."))

    use_other = "Check the microphone and its cable, or use only the other channel"
    for silent_channel, problem, remedy in (
        ("both", "both channels are silent", "Check the recorder"),
        ("near", "the near channel is silent", use_other),
        ("far", "the far channel is silent", use_other),
    ):
        warn("dead", [sample for sample in samples if sample.dead == silent_channel], problem, remedy)
    samples = [sample for sample in samples if not sample.dead]
    clipped = [sample for sample in samples if is_clipped(sample.near) or is_clipped(sample.far)]
    problem = "the sound is clipped: its peaks are cut off at one value, as by an overdriven recorder"
    warn("clipped", clipped, problem, "Lower the gain and record again")
    quiet = [sample for sample in samples if np.var(sample.near, dtype=np.float64) < 10 ** (QUIET_DB / 10)]
    problem = (
        f"the near channel is quiet, below {QUIET_DB:.0f} dB of full scale, where the floor of the log-mel "
        "spectrogram hides the machine"
    )
    warn("quiet", quiet, problem, "Raise the gain of the recorder, or the level of the files, which need 24 bits")
    identical = [sample for sample in samples if _is_same(sample.near, sample.far)]
    problem = "near and far are the same signal but for a gain"
    warn("identical", identical, problem, "Check the wiring and the export, or use only the near channel")
    samples = [sample for sample in samples if sample not in identical and sample.delays is not None]
    misaligned = [sample for sample in samples if _is_misaligned(_delays(sample))]
    if misaligned:
        lag = float(np.median([lag_s(d.whole, d.rate_hz) for d in map(_delays, misaligned)]))
        problem = (
            f"far is about {1e3 * abs(lag):.0f} ms {'later' if lag > 0 else 'earlier'} than near, which is more "
            f"than the {1e3 * LONGEST_LAG_S:.0f} ms that sound takes for 10 m"
        )
        warn("misaligned", misaligned, problem, "Record both with one recorder, or shift one channel")
    samples = [sample for sample in samples if sample not in misaligned]
    if problem := _clock_problem(list(map(_delays, samples))):
        remedy = "Record both with one recorder or a common word clock, or resample one channel"
        warn("drift", samples, problem, remedy)
    if _look_swapped(samples):
        problem = "the loudest sound arrives at far before near, and with fewer echoes: the channels look swapped"
        remedy = (
            "Check which channel is which microphone, and exchange the channel numbers near and far if not. If "
            "they are right, another machine is closer to the far microphone and louder than this one"
        )
        warn("swapped", samples, problem, remedy)
    return warnings


def _clock_problem(delays: list[Delays]) -> str:
    """The difference between the clocks of the channels in words; empty without one."""
    alike = [d for d in delays if (d.rate_hz, d.hop_s) == (delays[0].rate_hz, delays[0].hop_s)]
    ppm, gain = drift(alike) if alike else (0.0, 1.0)
    if not ppm or gain < _DRIFT_GAIN:
        return ""
    behind = "behind" if ppm > 0 else "ahead of"
    return f"far runs {behind} near by about {abs(ppm):.0f} parts per million: their clocks differ"


def _look_swapped(samples: list[_Sample]) -> bool:
    """Whether sound arrives at far first in all domains.

    Noise sources move between clips, the machine does not: it dominates the mean correlation over clips.
    """
    for domain in {sample.clip.domain for sample in samples}:
        delays = [_delays(sample) for sample in samples if sample.clip.domain == domain]
        rate, width = delays[0].rate_hz, delays[0].values.shape[1]
        mean = np.mean([d.whole for d in delays if (d.rate_hz, d.values.shape[1]) == (rate, width)], axis=0)
        leads, drier = far_leads(mean, rate)
        if lag_s(mean, rate) >= 0 or leads < _LEADS or drier < _DRIER or prominence(mean) < _SHARP:
            return False
    return bool(samples)


def _delays(sample: _Sample) -> Delays:
    assert sample.delays is not None
    return sample.delays


def _is_misaligned(delays: Delays) -> bool:
    whole = delays.whole
    return prominence(whole) >= _CLEAR and beyond(whole, LONGEST_LAG_S, delays.rate_hz) >= _BEYOND


def _is_same(near: Waveform, far: Waveform) -> bool:
    """Differences of successive samples are compared, as a common hum makes any two channels similar."""
    a, b = (np.diff(channel.astype(np.float64)) for channel in (near, far))
    shared = float(a @ b) ** 2 / max(float(a @ a) * float(b @ b), 1e-30)
    return shared > 1.0 - _SAME


def is_clipped(channel: Waveform) -> bool:
    for signed in (channel, -channel):
        top = float(signed.max())
        if top < _LOUD:
            continue
        at_top = np.count_nonzero(signed > top - 0.5 * STEP_16_BIT)
        if at_top >= _TOPS and 2 * at_top > np.count_nonzero(signed > top - _BELOW * STEP_16_BIT):
            return True
    return False
