"""The evaluator's ground truth: what the clips of an evaluation set are, whose own names hide it.

A folder as the organisers publish it with their evaluator, every file without a header::

    ground_truth_data/ground_truth_<machine>_section_00_test.csv         section_00_0001.wav,1  (1 is an anomaly)
    ground_truth_domain/ground_truth_<machine>_section_00_test.csv       section_00_0001.wav,1  (1 is target)
    ground_truth_attributes/ground_truth_<machine>_section_00_test.csv   section_00_0001.wav,section_00_target_...

With it, each scored clip gets a name that says its domain and label, and what evaluates development sets evaluates
evaluation sets. The attributes may be absent; where they are there, scores may go by their names as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TypeVar

from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores, files_of, read_rows
from nearfar.thresholds.rules import MachineDecisions

DATA, DOMAIN, ATTRIBUTES = "ground_truth_data", "ground_truth_domain", "ground_truth_attributes"

_TOLD = re.compile(r"section_\d\d_(source|target)_test_(normal|anomaly)_")
_MEANINGS = {
    DATA: ("rows of a file name and 0 (normal) or 1 (anomaly), without a header", ("normal", "anomaly")),
    DOMAIN: ("rows of a file name and 0 (source) or 1 (target), without a header", ("source", "target")),
}
_REMEDY = "Take the folder as the organisers publish it, or correct the file"

Scored = TypeVar("Scored", MachineScores, MachineDecisions)


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """What the clips of each machine and section are.

    ``names`` gives, for each (machine, section) and each clip (its file name without the suffix), a name that says
    domain and label; ``aliases`` the clip for each name of the attributes files, without the suffix.
    """

    folder: Path
    names: dict[tuple[str, str], dict[str, str]]
    aliases: dict[tuple[str, str], dict[str, str]]


def read_truth(folder: Path) -> GroundTruth:
    """Read the three folders of the ground truth.

    Raises:
        InputError: if labels or domains are missing or of another form, the folders do not cover the same machines
            and clips, or the attributes contradict them.
    """
    missing = [name for name in (DATA, DOMAIN) if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            folder,
            found=f"no folder {' and no folder '.join(missing)}",
            expected=f"the folders {DATA} and {DOMAIN}, and {ATTRIBUTES} if there are attributes",
            remedy="Give the folder that holds them, as the organisers publish it",
        )
    labels, domains = _files(folder / DATA), _files(folder / DOMAIN)
    if differing := sorted(set(labels) ^ set(domains)):
        raise InputError(
            folder,
            found=f"{_called(differing[0])} in only one of {DATA} and {DOMAIN}",
            expected="the same machines and sections in both",
            remedy=_REMEDY,
        )
    attributes = _files(folder / ATTRIBUTES) if (folder / ATTRIBUTES).is_dir() else {}
    names, aliases = {}, {}
    for key, path in labels.items():
        label, domain = _read_column(path, DATA), _read_column(domains[key], DOMAIN)
        _require_same_clips(domains[key], domain, label)
        aliases[key] = _read_aliases(attributes[key], label, domain) if key in attributes else {}
        names[key] = {
            clip: f"section_{key[1]}_{domain[clip]}_test_{label[clip]}_{place:04d}_noAttribute.wav"
            for place, clip in enumerate(label)
        }
    return GroundTruth(folder, names, aliases)


def with_true_names(entries: Sequence[Scored], truth: GroundTruth) -> list[Scored]:
    """The same scores or decisions, each clip by a name that says its domain and label.

    Clips are matched by file name without the audio suffix: by their hidden name, or by that of the attributes.

    Raises:
        InputError: if the ground truth lacks a machine, or a machine's clips are not those of the ground truth,
            each once.
    """
    return [replace(entry, names=_true_names(entry, truth)) for entry in entries]


def require_every_machine(entries: Sequence[MachineScores], truth: GroundTruth) -> None:
    """Make sure that all machines of the ground truth are scored, without which there is no official score.

    Raises:
        InputError: naming those that are not.
    """
    if missing := sorted(set(truth.names) - {(entry.machine, entry.section) for entry in entries}):
        raise InputError(
            "scores",
            found=f"no scores of {', '.join(map(_called, missing))}",
            expected=f"scores of every machine of the ground truth in {truth.folder}",
            remedy="Score these as well, or give a ground truth without them",
        )


def _true_names(entry: MachineScores | MachineDecisions, truth: GroundTruth) -> tuple[str, ...]:
    key = (entry.machine, entry.section)
    where = _called(key)
    if key not in truth.names:
        raise InputError(
            where,
            found=f"no ground truth of it in {truth.folder}",
            expected=f"one of {', '.join(map(_called, sorted(truth.names)))}",
            remedy="Take its files away, or give the ground truth of the same evaluation set",
        )
    names, aliases = truth.names[key], truth.aliases[key]
    stems = [PurePath(name).stem for name in entry.names]
    clips = [aliases.get(stem, stem) for stem in stems]
    unknown = [name for name, clip in zip(entry.names, clips, strict=True) if clip not in names]
    counts = Counter(clips)
    missing = [clip for clip in names if clip not in counts]
    repeated = [clip for clip, count in counts.items() if count > 1]
    for clips_at_fault, what in (
        (unknown, "that the ground truth does not have"),
        (missing, "of the ground truth missing"),
        (repeated, "more than once"),
    ):
        if clips_at_fault:
            raise InputError(
                where,
                found=f"{_counted(clips_at_fault)} {what}, such as {clips_at_fault[0]}",
                expected=f"the {len(names)} clips of the ground truth in {truth.folder}, each once",
                remedy="Score the same evaluation set that the ground truth speaks of",
            )
    return tuple(names[clip] for clip in clips)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    return {(machine, section): path for path, machine, section in files_of(folder, "ground_truth")}


def _read_column(path: Path, kind: str) -> dict[str, str]:
    """What a file says of each clip, by its name without the suffix."""
    form, words = _MEANINGS[kind]
    names, texts = read_rows(path, form)
    for row, text in enumerate(texts, start=1):
        if text not in ("0", "1"):
            raise InputError(path, found=f"{text!r} in row {row}", expected=form, remedy=_REMEDY)
    return {PurePath(name).stem: words[int(text)] for name, text in zip(names, texts, strict=True)}


def _read_aliases(path: Path, label: Mapping[str, str], domain: Mapping[str, str]) -> dict[str, str]:
    names, texts = read_rows(path, "rows of a file name and the name with attributes, without a header")
    clips = [PurePath(name).stem for name in names]
    _require_same_clips(path, dict.fromkeys(clips, ""), label)
    for row, (clip, text) in enumerate(zip(clips, texts, strict=True), start=1):
        told = _TOLD.match(text)
        if told and told.groups() != (domain[clip], label[clip]):
            raise InputError(
                path,
                found=f"{text!r} in row {row}",
                expected=f"{domain[clip]} and {label[clip]}, as {DOMAIN} and {DATA} say of {clip}",
                remedy=_REMEDY,
            )
    return {text.removesuffix(".wav"): clip for clip, text in zip(clips, texts, strict=True)}


def _require_same_clips(path: Path, clips: Mapping[str, str], expected: Mapping[str, str]) -> None:
    if differing := sorted(set(clips) ^ set(expected)):
        raise InputError(
            path,
            found=f"{differing[0]} {'added' if differing[0] in clips else 'missing'}",
            expected=f"the same clips as in {DATA}",
            remedy=_REMEDY,
        )


def _counted(clips: Sequence[str]) -> str:
    return "1 clip" if len(clips) == 1 else f"{len(clips)} clips"


def _called(key: tuple[str, str]) -> str:
    return f"{key[0]} section {key[1]}"
