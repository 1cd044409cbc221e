"""Published encoders on the Hugging Face hub: what is known about them, and how they reach the local cache."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

from nearfar.errors import InputError


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """What is known about an encoder on the hub, to tell whether a download is the one that is meant."""

    source: str
    licence: str
    revision: str
    size_bytes: int | None = None
    sha256: str | None = None


PUBLISHED = {
    # The hub's commit is not known to us, so what is pinned is the content. Both numbers are second-hand: the size
    # follows from the tensors' names and shapes and equals that of a copy kept with Git LFS, whose identifier is
    # the hash; a public replication package lists the same hash for this hub name.
    "worstchan/EAT-base_epoch30_pretrain": PublishedWeights(
        source="https://huggingface.co/worstchan/EAT-base_epoch30_pretrain",
        licence="MIT",
        revision="main",
        size_bytes=359_905_840,
        sha256="8623072d09aac4f3ad1168b4fed3a24e4f68fe1da25b9fe733375efb237e5f48",
    ),
}


def download(name: str, filenames: tuple[str, ...], revision: str | None = None) -> Path:
    """The folder of the local cache that holds the files of a hub name.

    The cache is asked before the network, so what was downloaded once works offline and does not change.

    Args:
        name: ``owner/name``.
        filenames: files to have; the last one holds the weights.
        revision: branch, tag or commit; None means the pinned one, or ``main`` for a name that is not in
            :data:`PUBLISHED`.

    Raises:
        InputError: if a file is neither in the cache nor to be had from the hub, or if the weights of a pinned
            revision have another size than those that are meant. Another hash is a warning only.
    """
    record = PUBLISHED.get(name)
    pinned = record.revision if record else "main"
    for filename in filenames:
        path = _cached_or_fetched(name, filename, revision or pinned, filenames)
    if record is not None and revision in (None, pinned):
        _check_identity(path, record)
    return path.parent


def _cached_or_fetched(name: str, filename: str, revision: str, filenames: tuple[str, ...]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, filename, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(hf_hub_download(name, filename, revision=revision))
    except Exception as error:  # offline, refused, no such name, a broken transfer: clients raise many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            name,
            found=f"no {filename} of revision {revision} in the local cache, and none to be had from the hub "
            f"({type(error).__name__}: {reason})",
            expected="a local copy, or a network that reaches huggingface.co",
            remedy=f"Check the name and the network; or download {' and '.join(filenames)} by hand from "
            f"https://huggingface.co/{name}/tree/{revision} into one folder and give that folder instead",
        ) from None


def _check_identity(path: Path, record: PublishedWeights) -> None:
    size = path.stat().st_size
    if record.size_bytes is not None and size != record.size_bytes:
        raise InputError(
            path,
            found=f"{size} bytes",
            expected=f"the {record.size_bytes} bytes of {record.source}",
            remedy="Delete the file from the cache and download it again, or give another revision or the folder "
            "itself to use it as it is",
        )
    if record.sha256 is None:
        return
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != record.sha256:
        warnings.warn(
            f"{path} has SHA-256 {sha256}, not {record.sha256}. The expected hash comes from third parties, not "
            f"from the publisher; compare with {record.source} before you trust either",
            stacklevel=2,
        )
