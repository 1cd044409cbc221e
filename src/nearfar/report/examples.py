"""Clips worth a look and a listen: the worst false alarms and misses, with where they depart from normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.data.clips import Clip, View
from nearfar.errors import InputError
from nearfar.explain.explanation import NOTABLE, explain
from nearfar.explain.localisation import PatchBank, fit_patches
from nearfar.frontends.kaldi import PATCH_FRAMES, KaldiFbank, frame_count, mel_centres_hz
from nearfar.report.gather import MachineFacts
from nearfar.report.media import SAMPLE_RATE_HZ, Sound, sound, spectrogram
from nearfar.views import read_views

EACH = 2
"""Clips of either kind per machine."""
MOST_NORMALS = 100
"""Normal clips that a departure is judged by."""
LONGEST_S = 60.0
"""Of longer recordings only the beginning is shown, and the page says so."""
_MARKED_HZ = {500: "0.5", 1000: "1", 2000: "2", 4000: "4 kHz"}


@dataclass(frozen=True, slots=True)
class Example:
    """A clip to look at and listen to.

    ``outline`` is an SVG path around the patches that stand out, in a box of 1 by 1; ``kind`` is ``false alarm``,
    ``miss`` or ``highest normal``.
    """

    kind: str
    name: str
    domain: str
    score: float
    sentence: str
    seconds: float
    picture: str
    outline: str
    sounds: tuple[Sound, ...]


def frequency_marks() -> list[tuple[str, float]]:
    """Names of frequencies and how high they are on a log-mel spectrogram, from 0 at the bottom to 1."""
    centres = mel_centres_hz().numpy()
    places = np.interp(list(_MARKED_HZ), centres, np.arange(len(centres)) + 0.5) / len(centres)
    return [(name, float(place)) for name, place in zip(_MARKED_HZ.values(), places, strict=True)]


def examples_of(facts: MachineFacts, recipe: Recipe) -> list[Example]:
    """The highest-scoring normal clips and the lowest-scoring anomalies of one machine, worst first.

    None without labels or recordings. Recordings that cannot be read any more are left out.
    """
    if facts.anomalous is None or facts.domains is None or not facts.test or not facts.train:
        return []
    by_name = {clip.name: clip for clip in facts.test}
    order = np.argsort(facts.scores.scores, kind="stable")
    alarms = [int(place) for place in order[::-1] if not facts.anomalous[place]][:EACH]
    misses = [int(place) for place in order if facts.anomalous[place]][:EACH]
    wanted = []
    for kind, places in (("false alarm", alarms), ("miss", misses)):
        for place in places:
            score = float(facts.scores.scores[place])
            if facts.threshold is not None and (score > facts.threshold) != (kind == "false alarm"):
                continue  # the decision was right: nothing to explain
            clip = by_name.get(facts.scores.names[place])
            if clip is not None:
                wanted.append((kind, clip, str(facts.domains[place]), score))
    return shown(wanted, facts.train, recipe)


def shown(wanted: Sequence[tuple[str, Clip, str, float]], normal: Sequence[Clip], recipe: Recipe) -> list[Example]:
    """Clips of one machine as examples, each (kind, clip, domain, score), compared with other, normal clips."""
    if not wanted:
        return []
    listener = _Listener(recipe)
    log_mels = [log_mel for clip in _some(normal) if (log_mel := listener.log_mel(clip)) is not None]
    if len(log_mels) < 2:
        return []
    bank = fit_patches(log_mels)
    return [example for entry in wanted if (example := listener.example(*entry, bank)) is not None]


class _Listener:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.view: View = "cancelled" if "cancelled" in recipe.scoring.channels else "near"
        self.fbank = KaldiFbank()

    def read(self, clip: Clip, view: View) -> NDArray[np.float32] | None:
        """The beginning of a clip, (samples,), or None where it cannot be had."""
        try:
            waveform = read_views(clip.path, (view,), self.recipe.audio, self.recipe.cancellation)[0]
        except InputError:
            return None
        beginning: NDArray[np.float32] = waveform[: round(LONGEST_S * SAMPLE_RATE_HZ)]
        return beginning

    def log_mel(self, clip: Clip) -> torch.Tensor | None:
        waveform = self.read(clip, self.view)
        if waveform is None or frame_count(len(waveform)) < PATCH_FRAMES:
            return None
        return self.fbank.log_mel(torch.from_numpy(waveform)[None])[0]

    def example(self, kind: str, clip: Clip, domain: str, score: float, bank: PatchBank) -> Example | None:
        log_mel, near, far = self.log_mel(clip), self.read(clip, "near"), self.read(clip, "far")
        if log_mel is None or near is None:
            return None
        sounds = [sound("near", near)]
        if far is not None:
            sounds.append(sound("far", far))
        if self.view == "cancelled" and (rest := self.read(clip, "cancelled")) is not None:
            sounds.append(sound("near without far", rest))
        explanation = explain(log_mel, bank)
        usual = float(np.quantile(bank.peaks.numpy(), NOTABLE))
        cut = len(near) == round(LONGEST_S * SAMPLE_RATE_HZ)
        return Example(
            kind,
            clip.name,
            domain,
            score,
            explanation.sentence + (f" (Only the first {LONGEST_S:g} s are shown.)" if cut else ""),
            len(near) / SAMPLE_RATE_HZ,
            spectrogram(log_mel.numpy()),
            outline(explanation.map > usual, PATCH_FRAMES / len(log_mel)),
            tuple(sounds),
        )


def _some(clips: Sequence[Clip]) -> Sequence[Clip]:
    return clips[:: -(-len(clips) // MOST_NORMALS) or 1]


def outline(marked: NDArray[np.bool_], width: float) -> str:
    """An SVG path along the edges between marked cells and others, in a box of 1 by 1 with bands upwards.

    Args:
        marked: (columns, bands).
        width: of a column; the columns need not fill the box.
    """
    height = 1.0 / marked.shape[1]
    padded = np.pad(marked, 1)
    steps = []
    for column, band in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True):
        steps.append(f"M{column * width:.4f} {1 - band * height:.4f}v{-height:.4f}")
    for column, band in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True):
        steps.append(f"M{column * width:.4f} {1 - band * height:.4f}h{width:.4f}")
    return "".join(steps)
