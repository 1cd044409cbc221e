"""Truncated WAV files and WAV files without a length, detected from chunk sizes and file size.

libsndfile reads a truncated WAV file without an error, and one whose recorder never filled in the length as empty.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

from nearfar.errors import InputError

_FORMS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<"}
_IN_DS64 = 0xFFFFFFFF
_STREAM_FROM = 0x7FFF0000
"""Sizes from here on, in a smaller file, are placeholders for "unknown": sox, arecord and ffmpeg write 0x7FFFF000,
0x80000000 and 0xFFFFFFFF when their output is a pipe."""
_MOST_CHUNKS = 64


def wav_source(path: Path) -> Path | io.BytesIO:
    """The source for libsndfile: the path, or a copy in memory with the length filled in if a WAV file lacks it.

    Files of other formats are not checked.

    Raises:
        InputError: if the file cannot be opened, is empty, or is a truncated WAV file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            stated, available, repair = _data_chunk(file, size) or (0, 0, None)
    except OSError as error:
        raise InputError(
            path,
            found=f"a file that cannot be opened ({error.strerror})",
            expected="a WAV or FLAC file",
            remedy="Check the path and the permissions",
        ) from None
    if repair:
        content = io.BytesIO(path.read_bytes())
        content.seek(repair[0])
        content.write(repair[1])
        content.seek(0)
        return content
    is_truncated = available < stated < _STREAM_FROM
    if size == 0 or is_truncated:
        raise InputError(
            path,
            found=f"a truncated WAV file with {available} bytes of sound" if is_truncated else "a file of 0 bytes",
            expected=f"the {stated} bytes of sound stated in its header"
            if is_truncated
            else "a WAV or FLAC recording",
            remedy="Copy or record it again, or take it out of the data folder",
        )
    return path


def _data_chunk(file: BinaryIO, file_size: int) -> tuple[int, int, tuple[int, bytes] | None] | None:
    """The stated and the available bytes of the ``data`` chunk, and the repair of a missing length.

    The repair is the position in the file and the bytes to write there, or None. The result is None without a
    ``data`` chunk and for files that are not WAV, which libsndfile reports.
    """
    form, riff_bytes, kind = file.read(4), file.read(4), file.read(4)
    if form not in _FORMS or kind != b"WAVE":
        return None
    word = _FORMS[form] + "I"
    (riff_size,) = struct.unpack(word, riff_bytes)
    wide_size, wide_at = -1, 0
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return None
        name, start = head[:4], file.tell()
        (size,) = struct.unpack(word, head[4:])
        if name == b"data":
            size_at, size_format = start - 4, word
            if wide_size >= 0 and size == _IN_DS64:
                size, size_at, size_format = wide_size, wide_at, "<Q"
            available = file_size - start
            # An empty data chunk is right only where the stated size of the whole file is right.
            never_closed = size == 0 < available and abs(riff_size + 8 - file_size) > 1
            repair = (size_at, struct.pack(size_format, available)) if never_closed else None
            return size, available, repair
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            riff_size, wide_size = struct.unpack("<QQ", sizes)
            wide_at = start + 8
        file.seek(start + size + size % 2)
    return None
