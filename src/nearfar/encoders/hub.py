"""Published encoders on the Hugging Face hub: their records, and downloads into the local cache."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nearfar.data.download.transfer import (
    RETRY_STATUSES,
    RetryPolicy,
    disk_errors,
    require_space,
    retry_after_seconds,
)
from nearfar.errors import InputError
from nearfar.extras import missing_modules, require_extras
from nearfar.files import file_sha256, whole_file, write_json

ENCODER_FILES = ("config.json", "model.safetensors")
"""The files of an encoder; the last one holds the weights."""

RECORD_FILE = "nearfar-download.json"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """An encoder on the hub, with revision, size and hash of its weights.

    Attributes:
        source: its page.
        licence: of the weights.
        revision: the branch or commit that is downloaded.
        size_bytes, sha256: of the file of weights; None if unknown.
        about_bytes: an estimate of the size, for the check of free disk space, if ``size_bytes`` is None.
    """

    source: str
    licence: str
    revision: str
    size_bytes: int | None = None
    sha256: str | None = None
    about_bytes: int = 0


PUBLISHED = {
    # The hub's commit is unknown, so the content is pinned. Both numbers are second-hand: the size follows from
    # names and shapes of the tensors and equals that of a copy in Git LFS, whose identifier is the hash; a public
    # replication package lists the same hash for this hub name.
    "worstchan/EAT-base_epoch30_pretrain": PublishedWeights(
        source="https://huggingface.co/worstchan/EAT-base_epoch30_pretrain",
        licence="MIT",
        revision="main",
        size_bytes=359_905_840,
        sha256="8623072d09aac4f3ad1168b4fed3a24e4f68fe1da25b9fe733375efb237e5f48",
    ),
    # The commit is pinned: two public projects name it, one of them with the licence and the number of stored
    # values, 308,867,072, which is that of EAT-large with its table of positions. Size and hash of the file are
    # unknown, so only the hash that the hub states is compared.
    "worstchan/EAT-large_epoch20_pretrain": PublishedWeights(
        source="https://huggingface.co/worstchan/EAT-large_epoch20_pretrain",
        licence="MIT",
        revision="1109aaae544915a2b82182c643c1894b1b4d9f27",
        about_bytes=4 * 308_867_072,
    ),
}

SHORT_NAMES = {
    "eat-base": "worstchan/EAT-base_epoch30_pretrain",
    "eat-large": "worstchan/EAT-large_epoch20_pretrain",
}


@dataclass(frozen=True, slots=True)
class FetchedEncoder:
    """A published encoder on the local disk, with size and hash of its file ``weights``.

    ``record`` is the JSON file that holds these values.
    """

    name: str
    revision: str
    licence: str
    how: Literal["downloaded", "already there"]
    weights: Path
    size_bytes: int
    sha256: str
    expected_sha256: str | None
    record: Path


def download(name: str, revision: str | None = None) -> Path:
    """The folder of the local cache with :data:`ENCODER_FILES` of a hub name, downloaded if they are missing.

    A file in the cache is used without asking the hub, so it works offline and does not change.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit; None is that of :data:`PUBLISHED`, or ``main`` for other names.

    Raises:
        InputError: if a file is neither in the cache nor on the hub, or the weights of the revision of
            :data:`PUBLISHED` have another size. Another hash is a warning only.
    """
    require_extras(name, "train")
    published = PUBLISHED.get(name)
    pinned = published.revision if published else "main"
    revision = revision or pinned
    for filename in ENCODER_FILES:
        path = _cached(name, filename, revision) or _downloaded(name, filename, revision)
    if published is not None and revision == pinned:
        _check_identity(path, published)
    return path.parent


def is_cached(name: str) -> bool:
    """Whether all files of a published encoder are in the local cache; works offline.

    False without the hub's client, which alone reads the cache.
    """
    return not missing_modules("train") and all(
        _cached(name, filename, PUBLISHED[name].revision) for filename in ENCODER_FILES
    )


def fetch_encoder(short_name: str, out: Path | None = None, retry: RetryPolicy | None = None) -> FetchedEncoder:
    """Download and verify a published encoder, and record the size and hash of its weights.

    The record is ``nearfar-download.json`` in ``out``, or in the model's folder of the local cache; a later call
    compares with it.

    Args:
        short_name: a key of :data:`SHORT_NAMES`.
        out: folder to copy the files to. If it holds them already, they are checked and nothing is downloaded.
        retry: when to repeat failed requests, beyond the hub's own client.

    Raises:
        InputError: if the files cannot be downloaded, the disk is too full, or the weights are not those of
            :data:`PUBLISHED`, those that the hub states, or those recorded before.
    """
    require_extras(short_name, "train")
    name = SHORT_NAMES[short_name]
    published = PUBLISHED[name]
    how: Literal["downloaded", "already there"] = "already there"
    if out is not None and all((out / filename).is_file() for filename in ENCODER_FILES):
        folder = record_folder = out
    else:
        how = "already there" if is_cached(name) else "downloaded"
        folder = _verified(name, published, retry or RetryPolicy(attempts=3))
        record_folder = folder.parents[1]
        if out is not None:
            needed = sum((folder / filename).stat().st_size for filename in ENCODER_FILES)
            require_space(out, needed, f"a copy in {out}")
            for filename in ENCODER_FILES:
                with disk_errors(out), whole_file(out / filename) as partial:
                    shutil.copyfile(folder / filename, partial)
            folder, record_folder, how = out, out, "downloaded"
    weights = folder / ENCODER_FILES[-1]
    fetched = FetchedEncoder(
        name=name,
        revision=published.revision,
        licence=published.licence,
        how=how,
        weights=weights,
        size_bytes=weights.stat().st_size,
        sha256=_check_identity(weights, published) or file_sha256(weights),
        expected_sha256=published.sha256,
        record=record_folder / RECORD_FILE,
    )
    _record(fetched)
    return fetched


def _cached(name: str, filename: str, revision: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, filename, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise InputError(
            name,
            found="a name that the Hugging Face hub does not allow",
            expected=f"owner/name, or a folder or file that exists ({error})",
            remedy="Check the spelling",
        ) from None


def _downloaded(
    name: str, filename: str, revision: str, retry: RetryPolicy | None = None, force: bool = False
) -> Path:
    """Download a file, with retries after failures and at dates for which the hub's client makes none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    retry, failures = retry or RetryPolicy(attempts=1), 0
    while True:
        try:
            return Path(hf_hub_download(name, filename, revision=revision, force_download=force))
        except Exception as error:  # offline, refused, no such name, a broken transfer: clients raise many kinds
            failures += 1
            response = getattr(error, "response", None)
            after = response.headers.get("Retry-After") if response is not None else None
            wait = retry.wait_seconds(failures, retry_after_seconds(after))
            final = isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError)) or (
                response is not None and response.status_code not in RETRY_STATUSES
            )
            if final or failures >= retry.attempts or wait > retry.longest_retry_after_seconds:
                reason = (str(error).strip().splitlines() or [""])[0]
                raise InputError(
                    name,
                    found=f"no {filename} of revision {revision} in the local cache, and a failed download from "
                    f"the hub ({type(error).__name__}: {reason})",
                    expected="a local copy, or a network that reaches huggingface.co",
                    remedy=f"Check the name and the network; or download {' and '.join(ENCODER_FILES)} by hand "
                    f"from https://huggingface.co/{name}/tree/{revision} into one folder and give that folder "
                    "instead; or use the small encoder that comes with nearfar, eat-tiny",
                ) from None
        retry.sleep(wait)


