"""Ground truth of test clips: label and domain, from clips, file names, ``truth.csv`` or the evaluator's files.

``truth.csv`` lies beside the score files of one's own recordings, whose names encode no labels; ``nearfar run``
writes it::

    machine,file_name,label,domain
    pump,normal/0001.wav,normal,source
    pump,worn bearing/0001.wav,anomaly,source

The organisers publish the ground truth of an evaluation set as folders of files without a header::

    ground_truth_data/ground_truth_<machine>_section_00_test.csv         section_00_0001.wav,1  (1 is an anomaly)
    ground_truth_domain/ground_truth_<machine>_section_00_test.csv       section_00_0001.wav,1  (1 is target)
    ground_truth_attributes/ground_truth_<machine>_section_00_test.csv   section_00_0001.wav,section_00_target_...

The attributes may be absent; where they are there, score files may list clips by the names in them.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from nearfar.data.clips import Clip, Domain, Label, edition_of, parse_test_name
from nearfar.data.layouts import Layout
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import (
    Key,
    MachineClips,
    MachineScores,
    clip_name,
    files_of,
    heading,
    read_rows,
    write_rows,
)
from nearfar.metrics import DOMAINS, OFFICIAL_RULES, OfficialRule

FILE = "truth.csv"
DATA, DOMAIN, ATTRIBUTES = "ground_truth_data", "ground_truth_domain", "ground_truth_attributes"
DEVELOPMENT_MACHINES_2026 = ("bearingEmu", "fan", "gearboxEmu", "sliderEmu", "ToyCar", "ToyCarEmu", "valveEmu")

logger = logging.getLogger(__name__)

_COLUMNS = ["machine", "file_name", "label", "domain"]
_ANY_SECTION = ""
"""Section of the clips of a ``truth.csv``, which has no column for it."""
_CLIPS_PER_GROUP_2026 = 50
_LABELLED = re.compile(r"section_\d\d_(source|target)_test_(normal|anomaly)_")
_LABELS: dict[str, Label] = {"0": "normal", "1": "anomaly"}
_DOMAINS: dict[str, Domain] = {"0": "source", "1": "target"}

Entry = TypeVar("Entry", bound=MachineClips)
Meaning = TypeVar("Meaning", Label, Domain)


class TrueClip(NamedTuple):
    """Label and domain of a clip, and its file name."""

    label: Label
    domain: Domain
    file_name: str


class ClipLabels(NamedTuple):
    """Labels of an entry's clips: ``anomalous`` (clips,) bool, ``domains`` (clips,) ``source`` or ``target``."""

    anomalous: NDArray[np.bool_]
    domains: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Label and domain of test clips.

    Attributes:
        clips: by (machine, section), then by clip name without the audio suffix; only clips with known labels.
        edition: the layout of the data, which decides the rule of the official score.
        folder: the evaluator's folder; scores must then be of exactly its clips.
        aliases: by (machine, section), the clip name for each name in the evaluator's attributes files.
    """

    clips: Mapping[Key, Mapping[str, TrueClip]]
    edition: Layout = "dcase2022"
    folder: Path | None = None
    aliases: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)

    @property
    def rule(self) -> OfficialRule:
        """The rule of the official score."""
        return OFFICIAL_RULES[self.edition]

    @classmethod
    def from_clips(cls, clips: Iterable[Clip], layout: Layout) -> GroundTruth:
        """From the test clips of a dataset; other clips are ignored."""
        return cls(_by_key((clip.section, clip) for clip in clips if clip.split == "test"), layout)

    @classmethod
    def from_names(cls, entries: Iterable[MachineClips]) -> GroundTruth:
        """From the clip names of score files, of any year; names that encode no label are ignored.

        Raises:
            InputError: if the clips are of years with different rules of the official score.
        """
        named = [
            (entry, clip) for entry in entries for name in entry.names if (clip := _parsed(name, entry.machine))
        ]
        pairs = [(entry.section, clip) for entry, clip in named if clip.label is not None]
        editions = {edition_of(clip.path.name) for _, clip in pairs}
        if len(editions) > 1:
            raise InputError(
                "scores",
                found="clips of years that are evaluated differently",
                expected="scores of one year's data",
                remedy="Move the score files of each year into a folder of their own",
            )
        return cls(_by_key(pairs), editions.pop() if editions else "dcase2022")

    @classmethod
    def from_csv(cls, folder: Path) -> GroundTruth:
        """From ``truth.csv`` in a folder of score files; it counts for all sections of a machine.

        Raises:
            InputError: if it is absent, of another form, or lists a clip twice.
        """
        path = folder / FILE
        try:
            head, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True)
        except FileNotFoundError:
            raise _bad_csv(path, "no such file") from None
        except (UnicodeDecodeError, csv.Error, ValueError) as error:
            raise _bad_csv(path, f"something that is not CSV text ({error})") from None
        if head != _COLUMNS:
            raise _bad_csv(path, f"the header {','.join(head)!r}")
        clips: dict[Key, dict[str, TrueClip]] = {}
        for number, row in enumerate(rows, start=2):
            if len(row) != len(_COLUMNS) or row[2] not in ("normal", "anomaly") or row[3] not in DOMAINS:
                raise _bad_csv(path, f"{','.join(row)!r} in row {number}")
            of_machine = clips.setdefault((row[0], _ANY_SECTION), {})
            if clip_name(row[1]) in of_machine:
                raise _bad_csv(path, f"{row[1]} of {row[0]} again in row {number}")
            of_machine[clip_name(row[1])] = TrueClip(cast(Label, row[2]), cast(Domain, row[3]), row[1])
        return cls(clips, "own")

    @classmethod
    def of_score_folder(cls, folder: Path, entries: Sequence[MachineClips]) -> GroundTruth:
        """From ``truth.csv`` if there is one and some names are not of the challenge's form, else from the names.

        Raises:
            InputError: as :meth:`from_csv` and :meth:`from_names`.
        """
        if (folder / FILE).is_file() and not all(_parsed(name, "") for entry in entries for name in entry.names):
            return cls.from_csv(folder)
        return cls.from_names(entries)

    @classmethod
    def from_evaluator(cls, folder: Path) -> GroundTruth:
        """From the folders that the organisers publish with their evaluator.

        Raises:
            InputError: if labels or domains are missing or of another form, the folders do not cover the same
                machines and clips, or the attributes contradict them.
        """
        if missing := [name for name in (DATA, DOMAIN) if not (folder / name).is_dir()]:
            raise InputError(
                folder,
                found=f"no folder {' and no folder '.join(missing)}",
                expected=f"the folders {DATA} and {DOMAIN}, and {ATTRIBUTES} if there are attributes",
                remedy="Give the folder that holds them, as the organisers publish it",
            )
        labels, domains = (files_of(folder / name, "ground_truth") for name in (DATA, DOMAIN))
        if differing := sorted(set(labels) ^ set(domains)):
            found = f"{heading(differing[0])} in only one of {DATA} and {DOMAIN}"
            raise _bad_evaluator(folder, found, "the same machines and sections in both")
        attributes = files_of(folder / ATTRIBUTES, "ground_truth") if (folder / ATTRIBUTES).is_dir() else {}
        clips, aliases = {}, {}
        for key, path in labels.items():
            label_of, domain_of = _read_column(path, _LABELS), _read_column(domains[key], _DOMAINS)
            _require_same_clips(domains[key], domain_of, label_of)
            clips[key] = {
                clip: TrueClip(label, domain_of[clip], f"{clip}.wav") for clip, label in label_of.items()
            }
            aliases[key] = _read_aliases(attributes[key], clips[key]) if key in attributes else {}
        return cls(clips, folder=folder, aliases=aliases)

    def write_csv(self, folder: Path) -> Path:
        """Write ``truth.csv`` into a folder of score files, which is created if needed; returns its path."""
        rows = [
            [machine, clip.file_name, clip.label, clip.domain]
            for (machine, _), clips in self.clips.items()
            for clip in clips.values()
        ]
        return write_rows(folder / FILE, [_COLUMNS, *rows])

    def labels(self, entry: MachineClips) -> ClipLabels:
        """Labels and domains of the clips of an entry, in its order; clips are matched without audio suffix.

        Raises:
            InputError: if the label of a clip is not known or, with the evaluator's ground truth, the clips are
                not exactly its clips.
        """
        if self.folder is not None:
            self._require_exact_clips(entry, self.folder)
        clips = []
        for name in entry.names:
            if (clip := self._clip(entry, name)) is None:
                raise self._no_label(entry, name)
            clips.append(clip)
        return ClipLabels(
            np.array([clip.label == "anomaly" for clip in clips], dtype=bool),
            np.array([clip.domain for clip in clips], dtype=np.str_),
        )

    def hides(self, entry: MachineClips) -> bool:
        """True if no clip of an entry has a known label, as in an evaluation set."""
        return all(self._clip(entry, name) is None for name in entry.names)

    def _reason_not_evaluable(self, entry: MachineClips) -> str | None:
        """The predicate of the warning in :meth:`evaluable`; None if the entry can be evaluated.

        Missing groups of challenge data are errors of :func:`nearfar.evaluation.results.evaluate_scores` instead.
        """
        found = {clip.label for name in entry.names if (clip := self._clip(entry, name)) is not None}
        if not found:
            return "hide their labels"
        if self.edition == "own" and len(found) == 1:
            return "are normal" if found == {"normal"} else "are anomalies"
        return None

    def evaluable(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries with known labels and, in one's own folder, both normal clips and anomalies.

        The others are named in warnings, unless all hide their labels, as evaluation sets do. With the evaluator's
        ground truth, entries of development machines, whose names encode labels, are left out.
        """
        if self.folder is not None:
            return self._without_development_machines(entries)
        reasons = [self._reason_not_evaluable(entry) for entry in entries]
        if any(reason != "hide their labels" for reason in reasons):
            for entry, reason in zip(entries, reasons, strict=True):
                if reason is not None:
                    logger.warning(
                        "%s: all test clips %s, so they are scored but not evaluated", entry.machine, reason
                    )
        return [entry for entry, reason in zip(entries, reasons, strict=True) if reason is None]

    def require_every_machine(self, entries: Sequence[MachineClips]) -> None:
        """Check that all machines of the evaluator's ground truth are scored: the official score needs them.

        Raises:
            InputError: naming those that are not.
        """
        missing = sorted(set(self.clips) - {entry.key for entry in entries})
        if self.folder is not None and missing:
            raise InputError(
                "scores",
                found=f"no scores of {', '.join(map(heading, missing))}",
                expected=f"scores of every machine of the ground truth in {self.folder}",
                remedy="Score these as well, or give a ground truth without them",
            )

    def _clip(self, entry: MachineClips, name: str) -> TrueClip | None:
        clips = self.clips.get(entry.key) or self.clips.get((entry.machine, _ANY_SECTION), {})
        stem = clip_name(name)
        return clips.get(self.aliases.get(entry.key, {}).get(stem, stem))

    def _no_label(self, entry: MachineClips, name: str) -> InputError:
        if self.edition == "own" or "/" in name:
            return InputError(
                heading(entry.key),
                found=f"{name}, a clip of one's own folder without a label",
                expected=f"{FILE} beside the score files, with a row for each clip",
                remedy="Take the whole scores folder that nearfar run wrote",
            )
        try:
            parse_test_name(name, entry.machine)
        except InputError as error:
            return error
        return InputError(
            heading(entry.key),
            found=f"{name}, an evaluation clip whose name hides domain and label",
            expected="names such as section_00_source_test_normal_0000_noAttribute.wav",
            remedy="Use the evaluator's ground truth, or write the true names into the score files",
        )

    def _require_exact_clips(self, entry: MachineClips, folder: Path) -> None:
        if entry.key not in self.clips:
            raise InputError(
                heading(entry.key),
                found=f"no ground truth of it in {folder}",
                expected=f"one of {', '.join(map(heading, sorted(self.clips)))}",
                remedy="Remove its files, or give the ground truth of the same evaluation set",
            )
        clips, aliases = self.clips[entry.key], self.aliases.get(entry.key, {})
        stems = [clip_name(name) for name in entry.names]
        scored = Counter(aliases.get(stem, stem) for stem in stems)
        for names, problem in (
            ([name for name in entry.names if self._clip(entry, name) is None], "that the ground truth lacks"),
            ([clip for clip in clips if clip not in scored], "of the ground truth missing"),
            ([clip for clip, count in scored.items() if count > 1], "more than once"),
        ):
            if names:
                raise InputError(
                    heading(entry.key),
                    found=f"{len(names)} clip{'s' if len(names) > 1 else ''} {problem}, such as {names[0]}",
                    expected=f"the {len(clips)} clips of the ground truth in {folder}, each once",
                    remedy="Score the evaluation set of this ground truth",
                )

    def _without_development_machines(self, entries: Sequence[Entry]) -> list[Entry]:
        foreign = [entry for entry in entries if entry.key not in self.clips]
        by_name = GroundTruth.from_names(foreign)
        left_out = {entry.key for entry in foreign if not by_name.hides(entry)}
        if left_out:
            names = sorted({machine for machine, _ in left_out})
            logger.warning("left out, as the ground truth is not of them: %s", ", ".join(names))
        return [entry for entry in entries if entry.key not in left_out]


