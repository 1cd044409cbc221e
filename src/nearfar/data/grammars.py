"""What the file names of each year of DCASE Task 2 say.

The names of 2022 to 2026 are those of :mod:`nearfar.data.clips`. Before them::

    2020   train   normal_id_NN_NNNNNNNN.wav
           test    {normal|anomaly}_id_NN_NNNNNNNN.wav, of evaluation sets id_NN_NNNNNNNN.wav
    2021   train   section_NN_{source|target}_train_normal_NNNN_{text}.wav
           test    section_NN_{source|target}_test_{normal|anomaly}_NNNN.wav in source_test/ and target_test/,
                   of evaluation sets section_NN_{source|target}_test_NNNN.wav

These are the forms that the organisers' baselines of 2020 and 2021 document. The machine id of 2020 is read as the
section, and as that year knew no domains, its clips count as source. The text of 2021 does not fall into keys and
values (``strength_1_ambient``, ``0_g_25_mm_2000_mV_none``), so it is one attribute, ``condition``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nearfar.data.clips import EXPECTED_NAMES, Clip, Domain, Label, Split, parse_clip
from nearfar.errors import InputError

Edition = Literal["dcase2020", "dcase2021", "dcase2022"]
"""The years that share a layout, by the first of them: 2022 stands for 2022 to 2026."""

_NAMES_2020 = (
    "normal_id_NN_NNNNNNNN.wav, anomaly_id_NN_NNNNNNNN.wav (test only) or id_NN_NNNNNNNN.wav (evaluation)"
)
_NAMES_2021 = (
    "section_NN_{source|target}_train_normal_NNNN_{attributes}.wav in train, and in source_test and target_test "
    "section_NN_{source|target}_test_{normal|anomaly}_NNNN.wav or section_NN_{source|target}_test_NNNN.wav"
)

_CLIP_2020 = re.compile(r"(?:(normal|anomaly)_)?id_([0-9]{2})_([0-9]{8})")
_TRAIN_2021 = re.compile(r"section_([0-9]{2})_(source|target)_train_normal_([0-9]{4})_(.+)")
_TEST_2021 = re.compile(r"section_([0-9]{2})_(source|target)_test_(?:(normal|anomaly)_)?([0-9]{4})")


@dataclass(frozen=True, slots=True)
class Grammar:
    """The names of some years: how they are read and what they look like, for messages."""

    parse: Callable[[Path, str, Split], Clip]
    names: str


def parse_2020(path: Path, machine: str, split: Split) -> Clip:
    """Read a clip of 2020; as :func:`nearfar.data.clips.parse_clip`.

    Raises:
        InputError: if the name is of another form, or a training clip is not called normal.
    """
    match = _CLIP_2020.fullmatch(path.stem)
    if match is None:
        raise _outside(path, f"the name {path.name!r}", _NAMES_2020)
    label, machine_id, index = match.groups()
    if split == "train" and label != "normal":
        raise _outside(path, "a clip in the training folder that is not called normal", _NAMES_2020)
    return Clip(path, machine, machine_id, split, "source", _label(label), int(index))


def parse_2021(path: Path, machine: str, split: Split) -> Clip:
    """Read a clip of 2021; as :func:`nearfar.data.clips.parse_clip`. Evaluation clips hide only their label.

    Raises:
        InputError: if the name is of another form, or says another split or domain than its folder.
    """
    if split == "train":
        match = _TRAIN_2021.fullmatch(path.stem)
        if match is None:
            raise _outside(path, f"the name {path.name!r}", _NAMES_2021)
        section, domain, index, text = match.groups()
        condition = () if text.casefold() == "noattribute" else (("condition", text.casefold()),)
        return Clip(path, machine, section, split, _domain(domain), "normal", int(index), condition)
    match = _TEST_2021.fullmatch(path.stem)
    if match is None:
        raise _outside(path, f"the name {path.name!r}", _NAMES_2021)
    section, domain, label, index = match.groups()
    if path.parent.name in ("source_test", "target_test") and path.parent.name != f"{domain}_test":
        raise _outside(path, f"a clip of the {domain} domain in the folder {path.parent.name}", _NAMES_2021)
    return Clip(path, machine, section, split, _domain(domain), _label(label), int(index))


GRAMMARS: dict[Edition, Grammar] = {
    "dcase2020": Grammar(parse_2020, _NAMES_2020),
    "dcase2021": Grammar(parse_2021, _NAMES_2021),
    "dcase2022": Grammar(parse_clip, EXPECTED_NAMES),
}


def is_name_of_2020(path: Path) -> bool:
    """Whether a file has a name of 2020, which no later year's names resemble."""
    return _CLIP_2020.fullmatch(path.stem) is not None


def edition_of(name: str) -> Edition:
    """The years whose test clips are named so; names of no year's form count as 2022 to 2026.

    A test clip of 2021 has no attributes behind its number, one of 2022 to 2026 has ``noAttribute`` at least.
    """
    path = Path(name)
    if is_name_of_2020(path):
        return "dcase2020"
    return "dcase2021" if _TEST_2021.fullmatch(path.stem) else "dcase2022"


def parse_test_name(name: str, machine: str) -> Clip:
    """Read a test clip from its name in a score file, of whatever year.

    Raises:
        InputError: if it is of no year's form.
    """
    return GRAMMARS[edition_of(name)].parse(Path(name), machine, "test")


def _domain(text: str) -> Domain:
    return "source" if text == "source" else "target"


def _label(text: str | None) -> Label | None:
    return None if text is None else "normal" if text == "normal" else "anomaly"


def _outside(path: Path, found: str, expected: str) -> InputError:
    remedy = "Rename the file, move it to the right folder or take it out of the data folder"
    return InputError(path, found=found, expected=expected, remedy=remedy)