def _verified(name: str, published: PublishedWeights, retry: RetryPolicy) -> Path:
    """The folder of the cache with verified files; wrong ones are downloaded once more."""
    import huggingface_hub.constants

    for force in (False, True):
        for filename in ENCODER_FILES:
            cached = None if force else _cached(name, filename, published.revision)
            if cached is None:
                needed = published.size_bytes or published.about_bytes
                require_space(Path(huggingface_hub.constants.HF_HUB_CACHE), needed, name)
            path = cached or _downloaded(name, filename, published.revision, retry, force)
        wrong = _other_size(path, published) or _other_hash(path)
        if wrong is None:
            return path.parent
    assert wrong is not None
    found, expected = wrong
    raise InputError(
        path,
        found=f"{found}, after a second download too",
        expected=expected,
        remedy=f"Try again later, or compare with {published.source}: the file is changed on the way or by the "
        "publisher",
    )


def _other_size(weights: Path, published: PublishedWeights) -> tuple[str, str] | None:
    """The found and the expected size if they differ."""
    size = weights.stat().st_size
    if published.size_bytes in (None, size):
        return None
    return f"{size} bytes", f"the {published.size_bytes} bytes of {published.source}"


def _other_hash(weights: Path) -> tuple[str, str] | None:
    """Words for the found and the expected SHA-256 of a file of the cache if they differ.

    The cache names a large file by the SHA-256 that the hub states; the hub's client compares sizes only.
    """
    stated = weights.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and file_sha256(weights) != stated:
        return "another SHA-256", f"{stated}, as the hub states"
    return None


def _record(fetched: FetchedEncoder) -> None:
    """Write the record, or compare with that of the same revision."""
    try:
        recorded = json.loads(fetched.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recorded = {}
    if (recorded.get("name"), recorded.get("revision")) == (fetched.name, fetched.revision):
        if recorded.get("sha256") == fetched.sha256:
            return
        raise InputError(
            fetched.weights,
            found=f"SHA-256 {fetched.sha256}",
            expected=f"{recorded.get('sha256')}, which {fetched.record} recorded of the same revision",
            remedy="Delete the weights, or the record if you trust the weights, and rerun the same command",
        )
    write_json(fetched.record, asdict(fetched))


def _check_identity(path: Path, published: PublishedWeights) -> str | None:
    """Compare weights with their record; returns their SHA-256 if it was computed."""
    if wrong := _other_size(path, published):
        raise InputError(
            path,
            found=wrong[0],
            expected=wrong[1],
            remedy="Delete the file and download it again, or give another revision or the folder itself to use "
            "it as it is",
        )
    if published.sha256 is None:
        return None
    sha256 = file_sha256(path)
    if sha256 != published.sha256:
        warnings.warn(
            f"{path} has SHA-256 {sha256}, not {published.sha256}. The expected hash comes from third parties, "
            f"not from the publisher; compare with {published.source} before you trust either",
            stacklevel=2,
        )
    return sha256
