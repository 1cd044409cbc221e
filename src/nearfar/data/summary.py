"""What was understood of a data folder, machine by machine, from file names and audio headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from nearfar.data.audio import SAMPLE_RATE_HZ, AudioHeader
from nearfar.data.clips import CHANNELS, Clip, Domain, Label, Split
from nearfar.data.layouts import Dataset, Layout
from nearfar.errors import InputError


@dataclass(frozen=True, slots=True)
class ClipCount:
    """Clips of one group; domain and label are None where the names hide them."""

    split: Split
    domain: Domain | None
    label: Label | None
    clips: int


@dataclass(frozen=True, slots=True)
class AttributeCount:
    """Clips of one domain with one combination of attributes, such as ``car_b1_spd_2`` or ``noAttribute``."""

    attributes: str
    split: Split
    domain: Domain
    clips: int


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """One machine of a data folder. Lengths and formats are those of the headers that could be read."""

    machine: str
    clips: tuple[ClipCount, ...]
    attributes: tuple[AttributeCount, ...]
    shortest_seconds: float
    longest_seconds: float
    channels: tuple[int, ...]
    sample_rates_hz: tuple[int, ...]
    hours: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as dictionaries, lists, text, numbers and None."""
        return {key: [*value] if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def summarise(dataset: Dataset) -> list[MachineSummary]:
    """Summarise every machine of a data folder, in the order of their names.

    Only headers are read. A header that cannot be read becomes a warning of its machine.
    """
    headers = dataset.headers()
    return [
        _summarise_machine(machine, (*dataset.train(machine), *dataset.test(machine)), headers, dataset.layout)
        for machine in dataset.machines
    ]


def _summarise_machine(
    machine: str, clips: Sequence[Clip], answers: Mapping[Path, AudioHeader | InputError], layout: Layout
) -> MachineSummary:
    headers = {clip: header for clip in clips if isinstance(header := answers[clip.path], AudioHeader)}
    errors = [error for clip in clips if isinstance(error := answers[clip.path], InputError)]
    seconds = [header.seconds for header in headers.values()]
    return MachineSummary(
        machine,
        clips=_count_clips(clips),
        attributes=_count_attributes(clips),
        shortest_seconds=min(seconds, default=0.0),
        longest_seconds=max(seconds, default=0.0),
        channels=tuple(sorted({header.channels for header in headers.values()})),
        sample_rates_hz=tuple(sorted({header.sample_rate_hz for header in headers.values()})),
        hours=sum(seconds) / 3600,
        warnings=(
            *_unreadable(errors),
            *_odd_groups(clips, layout),
            *_odd_spellings(clips),
            *_odd_lengths(headers),
            *_odd_channels(headers),
            *_odd_sample_rates(headers),
        ),
    )


def _count_clips(clips: Iterable[Clip]) -> tuple[ClipCount, ...]:
    counts = Counter((clip.split, clip.domain, clip.label) for clip in clips)
    # Training before test, source before target, normal before anomaly, what names hide last.
    order = ("train", "test", "source", "target", "normal", "anomaly", None)
    groups = sorted(counts, key=lambda group: [order.index(part) for part in group])
    return tuple(ClipCount(*group, counts[group]) for group in groups)


def _count_attributes(clips: Iterable[Clip]) -> tuple[AttributeCount, ...]:
    counts = Counter((_attribute_text(clip), clip.split, clip.domain) for clip in clips if clip.domain is not None)
    order = ("train", "test", "source", "target")
    groups = sorted(counts, key=lambda group: (order.index(group[1]), order.index(group[2]), group[0]))
    return tuple(AttributeCount(*group, counts[group]) for group in groups)


def _attribute_text(clip: Clip) -> str:
    return "_".join(f"{key}_{value}" for key, value in clip.attributes) or "noAttribute"


def _unreadable(errors: Sequence[InputError]) -> Iterator[str]:
    if errors:
        yield f"{_files(errors)} with no readable header; the first is {errors[0]}"


def _odd_groups(clips: Iterable[Clip], layout: Layout) -> Iterator[str]:
    one_domain_will_do = layout in ("dcase2020", "own")
    groups = {(clip.split, clip.domain, clip.label) for clip in clips}
    test_labels = {label for split, _, label in groups if split == "test"}
    if not test_labels:
        yield "there are no test clips: the machine only takes part in training"
    if not any(split == "train" for split, _, _ in groups):
        yield "there are test clips and no training clips: the machine cannot be scored"
    elif ("train", "target", "normal") not in groups and not one_domain_will_do:
        yield "there are no training clips of the target domain"
    elif ("train", "source", "normal") not in groups:
        yield "there are no training clips of the source domain"
    if None in test_labels and len(test_labels) > 1:
        yield "some test clips hide their domain and label and some do not"
    elif len(test_labels - {None}) == 1:
        yield f"all test clips are labelled {test_labels.pop()}: nothing can be evaluated"


def _odd_spellings(clips: Iterable[Clip]) -> Iterator[str]:
    spelt = sorted({clip.attributes_as_spelt for clip in clips}, key=lambda text: (text.casefold(), text))
    for _, texts in groupby(spelt, key=str.casefold):
        variants = list(texts)
        if len(variants) > 1:
            yield f"attributes are spelt {' and '.join(variants)}, which differ only in upper and lower case"


def _odd_lengths(headers: Mapping[Clip, AudioHeader]) -> Iterator[str]:
    frames = {clip: header.frames_at(SAMPLE_RATE_HZ) for clip, header in headers.items()}
    usual, others = _usual_and_others(frames)
    if others:
        yield (
            f"{_files(others)} not {usual / SAMPLE_RATE_HZ:.6g} s long as most are, such as {others[0].name} "
            f"with {frames[others[0]] / SAMPLE_RATE_HZ:.6g} s"
        )


def _odd_channels(headers: Mapping[Clip, AudioHeader]) -> Iterator[str]:
    mono = [clip for clip, header in headers.items() if header.channels == 1]
    more = [clip for clip, header in headers.items() if header.channels > len(CHANNELS)]
    if mono:
        yield f"{_files(mono)} with one channel only, hence no far microphone, such as {mono[0].name}"
    if more:
        told = "0 is near and 1 far, unless --near and --far say otherwise"
        yield f"{_files(more)} with more than two channels, such as {more[0].name}: {told}"


def _odd_sample_rates(headers: Mapping[Clip, AudioHeader]) -> Iterator[str]:
    rates = Counter(header.sample_rate_hz for header in headers.values())
    for rate, count in sorted(rates.items()):
        if rate != SAMPLE_RATE_HZ:
            yield f"{count} of {rates.total()} files have {rate} Hz and are resampled to {SAMPLE_RATE_HZ} Hz"


def _usual_and_others(frames: Mapping[Clip, int]) -> tuple[int, list[Clip]]:
    """The most common length, and the clips of another one."""
    if not frames:
        return 0, []
    usual, _ = Counter(frames.values()).most_common(1)[0]
    return usual, [clip for clip, length in frames.items() if length != usual]


def _files(listed: Sequence[object]) -> str:
    return "1 file" if len(listed) == 1 else f"{len(listed)} files"
