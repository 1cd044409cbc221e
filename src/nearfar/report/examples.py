"""Example clips of a page: spectrogram with an explanation of the score, and audio as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from nearfar.charts import spectrogram
from nearfar.config import Recipe
from nearfar.data.clips import Clip
from nearfar.errors import InputError
from nearfar.explain.explanation import explain
from nearfar.explain.localisation import PatchBank, fit_patches
from nearfar.frontends.kaldi import PATCH_FRAMES, SAMPLE_RATE_HZ, KaldiFbank, frame_count
from nearfar.views import read_views

PER_KIND = 2
"""Clips of either kind per machine."""
MOST_NORMALS = 100
"""Largest number of normal clips that examples are compared with; of more, every n-th."""
LONGEST_S = 60.0
"""Longer recordings are cut to this length."""
PEAK = 0.9
"""Peak amplitude of the audio after scaling, which makes quiet recordings audible."""
_AUDIO_NAMES = {"cancelled": "near without far"}


@dataclass(frozen=True, slots=True)
class Example:
    """A clip to show; the last three attributes are set by :func:`make_examples`.

    Attributes:
        kind: ``false alarm``, ``miss`` or ``highest normal``.
        clip, domain, score: the clip, its domain and its anomaly score.
        sentence: the explanation of the score.
        spectrogram: as SVG.
        audio: a data URI for ``<audio>`` elements by name of the channel or view.
    """

    kind: str
    clip: Clip
    domain: str
    score: float
    sentence: str = ""
    spectrogram: str = ""
    audio: dict[str, str] = field(default_factory=dict)


def make_examples(examples: Sequence[Example], normal: Sequence[Clip], recipe: Recipe) -> list[Example]:
    """Explain clips of one machine by comparison with other, normal clips of it.

    Clips that cannot be read are left out; with fewer than two readable normal clips there are no examples.
    """
    if not examples:
        return []
    view = recipe.waveform_views[0]
    thinned = normal[:: -(-len(normal) // MOST_NORMALS) or 1]
    log_mels = [log_mel for clip in thinned if (log_mel := _log_mel(_read(clip, view, recipe))) is not None]
    if len(log_mels) < 2:
        return []
    bank = fit_patches(log_mels)
    explained = (_explained(example, view, recipe, bank) for example in examples)
    return [example for example in explained if example is not None]


def _explained(example: Example, view: str, recipe: Recipe, bank: PatchBank) -> Example | None:
    clip = example.clip
    names = dict.fromkeys(("near", "far", view))
    waveforms = {name: waveform for name in names if (waveform := _read(clip, name, recipe)) is not None}
    log_mel = _log_mel(waveforms.get(view))
    if log_mel is None:
        return None
    explanation = explain(log_mel, bank)
    seconds = len(waveforms[view]) / SAMPLE_RATE_HZ
    cut = f" (Only the first {LONGEST_S:g} s are shown.)" if seconds == LONGEST_S else ""
    title = f"Log-mel spectrogram of {clip.machine} {clip.name}, {seconds:.1f} seconds, 20 Hz to 8 kHz"
    chart = spectrogram(log_mel.numpy(), explanation.map > bank.usual_peak, title, explanation.sentence)
    return replace(
        example,
        sentence=explanation.sentence + cut,
        spectrogram=chart.svg(),
        audio={_AUDIO_NAMES.get(name, name): audio_uri(waveform) for name, waveform in waveforms.items()},
    )


def _read(clip: Clip, view: str, recipe: Recipe) -> NDArray[np.float32] | None:
    """The first :data:`LONGEST_S` of a clip, (samples,) at 16 kHz; None if it cannot be read."""
    audio = recipe.audio
    channels = {"near": audio.near_channel, "far": audio.far_channel}
    settings, rate_hz = recipe.view_settings(), audio.sample_rate_hz
    try:
        waveform = read_views(clip.path, (view,), settings, sample_rate_hz=rate_hz, **channels)[0]
    except InputError:
        return None
    beginning: NDArray[np.float32] = waveform[: round(LONGEST_S * SAMPLE_RATE_HZ)]
    return beginning


def _log_mel(waveform: NDArray[np.float32] | None) -> torch.Tensor | None:
    """(frames, 128), or None for a clip that is shorter than a patch."""
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
