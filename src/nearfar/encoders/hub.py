"""Published encoders on the Hugging Face hub: what is known about them, and how they reach the local cache."""

from __future__ import annotations

import hashlib
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
from nearfar.files import whole_file

ENCODER_FILES = ("config.json", "model.safetensors")
"""The files of an encoder; the last one holds the weights."""

RECORD_FILE = "nearfar-download.json"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """What is known about an encoder on the hub, to tell whether a download is the one that is meant.

    ``about_bytes`` estimates the room it takes where ``size_bytes`` is not known.
    """

    source: str
    licence: str
    revision: str
    size_bytes: int | None = None
    sha256: str | None = None
    about_bytes: int = 0


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
    # Here the commit is what is pinned: two public projects name it, one of them with the licence and the number
    # of stored values, 308,867,072, which is that of EAT-large with its table of positions. Size and hash of the
    # file are not known to us, so what the hub says of it is all there is to compare with.
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
    """An encoder that is at hand, and what its weights were found to be."""

    name: str
    revision: str
    licence: str
    how: Literal["downloaded", "already there"]
    weights: Path
    size_bytes: int
    sha256: str
    expected_sha256: str | None
    record: Path


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
        path = _cached(name, filename, revision or pinned) or _fetched(
            name, filename, revision or pinned, filenames
        )
    if record is not None and revision in (None, pinned):
        _check_identity(path, record)
    return path.parent


def is_cached(name: str) -> bool:
    """Whether a published encoder is in the local cache, whole; the network is not asked."""
    return all(_cached(name, filename, PUBLISHED[name].revision) for filename in ENCODER_FILES)


def fetch_encoder(short_name: str, out: Path | None = None, patience: RetryPolicy | None = None) -> FetchedEncoder:
    """Have a published encoder at hand, verified, with the size and hash of its weights recorded.

    Args:
        short_name: a key of :data:`SHORT_NAMES`.
        out: folder to also copy the files into. If it holds them already, put there by hand or by an earlier run,
            they are checked and the network is not asked.
        patience: with the hub, beyond that of its own client.

    Returns:
        What is at hand. The same is written to ``nearfar-download.json`` in ``out``, or in the model's folder of
        the local cache; a later run compares with it.

    Raises:
        InputError: if the files are not to be had, there is no room, or the weights are not those that are meant,
            that the hub states, or that were recorded before.
    """
    name = SHORT_NAMES[short_name]
    published = PUBLISHED[name]
    how: Literal["downloaded", "already there"] = "already there"
    if out is not None and all((out / filename).is_file() for filename in ENCODER_FILES):
        folder = record_folder = out
    else:
        cached = all(_cached(name, filename, published.revision) for filename in ENCODER_FILES)
        folder = _whole(name, published, patience or RetryPolicy(attempts=3))
        how = "already there" if cached else "downloaded"
        record_folder = folder.parents[1]
        if out is not None:
            folder, record_folder, how = _copied(folder, out), out, "downloaded"
    weights = folder / ENCODER_FILES[-1]
    fetched = FetchedEncoder(
        name=name,
        revision=published.revision,
        licence=published.licence,
        how=how,
        weights=weights,
        size_bytes=weights.stat().st_size,
        sha256=_check_identity(weights, published) or _sha256(weights),
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


def _fetched(
    name: str,
    filename: str,
    revision: str,
    filenames: tuple[str, ...],
    patience: RetryPolicy | None = None,
    anew: bool = False,
) -> Path:
    try:
        return _persistently(name, filename, revision, patience or RetryPolicy(attempts=1), anew)
    except Exception as error:  # offline, refused, no such name, a broken transfer: clients raise many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            name,
            found=f"no {filename} of revision {revision} in the local cache, and none to be had from the hub "
            f"({type(error).__name__}: {reason})",
            expected="a local copy, or a network that reaches huggingface.co",
            remedy=f"Check the name and the network; or download {' and '.join(filenames)} by hand from "
            f"https://huggingface.co/{name}/tree/{revision} into one folder and give that folder instead; or take "
            "the small encoder that comes with nearfar, eat-tiny",
        ) from None