def is_dcase2026_development_set(entries: Sequence[MachineScores], truth: GroundTruth) -> bool:
    """True for scores of the DCASE 2026 development set, for which the technical report gives figures.

    It is recognised by its seven machines and 50 test clips per machine, domain and label: data of other years
    or of simulations has some of the same machine names.
    """
    keys = sorted(entry.key for entry in entries)
    if truth.edition != "dcase2022" or keys != sorted((machine, "00") for machine in DEVELOPMENT_MACHINES_2026):
        return False
    groups = dict.fromkeys(product(DOMAINS, (False, True)), _CLIPS_PER_GROUP_2026)
    labels = map(truth.labels, entries)
    return all(Counter(zip(domains, anomalous.tolist(), strict=True)) == groups for anomalous, domains in labels)


def _by_key(clips: Iterable[tuple[str, Clip]]) -> dict[Key, dict[str, TrueClip]]:
    found: dict[Key, dict[str, TrueClip]] = {}
    for section, clip in clips:
        if clip.label is not None and clip.domain is not None:
            of_section = found.setdefault((clip.machine, section), {})
            of_section[clip_name(clip.name)] = TrueClip(clip.label, clip.domain, clip.name)
    return found


def _parsed(name: str, machine: str) -> Clip | None:
    """The clip of a name of the challenge's form; None for other names, such as those with a folder."""
    if "/" in name:
        return None
    try:
        return parse_test_name(name, machine)
    except InputError:
        return None


