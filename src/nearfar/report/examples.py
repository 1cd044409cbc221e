"""Example recordings of a page: spectrogram with an explanation of the score, and audio as data URIs.

The sentence, its numbers and the frame in the spectrogram are of one region, that of the departure, and the
spectrogram is of the view that the sentence names.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from nearfar.charts import spectrogram
from nearfar.config import Recipe
from nearfar.data.audio import read_waveform
from nearfar.data.clips import CHANNELS, Channel, Clip
from nearfar.detector.departure import Departure, explanation
from nearfar.errors import InputError
from nearfar.explain.attribution import Part, cause
from nearfar.explain.localisation import PatchBank, fit_patches
from nearfar.frontends.kaldi import PATCH_FRAMES, SAMPLE_RATE_HZ, KaldiFbank, frame_count
from nearfar.views import channels_of, make_views
from nearfar.views.base import check_views

PER_KIND = 2
"""Recordings of either kind per machine."""
MOST_NORMALS = 100
"""Largest number of normal recordings that examples are compared with; of more, every n-th."""
LONGEST_S = 60.0
"""Of a longer recording so much is shown, around the region that its score is due to."""
PEAK = 0.9
"""Peak amplitude of the audio after scaling, which makes quiet recordings audible."""
_AUDIO_NAMES = {"cancelled": "near without far"}

Recorded = Mapping[Channel, NDArray[np.float32]]
"""The channels of a recording that can be read, each (samples,) at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Example:
    """A recording to show; the last four attributes are set by :func:`make_examples`.

    Attributes:
        kind: ``false alarm``, ``miss``, ``highest normal``, or the status of a new recording.
        clip, domain, score: the recording, its domain (or empty) and its anomaly score.
        anomalous: whether its score is above the threshold; None without a threshold.
        parts: that its score is made of; none where the back-end does not divide scores.
        window_s: begin and end of its most anomalous window; None where that is the whole recording.
        departure: where it departs from normal.
        sentence: the explanation of the score, and what is shown of a long recording.
        spectrogram: as SVG.
        audio: a data URI for ``<audio>`` elements by name of the channel or view.
    """

    kind: str
    clip: Clip
    domain: str
    score: float
    anomalous: bool | None = None
    parts: tuple[Part, ...] = ()
    window_s: tuple[float, float] | None = None
    departure: Departure | None = None
    sentence: str = ""
    spectrogram: str = ""
    audio: dict[str, str] = field(default_factory=dict)


def make_examples(examples: Sequence[Example], normal: Sequence[Clip], recipe: Recipe) -> list[Example]:
    """Explain recordings of one machine by their scores and by comparison with other, normal ones.

    Recordings that cannot be read are left out; with fewer than two readable normal ones there are no examples.
    """
    if not examples:
        return []
    views = {example.clip.name: _shown_view(example.parts, recipe) for example in examples}
    banks = {view: _normal_patches(normal, view, recipe) for view in dict.fromkeys(views.values())}
    out = []
    for example in examples:
        view = views[example.clip.name]
        bank = banks[view]
        explained = None if bank is None else _explained(example, view, recipe, bank)
        if explained is not None:
            out.append(explained)
    return out


def _shown_view(parts: Sequence[Part], recipe: Recipe) -> str:
    """The view that the sentence on a score is about, if it is a signal, or else the first one."""
    found = cause(parts)
    return view_of(None if found is None else found.view, recipe)


def view_of(named: str | None, recipe: Recipe) -> str:
    """The view that is named, if it is a signal, or else the first one of the recipe."""
    return named if named is not None and named in recipe.waveform_views else recipe.waveform_views[0]