def _persistently(name: str, filename: str, revision: str, patience: RetryPolicy, anew: bool) -> Path:
    """Ask the hub until it gives the file, refuses for good, is out of reach, or the patience ends.

    Its client tries again by itself, but neither after every kind of break nor at the date that a server may name.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    for failures in range(1, patience.attempts + 1):
        try:
            return Path(hf_hub_download(name, filename, revision=revision, force_download=anew))
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError):
            raise
        except Exception as error:
            response = getattr(error, "response", None)
            final = response is not None and response.status_code not in RETRY_STATUSES
            after = response.headers.get("Retry-After") if response is not None else None
            wait = patience.wait_seconds(failures, retry_after_seconds(after, patience.now()))
            if final or failures == patience.attempts or wait > patience.longest_retry_after_seconds:
                raise
            patience.sleep(wait)
    raise AssertionError("a RetryPolicy has at least one attempt")


def _whole(name: str, published: PublishedWeights, patience: RetryPolicy) -> Path:
    """The folder of the cache with the files as the hub states them; what is not is fetched anew, once."""
    import huggingface_hub.constants

    def at_hand(filename: str, anew: bool) -> Path:
        cached = None if anew else _cached(name, filename, published.revision)
        if cached is not None:
            return cached
        room = published.size_bytes or published.about_bytes
        require_space(Path(huggingface_hub.constants.HF_HUB_CACHE), room, name)
        return _fetched(name, filename, published.revision, ENCODER_FILES, patience, anew)

    weights = [at_hand(filename, anew=False) for filename in ENCODER_FILES][-1]
    contradiction = _contradiction(weights, published)
    if contradiction is not None:
        weights = [at_hand(filename, anew=True) for filename in ENCODER_FILES][-1]
        contradiction = _contradiction(weights, published)
    if contradiction is None:
        return weights.parent
    found, expected = contradiction
    raise InputError(
        weights,
        found=f"{found}, after a fresh download too",
        expected=expected,
        remedy=f"Try again later, or compare with {published.source}: something on the way changes the file, or "
        "the publisher has",
    )


def _contradiction(weights: Path, published: PublishedWeights) -> tuple[str, str] | None:
    """What a file of the cache is and what it should be, if these differ.

    The cache names a large file by the SHA-256 that the hub states; its client compares sizes only.
    """
    size = weights.stat().st_size
    if published.size_bytes not in (None, size):
        return f"{size} bytes", f"the {published.size_bytes} bytes of {published.source}"
    stated = weights.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and _sha256(weights) != stated:
        return "another SHA-256", f"{stated}, as the hub states"
    return None


def _copied(folder: Path, out: Path) -> Path:
    """``out``, holding copies of an encoder's files, each of which appears when it is whole."""
    require_space(out, sum((folder / filename).stat().st_size for filename in ENCODER_FILES), f"a copy in {out}")
    with disk_errors(out):
        for filename in ENCODER_FILES:
            with whole_file(out / filename) as partial:
                shutil.copyfile(folder / filename, partial)
    return out


def _record(fetched: FetchedEncoder) -> None:
    """Write down what was found, unless something else was written down before."""
    try:
        before = json.loads(fetched.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    same = (before.get("name"), before.get("revision")) == (fetched.name, fetched.revision)
    if same and before.get("sha256") != fetched.sha256:
        raise InputError(
            fetched.weights,
            found=f"SHA-256 {fetched.sha256}",
            expected=f"{before.get('sha256')}, which {fetched.record} recorded of the same revision",
            remedy="Delete the weights, or the record if you trust the weights, and give the same command again",
        )
    if same:
        return
    tree = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(fetched).items()}
    with disk_errors(fetched.record), whole_file(fetched.record) as partial:
        partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _check_identity(path: Path, record: PublishedWeights) -> str | None:
    """Compare weights with what is known of them; their SHA-256 if it had to be computed."""
    size = path.stat().st_size
    if record.size_bytes is not None and size != record.size_bytes:
        raise InputError(
            path,
            found=f"{size} bytes",
            expected=f"the {record.size_bytes} bytes of {record.source}",
            remedy="Delete the file and download it again, or give another revision or the folder itself to use "
            "it as it is",
        )
    if record.sha256 is None:
        return None
    sha256 = _sha256(path)
    if sha256 != record.sha256:
        warnings.warn(
            f"{path} has SHA-256 {sha256}, not {record.sha256}. The expected hash comes from third parties, not "
            f"from the publisher; compare with {record.source} before you trust either",
            stacklevel=2,
        )
    return sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
