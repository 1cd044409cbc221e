"""Example clips of a page: spectrogram with an explanation of the score, and audio as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

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
"""Normal clips that examples are compared with; of more, every n-th."""
LONGEST_S = 60.0
"""Only the beginning of longer recordings is shown."""
PEAK = 0.9
"""Peak amplitude that audio is scaled to, so that quiet recordings are audible."""
_AUDIO_NAMES = {"cancelled": "near without far"}


@dataclass(frozen=True, slots=True)
class Sound:
    """One channel of a clip as a data URI that an ``<audio>`` element plays."""

    name: str
    uri: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A clip to show; ``kind`` is ``false alarm``, ``miss`` or ``highest normal``."""

    kind: str
    clip: Clip
    domain: str
    score: float


@dataclass(frozen=True, slots=True)
class Example:
    """A clip with its spectrogram (SVG), a sentence on where it departs from normal clips, and its audio."""

    kind: str
    name: str
    domain: str
    score: float
    sentence: str
    spectrogram: str
    sounds: tuple[Sound, ...]


def make_examples(candidates: Sequence[Candidate], normal: Sequence[Clip], recipe: Recipe) -> list[Example]:
    """Explain clips of one machine by comparison with other, normal clips of it.

    Clips that cannot be read are left out; with fewer than two readable normal clips there are no examples.
    """
    if not candidates:
        return []
    view = recipe.waveform_views[0]
    thinned = normal[:: -(-len(normal) // MOST_NORMALS) or 1]
    log_mels = [log_mel for clip in thinned if (log_mel := _log_mel(_read(clip, view, recipe))) is not None]
    if len(log_mels) < 2:
        return []
    bank = fit_patches(log_mels)
    examples = (_example(candidate, view, recipe, bank) for candidate in candidates)
    return [example for example in examples if example is not None]


def _example(candidate: Candidate, view: str, recipe: Recipe, bank: PatchBank) -> Example | None:
    clip = candidate.clip
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
    return Example(
        candidate.kind,
        clip.name,
        candidate.domain,
        candidate.score,
        explanation.sentence + cut,
        chart.svg(),
        tuple(Sound(_AUDIO_NAMES.get(name, name), audio_uri(waveform)) for name, waveform in waveforms.items()),
    )


def _read(clip: Clip, view: str, recipe: Recipe) -> NDArray[np.float32] | None:
    """The beginning of a clip, (samples,) at 16 kHz, or None where it cannot be read."""
    try:
        audio = recipe.audio
        waveform = read_views(
            clip.path,
            (view,),
            recipe.view_settings(),
            sample_rate_hz=audio.sample_rate_hz,
            near=audio.near_channel,
            far=audio.far_channel,
        )[0]
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
    """A data URI of MP3 audio, or WAV where the sound library writes no MP3.

    Args:
        waveform: (samples,) at 16 kHz; scaled to a peak of 0.9.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    scaled = waveform * np.float32(PEAK / peak) if peak > 0 else waveform
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(buffer, scaled, SAMPLE_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III")
        kind = "audio/mpeg"
    else:
        soundfile.write(buffer, scaled, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
        kind = "audio/wav"
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
