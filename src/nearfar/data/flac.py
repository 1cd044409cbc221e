"""Damaged FLAC files, detected from the MD5 of the samples that their header states.

libsndfile checks frames, but neither the header's number of samples nor its MD5. Format: RFC 9639, section 8.2.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_MD5_AT, _MD5_BYTES = 26, 16


def is_as_encoded(path: Path, samples: NDArray[np.float32], subtype: str) -> bool:
    """Whether the samples of a FLAC file have the MD5 that its header states.

    Also true where that cannot be found out: without an MD5, or for a number of bits other than 8, 16 and 24.

    Args:
        path: the file.
        samples: (samples, channels) float32 in [-1, 1), all of the file.
        subtype: libsndfile's name of the format of the samples, such as ``PCM_16``.

    Raises:
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(_MD5_AT + _MD5_BYTES)
    stated = header[_MD5_AT:]
    if header[:4] != b"fLaC" or subtype not in _BITS or not any(stated):
        return True
    bits = _BITS[subtype]
    integers = np.rint(samples * np.float32(2 ** (bits - 1))).astype("<i4")
    content = np.ascontiguousarray(integers).view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    return hashlib.md5(content, usedforsecurity=False).digest() == stated
