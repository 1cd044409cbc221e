"""Whether the two channels of recordings are what near and far microphones give: a check of a sample.

Loudness does not tell near from far, as gains differ. What does is which one hears the machine first and with
fewer echoes; see :func:`nearfar.data.delay.far_leads`.
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
"""Clips of a machine and domain that are listened to, spread evenly over its list."""
SAMPLED_SECONDS = 16.0
"""Of each clip, no more than its beginning."""
LONGEST_LAG_S = 0.03
"""Sound takes 30 ms for 10 m; microphones of one recorder that are farther apart in time are misaligned."""

_DEAD_DB = -50.0
"""A far channel of so much less power than near is a cable or a preamplifier, not a room."""
_SAME = 1e-4
"""Channels are identical where less than this share of far's power is left after the best multiple of near."""
_TOPS, _BELOW, _LOUD = 10, 8, 0.1
"""Clipped: so many samples at the highest value, if it is so high, and fewer in so many 16-bit steps below."""
_BEYOND, _CLEAR = 1.3, 7.0
"""Misaligned: a peak so much higher beyond the longest lag than within, that stands out so much."""
_DRIFT_GAIN = 1.3
"""Drift: so much higher a peak once it is undone. Without one, 1.00 was measured; with 100 ppm, 1.9 and more."""
_LEADS, _DRIER, _SHARP = 8.0, 4.0, 15.0
"""Swapped: see :func:`nearfar.data.delay.far_leads`. A noise on the far side gave 4.2 and 2.1, a swap 17 and 5."""


@dataclass(frozen=True, slots=True)
class ChannelWarning:
    """What is the matter with the channels of a machine's recordings.

    Attributes:
        kind: what it is.
        machine: whose recordings.
        files: names of those it was found in.
        checked: how many recordings were listened to.
        message: a sentence for people.
        remedy: what to do, as an imperative sentence.
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
        """The same as text, numbers and a list."""
        return {**asdict(self), "files": list(self.files)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ChannelWarning:
        """From what :meth:`to_json` gave."""
        return cls(**{**tree, "files": tuple(tree["files"])})


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """What was listened to of a clip: (samples,) of both channels, and their correlations if both have sound."""

    clip: Clip
    near: Waveform
    far: Waveform
    delays: Delays | None

    @property
    def dead(self) -> str:
        """Which channel has no sound: near, far, both, or an empty text."""
        near, far = _is_flat(self.near), _is_flat(self.far)
        quiet = not near and _power(self.far) < 10 ** (_DEAD_DB / 10) * _power(self.near)
        return {(True, True): "both", (True, False): "near", (False, True): "far"}.get((near, far or quiet), "")


def check_channels(
    dataset: Dataset, *, near: int = 0, far: int = 1, progress: Progress = silent
) -> list[ChannelWarning]:
    """Check a sample of every machine's training clips for faults of their near and far channels.

    Files that cannot be read, hold NaN or lack one of the two channels are passed over: reading them for use
    raises an error.

    Args:
        dataset: recordings; training clips are sampled from every domain.
        near, far: the files' channels, from 0, of the two microphones.
        progress: called with the task ``checking channels``.

    Returns:
        warnings by machine, the gravest kind first; empty where nothing is wrong.
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
        sampled[machine] = [clip for clips in domains.values() for clip in _sample(clips)]
    total, done = sum(map(len, sampled.values())), 0
    warnings = []
    for machine, clips in sampled.items():
        heard = []
        for clip in clips:
            heard += _listen(clip, near, far)
            done += 1
            progress("checking channels", done, total)
        warnings += _check_machine(machine, heard)
    return warnings


