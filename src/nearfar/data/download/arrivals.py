"""What has arrived in a data folder: a small record of each archive, written when all of it is in place."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.data.download.catalogue import Archive
from nearfar.files import flush_to_disk, whole_file

STORE = ".download"
"""The folder in a data folder for partial archives and records; hidden, so that no reader takes it for data."""


def note_arrival(out: Path, archive: Archive, address: str, size_bytes: int) -> None:
    """Record that an archive's clips are in place: ``<out>/.download/<archive>.json``, replaced atomically.

    Args:
        out: the data folder.
        archive: of which all clips are in place.
        address: where it came from, a URL or the path of a file put there by hand.
        size_bytes: of the archive.
    """
    record = {
        "archive": archive.filename,
        "md5": archive.md5,
        "size_bytes": size_bytes,
        "from": address,
        "licence": archive.record.licence,
        "machine": archive.machine,
        "clips": {split: _clips(out / archive.machine / split) for split in archive.splits},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with whole_file(_path(out, archive)) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        flush_to_disk(partial)


def has_arrived(out: Path, archive: Archive) -> bool:
    """Whether this very archive was recorded and at least as many clips and bytes are there as it brought."""
    try:
        record: dict[str, Any] = json.loads(_path(out, archive).read_text(encoding="utf-8"))
        same, recorded = record["md5"] == archive.md5, dict(record["clips"])
        counts = [(int(count["files"]), int(count["bytes"])) for count in recorded.values()]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    there = [_clips(out / archive.machine / split) for split in recorded]
    whole = all(
        now["files"] >= files and now["bytes"] >= size for now, (files, size) in zip(there, counts, strict=True)
    )
    return same and set(recorded) == set(archive.splits) and whole


def _clips(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {"files": 0, "bytes": 0}
    with os.scandir(folder) as entries:
        sizes = [e.stat().st_size for e in entries if Path(e.name).suffix.lower() in AUDIO_SUFFIXES]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _path(out: Path, archive: Archive) -> Path:
    return out / STORE / f"{archive.filename}.json"
