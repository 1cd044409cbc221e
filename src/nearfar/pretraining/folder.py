"""The folder that a pre-training writes: what it holds once finished, and lines of its model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar.checkpoint import Identity
from nearfar.data.recordings import AudioFile
from nearfar.errors import InputError

FINISHED_FILE = "pretraining.json"
"""Written last: its presence means that training has finished."""


def finished_before(out: Path, identity: Identity) -> dict[str, Any] | None:
    """The content of ``pretraining.json`` if the training of ``identity`` has finished in ``out``.

    Raises:
        InputError: if another training has.
    """
    path = out / FINISHED_FILE
    if not path.is_file():
        return None
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, subject in (("model_key", "recipe"), ("data_key", "recordings"), ("base_hash", "starting encoder")):
        if facts.get(key) != getattr(identity, key):
            raise InputError(
                out,
                found=f"an encoder that was trained with another {subject}",
                expected=f"an empty folder, or one of the same {subject}",
                remedy="Give another output folder",
            )
    return facts


def copied_attributions(folders: Sequence[Path], out: Path) -> list[str]:
    """Copy the files of attribution of ``folders`` to ``out``; a line of the model card for each."""
    found = [(folder, path) for folder in folders for path in sorted(folder.glob("ATTRIBUTION*"))]
    copies = [shutil.copyfile(path, out / f"{path.stem}-{folder.name}{path.suffix}") for folder, path in found]
    return [f"- attribution: see `{copy.name}`" for copy in copies]


def data_lines(recordings: Sequence[AudioFile], folders: Sequence[Path], licences: Sequence[str]) -> list[str]:
    """Lines of the model card about recordings, by folder, and about their licences."""
    lines = []
    for folder in folders:
        inside = [recording for recording in recordings if recording.path.is_relative_to(folder)]
        hours = sum(recording.seconds for recording in inside) / 3600
        channels = sum(recording.channels * recording.seconds for recording in inside) / 3600
        lines.append(f"- `{folder.name}`: {len(inside)} recordings, {hours:.2f} h ({channels:.2f} h of channels)")
    unstated = "not stated by the person who trained the encoder; find out before you distribute the weights"
    return lines + [f"- licence: {licence}" for licence in licences or (unstated,)]