def _normal_patches(normal: Sequence[Clip], view: str, recipe: Recipe) -> PatchBank | None:
    """Patches of normal recordings in a view; None with fewer than two that can be read."""
    log_mels = []
    for clip in normal[:: -(-len(normal) // MOST_NORMALS) or 1]:
        beginning = _cut(_read(clip, recipe), 0, round(LONGEST_S * SAMPLE_RATE_HZ))
        if (log_mel := _log_mel(_view(beginning, view, recipe, clip))) is not None:
            log_mels.append(log_mel)
    return fit_patches(log_mels) if len(log_mels) > 1 else None


def _explained(example: Example, view: str, recipe: Recipe, bank: PatchBank) -> Example | None:
    """An example with the region, the sentence, the spectrogram and the sounds; None if it cannot be read."""
    recorded = _read(example.clip, recipe)
    begin, end = _window(example, recorded)
    log_mel = _log_mel(_view(_cut(recorded, begin, end), view, recipe, example.clip))
    if log_mel is None:
        return None
    begin_s = begin / SAMPLE_RATE_HZ if end - begin < _length(recorded) else None
    found = explanation(log_mel, bank, example.parts, begin_s=begin_s, anomalous=example.anomalous)
    return with_media(replace(example, departure=Departure.of(found)), view, recipe, recorded)


def _length(recorded: Recorded) -> int:
    return max(map(len, recorded.values()), default=0)


def _window(example: Example, recorded: Recorded) -> tuple[int, int]:
    """The samples of the most anomalous window of a recording."""
    samples = _length(recorded)
    if example.window_s is None:
        return 0, samples
    begin, end = (min(round(edge * SAMPLE_RATE_HZ), samples) for edge in example.window_s)
    return begin, end


def with_media(example: Example, view: str, recipe: Recipe, recorded: Recorded | None = None) -> Example | None:
    """An example with the sentence of its departure, and with spectrogram and sounds of what is shown.

    Args:
        example: with its departure, if there is one.
        view: to draw.
        recipe: that the recording was scored by.
        recorded: its channels; None to read them.

    Returns:
        None if the recording cannot be read, or is shorter than a patch.
    """
    clip, found = example.clip, example.departure
    recorded = _read(clip, recipe) if recorded is None else recorded
    samples, window = _length(recorded), _window(example, recorded)
    region_s = (0.0, 0.0) if found is None else (found.begin_s, found.end_s)
    first, last = shown_samples(samples, window, region_s)
    shown = _cut(recorded, first, last)
    waveforms: dict[str, NDArray[np.float32]] = {str(name): signal for name, signal in shown.items()}
    drawn = _view(shown, view, recipe, clip)
    log_mel = _log_mel(drawn)
    if drawn is None or log_mel is None:
        return None
    waveforms[view] = drawn
    sentence = "" if found is None else found.sentence
    title = f"Log-mel spectrogram of {clip.machine} {clip.name}, {len(drawn) / SAMPLE_RATE_HZ:.1f} seconds, "
    chart = spectrogram(
        log_mel.numpy(),
        f"{title}20 Hz to 8 kHz, view {view}",
        sentence or "No part is framed.",
        view=f"view {view}: {_AUDIO_NAMES[view]}" if view in _AUDIO_NAMES else f"view {view}",
        region=None if found is None else (found.begin_s, found.end_s, found.low_hz, found.high_hz),
        begin_s=first / SAMPLE_RATE_HZ,
    )
    return replace(
        example,
        sentence=" ".join(filter(None, (sentence, _shown(first, last, samples, example.window_s is not None)))),
        spectrogram=chart.svg(),
        audio={_AUDIO_NAMES.get(name, name): audio_uri(waveform) for name, waveform in waveforms.items()},
    )


def _shown(first: int, last: int, samples: int, is_window: bool) -> str:
    """Which part of a longer recording is shown, in words."""
    if last - first >= samples:
        return ""
    begin_s, end_s, seconds = (f"{round(number / SAMPLE_RATE_HZ, 1):g}" for number in (first, last, samples))
    part = "the most anomalous window, " if is_window else ""
    return f"(Shown: {part}{begin_s} to {end_s} s of {seconds} s.)"


def shown_samples(samples: int, window: tuple[int, int], region_s: tuple[float, float]) -> tuple[int, int]:
    """The samples of a recording to show: its most anomalous window, of a longer one :data:`LONGEST_S`.

    Args:
        samples: of the recording.
        window: begin and end of the window in samples.
        region_s: begin and end in seconds of the region whose middle a cut is around.
    """
    begin, end = window
    longest = round(LONGEST_S * SAMPLE_RATE_HZ)
    middle = round(sum(region_s) / 2 * SAMPLE_RATE_HZ)
    first = min(max(middle - longest // 2, begin), max(end - longest, begin))
    return first, min(first + longest, end, samples)


def _read(clip: Clip, recipe: Recipe) -> Recorded:
    """The channels of a recording that can be read."""
    audio = recipe.audio
    numbers, out = {"near": audio.near_channel, "far": audio.far_channel}, {}
    for channel in CHANNELS:
        try:
            out[channel] = read_waveform(clip.path, (channel,), audio.sample_rate_hz, **numbers)[0]
        except InputError:
            continue
    return out


def _cut(recorded: Recorded, begin: int, end: int) -> Recorded:
    return {channel: samples[begin:end] for channel, samples in recorded.items()}


def _view(recorded: Recorded, view: str, recipe: Recipe, clip: Clip) -> NDArray[np.float32] | None:
    """(samples,) of the first signal of a view; None if it cannot be made of the channels."""
    if not all(len(recorded.get(channel, ())) for channel in channels_of((view,))):
        return None
    settings = recipe.view_settings()
    try:
        check_views(recorded, (view,), settings, clip.name)
    except InputError:
        return None
    made: NDArray[np.float32] = make_views(recorded, (view,), settings, recipe.audio.sample_rate_hz)[0]
    return made if made.ndim == 1 else made[0]


def _log_mel(waveform: NDArray[np.float32] | None) -> torch.Tensor | None:
    """(frames, 128), or None for a recording that is shorter than a patch."""
    if waveform is None or frame_count(len(waveform)) < PATCH_FRAMES:
        return None
    return KaldiFbank().log_mel(torch.from_numpy(waveform)[None])[0]


def audio_uri(waveform: NDArray[np.float32]) -> str:
    """A data URI of MP3 audio, or WAV if the installed libsndfile cannot write MP3.

    Args:
        waveform: (samples,) at 16 kHz; scaled to a peak of 0.9.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    scaled = waveform * np.float32(PEAK / peak) if peak > 0 else waveform
    is_mp3 = "MP3" in soundfile.available_formats()
    form, subtype, mime = ("MP3", "MPEG_LAYER_III", "mpeg") if is_mp3 else ("WAV", "PCM_16", "wav")
    buffer = io.BytesIO()
    soundfile.write(buffer, scaled, SAMPLE_RATE_HZ, format=form, subtype=subtype)
    return f"data:audio/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
