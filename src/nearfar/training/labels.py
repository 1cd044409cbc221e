"""Composite labels: one class per combination of machine type, attributes, domain and view.

Section 2.2 of the report: each two-channel recording gives two samples, one per channel, and "each unique
combination of these parameters forms a distinct class label".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nearfar.data.clips import CHANNELS, Clip


@dataclass(frozen=True, slots=True)
class Sample:
    """A view of a training clip: one of its channels, or one computed from both."""

    clip: Clip
    view: str


@dataclass(frozen=True)
class LabelledSamples:
    """Training samples with their classes; ``labels[i]`` indexes ``classes`` for ``samples[i]``."""

    samples: tuple[Sample, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def composite_class(clip: Clip, view: str) -> str:
    """The class of one view of a training clip, such as ``"fan|spd=1|source|near"``.

    Sections other than ``00`` (earlier challenge years) are part of the machine type.

    Raises:
        ValueError: for a test clip, whose attributes and domain must not influence a model.
    """
    if clip.split != "train":
        raise ValueError(f"{clip.path}: a test clip has no training label")
    machine = clip.machine if clip.section == "00" else f"{clip.machine}#{clip.section}"
    attributes = [f"{key}={value}" for key, value in clip.attributes]
    return "|".join([machine, *attributes, clip.domain or "", view])


def label_samples(clips: Iterable[Clip], views: Sequence[str] = CHANNELS) -> LabelledSamples:
    """Samples of all views of all training clips with their composite classes, in the order of the clips.

    Classes are sorted by name, so their numbers do not depend on the order of the clips.

    Raises:
        ValueError: if one of the clips is a test clip.
    """
    samples = tuple(Sample(clip, view) for clip in clips for view in views)
    names = [composite_class(sample.clip, sample.view) for sample in samples]
    classes = tuple(sorted(set(names)))
    number = {name: index for index, name in enumerate(classes)}
    return LabelledSamples(samples, tuple(number[name] for name in names), classes)