def _read_column(path: Path, meanings: Mapping[str, Meaning]) -> dict[str, Meaning]:
    """The label or domain of each clip, by its name without the suffix; ``meanings`` are those of 0 and 1."""
    zero, one = meanings.values()
    expected = f"rows of a file name and 0 ({zero}) or 1 ({one}), without a header"
    names, texts = read_rows(path, expected)
    for row, text in enumerate(texts, start=1):
        if text not in meanings:
            raise _bad_evaluator(path, f"{text!r} in row {row}", expected)
    return {clip_name(name): meanings[text] for name, text in zip(names, texts, strict=True)}


def _read_aliases(path: Path, clips: Mapping[str, TrueClip]) -> dict[str, str]:
    names, texts = read_rows(path, "rows of a file name and the name with attributes, without a header")
    stems = [clip_name(name) for name in names]
    _require_same_clips(path, stems, clips)
    for row, (stem, text) in enumerate(zip(stems, texts, strict=True), start=1):
        match, clip = _LABELLED.match(text), clips[stem]
        if match and match.groups() != (clip.domain, clip.label):
            expected = f"{clip.domain} and {clip.label}, as for {stem} in {DOMAIN} and {DATA}"
            raise _bad_evaluator(path, f"{text!r} in row {row}", expected)
    return {clip_name(text): stem for stem, text in zip(stems, texts, strict=True)}


def _require_same_clips(path: Path, clips: Collection[str], expected: Collection[str]) -> None:
    if differing := sorted(set(clips) ^ set(expected)):
        found = f"{differing[0]} {'added' if differing[0] in clips else 'missing'}"
        raise _bad_evaluator(path, found, f"the same clips as in {DATA}")


def _bad_evaluator(path: Path, found: str, expected: str) -> InputError:
    remedy = "Take the folder as the organisers publish it, or correct the file"
    return InputError(path, found=found, expected=expected, remedy=remedy)


def _bad_csv(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected=f"the header {','.join(_COLUMNS)} and a row for each clip: normal or anomaly, source or target",
        remedy="Correct the file, or run the system again",
    )
