"""Truncated WAV files and WAV files without a length, detected from chunk sizes and file size.

libsndfile reads a truncated WAV file without an error, and one whose recorder never filled in the length as empty.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nearfar.errors import InputError

_FORMS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<"}
_IN_DS64 = 0xFFFFFFFF
_STREAM_FROM = 0x7FFF0000
"""Sizes from here on, in a smaller file, are placeholders for "unknown": sox, arecord and ffmpeg write 0x7FFFF000,
0x80000000 and 0xFFFFFFFF when their output is a pipe."""
_MOST_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class _DataChunk:
    """The chunk of a WAV file with the samples; sizes and positions in bytes."""

    stated: int
    available: int
    size_at: int
    size_format: str
    never_closed: bool


def wav_source(path: Path) -> Path | io.BytesIO:
    """The source for libsndfile: the path, or a copy in memory of a WAV file whose missing length is filled in.

    Files of other formats are not checked.

    Raises:
        InputError: if the file cannot be opened, is empty, or is a WAV file that ends before its sound does.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            chunk = _data_chunk(file, size)
    except OSError as error:
        raise InputError(
            path,
            found=f"a file that cannot be opened ({error.strerror})",
            expected="a WAV or FLAC file",
            remedy="Check the path and the permissions",
        ) from None
    if size == 0:
        raise InputError(
            path,
            found="a file of 0 bytes",
            expected="a WAV or FLAC recording",
            remedy="Copy or record it again, or take it out of the data folder",
        )
    if chunk is None:
        return path
    if chunk.never_closed:
        content = io.BytesIO(path.read_bytes())
        content.seek(chunk.size_at)
        content.write(struct.pack(chunk.size_format, chunk.available))
        content.seek(0)
        return content
    if chunk.stated > chunk.available and chunk.stated < _STREAM_FROM:
        raise InputError(
            path,
            found=f"a truncated WAV file with {chunk.available} bytes of sound",
            expected=f"the {chunk.stated} bytes of sound stated in its header",
            remedy="Copy or record it again, or take it out of the data folder",
        )
    return path


def _data_chunk(file: BinaryIO, file_size: int) -> _DataChunk | None:
    """The ``data`` chunk; None where there is none or the file is not WAV, which libsndfile reports."""
    form, riff_bytes, kind = file.read(4), file.read(4), file.read(4)
    if form not in _FORMS or kind != b"WAVE":
        return None
    word = _FORMS[form] + "I"
    (riff_size,) = struct.unpack(word, riff_bytes)
    wide_size: int | None = None
    wide_at = 0
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return None
        name, start = head[:4], file.tell()
        (size,) = struct.unpack(word, head[4:])
        if name == b"data":
            size_at, size_format = start - 4, word
            if wide_size is not None and size == _IN_DS64:
                size, size_at, size_format = wide_size, wide_at, "<Q"
            available = file_size - start
            # An empty data chunk is right only where the stated size of the whole file is right.
            never_closed = size == 0 < available and abs(riff_size + 8 - file_size) > 1
            return _DataChunk(size, available, size_at, size_format, never_closed)
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            riff_size, wide_size = struct.unpack("<QQ", sizes)
            wide_at = start + 8
        file.seek(start + size + size % 2)
    return None