def _sample(clips: Sequence[Clip]) -> Sequence[Clip]:
    return clips[:: -(-len(clips) // SAMPLED_CLIPS)]


def _listen(clip: Clip, near: int, far: int) -> list[_Heard]:
    """One entry, or none for a recording that is passed over."""
    try:
        samples, rate_hz = read_beginning(clip.path, SAMPLED_SECONDS)
    except InputError:
        return []
    if not np.isfinite(samples).all():
        return []
    pair = samples[near], samples[far]
    alive = not any(_is_flat(channel) for channel in pair)
    return [_Heard(clip, *pair, correlate(*pair, rate_hz) if alive else None)]


def _check_machine(machine: str, heard: list[_Heard]) -> list[ChannelWarning]:
    """Each check sees only what the graver ones before it let pass."""
    checked = len(heard)
    warnings: list[ChannelWarning] = []

    def warn(kind: Kind, found: Sequence[_Heard], what: str, remedy: str) -> None:
        names = tuple(each.clip.name for each in found)
        told = f"In {len(found)} of {checked} recordings that were checked, such as {names[0]}, {what}."
        warnings.append(ChannelWarning(kind, machine, names, checked, told, f"{remedy}."))

    for channel in ("both", "near", "far"):
        dead = [each for each in heard if each.dead == channel]
        if dead:
            name = "both channels are" if channel == "both" else f"the {channel} channel is"
            remedy = "Check the microphone and its cable; a system that hears only the other channel can be used"
            warn("dead", dead, f"{name} silent", "Check the recorder" if channel == "both" else remedy)
    clipped = [each for each in heard if not each.dead and (_is_clipped(each.near) or _is_clipped(each.far))]
    if clipped:
        what = "the sound is clipped: its peaks stay at one highest value, as when a recorder is overdriven"
        warn("clipped", clipped, what, "Lower the gain and record again")
    heard = [each for each in heard if not each.dead]
    identical = [each for each in heard if _is_same(each.near, each.far)]
    if identical:
        what = "near and far are the same signal but for a gain"
        warn("identical", identical, what, "Check the wiring and the export, or use a near-only system")
    heard = [each for each in heard if each not in identical and each.delays is not None]
    misaligned = [each for each in heard if _is_misaligned(each)]
    if misaligned:
        lag = float(np.median([lag_s(d.whole, d.rate_hz) for d in map(_delays, misaligned)]))
        order = "later" if lag > 0 else "earlier"
        what = (
            f"far is about {1e3 * abs(lag):.0f} ms {order} than near, which is more than the "
            f"{1e3 * LONGEST_LAG_S:.0f} ms that sound takes for 10 m"
        )
        warn("misaligned", misaligned, what, "Record both with one recorder, or shift one channel")
    heard = [each for each in heard if each not in misaligned]
    if heard:
        _check_clocks(heard, warn)
        _check_order(heard, warn)
    return warnings


def _check_clocks(heard: list[_Heard], warn: Callable[[Kind, Sequence[_Heard], str, str], None]) -> None:
    delays = [_delays(each) for each in heard]
    alike = [d for d in delays if (d.rate_hz, d.hop_s) == (delays[0].rate_hz, delays[0].hop_s)]
    ppm, gain = drift(alike)
    if ppm and gain >= _DRIFT_GAIN:
        behind = "behind" if ppm > 0 else "ahead of"
        what = f"far runs {behind} near by about {abs(ppm):.0f} parts per million: their clocks differ"
        warn("drift", heard, what, "Record both with one recorder or a common word clock, or resample one channel")


def _check_order(heard: list[_Heard], warn: Callable[[Kind, Sequence[_Heard], str, str], None]) -> None:
    """The sources of noise differ from clip to clip, the way from the machine does not: it is left in the mean."""
    for domain in {each.clip.domain for each in heard}:
        of_domain = [_delays(each) for each in heard if each.clip.domain == domain]
        rate = of_domain[0].rate_hz
        width = of_domain[0].values.shape[1]
        alike = [d.whole for d in of_domain if d.rate_hz == rate and d.values.shape[1] == width]
        mean = np.mean(alike, axis=0)
        leads, drier = far_leads(mean, rate)
        if lag_s(mean, rate) >= 0 or leads < _LEADS or drier < _DRIER or prominence(mean) < _SHARP:
            return
    what = "far hears what is loudest before near does, and with fewer echoes: the channels look swapped"
    remedy = (
        "Check which microphone is which; exchange them with --near 1 --far 0. If they are right, another machine"
    )
    warn("swapped", heard, what, f"{remedy} stands nearer to the far one and drowns this one")


def _delays(each: _Heard) -> Delays:
    assert each.delays is not None
    return each.delays


def _is_misaligned(each: _Heard) -> bool:
    delays = _delays(each)
    whole = delays.whole
    return prominence(whole) >= _CLEAR and beyond(whole, LONGEST_LAG_S, delays.rate_hz) >= _BEYOND


def _is_flat(channel: Waveform) -> bool:
    return float(channel.max() - channel.min()) <= STEP_16_BIT


def _power(channel: Waveform) -> float:
    return float(np.var(channel, dtype=np.float64))


def _is_same(near: Waveform, far: Waveform) -> bool:
    """Differences between samples are compared, as a hum that both hear makes any two channels alike."""
    a, b = (np.diff(channel.astype(np.float64)) for channel in (near, far))
    shared = float(a @ b) ** 2 / max(float(a @ a) * float(b @ b), 1e-30)
    return shared > 1.0 - _SAME


def _is_clipped(channel: Waveform) -> bool:
    for signed in (channel, -channel):
        below = float(signed.max()) - signed
        at_top = int((below < 0.5 * STEP_16_BIT).sum())
        if signed.max() >= _LOUD and at_top >= _TOPS and 2 * at_top > int((below < _BELOW * STEP_16_BIT).sum()):
            return True
    return False
