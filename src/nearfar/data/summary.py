"""Summary of a dataset per machine, from file names and audio headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import mode
from typing import Any

from nearfar.data.audio import SAMPLE_RATE_HZ, AudioHeader
from nearfar.data.clips import CHANNELS, Clip, Domain, Label, Split, attributes_text
from nearfar.data.layouts import Dataset, Layout
from nearfar.errors import InputError

_ORDER = ("train", "test", "source", "target", "normal", "anomaly", None)
"""Order of the counts; hidden labels are last."""


@dataclass(frozen=True, slots=True)
class ClipCount:
    """Number of clips of a group; domain and label are None where names hide them."""

    split: Split
    domain: Domain | None
    label: Label | None
    clips: int


@dataclass(frozen=True, slots=True)
class AttributeCount:
    """Number of clips of a domain with a combination of attributes: ``car_b1_spd_2`` or ``noAttribute``."""

    attributes: str
    split: Split
    domain: Domain
    clips: int


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """One machine of a dataset. Lengths and formats are those of readable headers."""

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
        """The fields as dictionaries, lists, text, numbers and None."""
        return {key: [*value] if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def summarise(dataset: Dataset) -> list[MachineSummary]:
    """Summarise every machine of a dataset, sorted by name.

    Only headers are read. One that cannot be read becomes a warning.
    """
    headers = dataset.headers()
    return [
        _summarise_machine(machine, (*dataset.train(machine), *dataset.test(machine)), headers, dataset.layout)
        for machine in dataset.machines
    ]


def _summarise_machine(
    machine: str, clips: Sequence[Clip], headers_or_errors: Mapping[Path, AudioHeader | InputError], layout: Layout
) -> MachineSummary:
    headers = {clip: header for clip in clips if isinstance(header := headers_or_errors[clip.path], AudioHeader)}
    errors = [error for clip in clips if isinstance(error := headers_or_errors[clip.path], InputError)]
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
            *([f"{_files(errors)} with no readable header; the first is {errors[0]}"] if errors else []),
            *_group_warnings(clips, layout),
            *_spelling_warnings(clips),
            *_header_warnings(headers),
        ),
    )


def _count_clips(clips: Iterable[Clip]) -> tuple[ClipCount, ...]:
    counts = Counter((clip.split, clip.domain, clip.label) for clip in clips)
    groups = sorted(counts, key=lambda group: [_ORDER.index(part) for part in group])
    return tuple(ClipCount(*group, counts[group]) for group in groups)


def _count_attributes(clips: Iterable[Clip]) -> tuple[AttributeCount, ...]:
    counts = Counter(
        (attributes_text(clip.attributes), clip.split, clip.domain) for clip in clips if clip.domain is not None
    )
    groups = sorted(counts, key=lambda group: (_ORDER.index(group[1]), _ORDER.index(group[2]), group[0]))
    return tuple(AttributeCount(*group, counts[group]) for group in groups)


def _group_warnings(clips: Iterable[Clip], layout: Layout) -> Iterator[str]:
    one_domain_suffices = layout in ("dcase2020", "own")
    groups = {(clip.split, clip.domain, clip.label) for clip in clips}
    test_labels = {label for split, _, label in groups if split == "test"}
    if not test_labels:
        yield "there are no test clips: the machine is used for training only"
    if not any(split == "train" for split, _, _ in groups):
        yield "there are test clips and no training clips: the machine cannot be scored"
    elif ("train", "target", "normal") not in groups and not one_domain_suffices:
        yield "there are no training clips of the target domain"
    elif ("train", "source", "normal") not in groups:
        yield "there are no training clips of the source domain"
    if None in test_labels and len(test_labels) > 1:
        yield "some test clips hide their domain and label and some do not"
    elif len(test_labels - {None}) == 1:
        yield f"all test clips are labelled {test_labels.pop()}: nothing can be evaluated"


def _spelling_warnings(clips: Iterable[Clip]) -> Iterator[str]:
    spelt = sorted({clip.attributes_as_spelt for clip in clips}, key=lambda text: (text.casefold(), text))
    for _, texts in groupby(spelt, key=str.casefold):
        variants = list(texts)
        if len(variants) > 1:
            yield f"attributes are spelt {' and '.join(variants)}, which differ only in upper and lower case"


def _header_warnings(headers: Mapping[Clip, AudioHeader]) -> Iterator[str]:
    frames = {clip: header.frames_at(SAMPLE_RATE_HZ) for clip, header in headers.items()}
    usual = mode(frames.values()) if frames else 0
    if others := [clip for clip, length in frames.items() if length != usual]:
        yield (
            f"{_files(others)} not {usual / SAMPLE_RATE_HZ:.6g} s long as most are, such as {others[0].name} "
            f"with {frames[others[0]] / SAMPLE_RATE_HZ:.6g} s"
        )
    if mono := [clip for clip, header in headers.items() if header.channels == 1]:
        yield f"{_files(mono)} with one channel and no far microphone, such as {mono[0].name}"
    if more := [clip for clip, header in headers.items() if header.channels > len(CHANNELS)]:
        used = "0 is read as near and 1 as far unless other channel numbers are given"
        yield f"{_files(more)} with more than two channels, such as {more[0].name}: {used}"
    rates = Counter(header.sample_rate_hz for header in headers.values())
    for rate, count in sorted(rates.items()):
        if rate != SAMPLE_RATE_HZ:
            yield f"{count} of {rates.total()} files have {rate} Hz and are resampled to {SAMPLE_RATE_HZ} Hz"


def _files(files: Sequence[object]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files)} files"
