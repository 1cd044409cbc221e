"""WAV files whose headers and sizes do not fit together.

libsndfile reads a truncated WAV file without an error, one whose recorder never filled in the length as empty, and
one whose 32-bit size wrapped at 4 GiB in part. Here chunk sizes are compared with the size of the file. Where all
the sound is unmistakably there, libsndfile gets the file with a header that states it; else the file is refused.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nearfar.errors import InputError

_FORMS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<", b"BW64": "<"}
_UNKNOWN_32, _UNKNOWN_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_STREAM_SIZES = (0x7FFFF000, 0x7FFFFFFF, 0x80000000, _UNKNOWN_32, _UNKNOWN_64)
"""Sizes that sox, arecord and ffmpeg write for "unknown" when their output is a pipe; some subtract the header."""
_HEADERS = (0, 8, 36, 44)
"""Bytes of a header, or of a part of it, that some programs count as sound and others leave out."""
_SLACK = 44 + 8
"""Sizes that are wrong by at most so many bytes have a miscounted header."""
_WRAP = 2**32
_MOST_CHUNKS = 64
_MOST_HEADER = 2**20
_LINEAR = (1, 3, 6, 7, 0xFFFE)
"""Format tags whose sound is frames of fixed size: PCM, float, A-law, mu-law, extensible."""
_PLAIN_FORMATS = (1, 3, 0xFFFE)
"""PCM, float and extensible: the formats in which a block holds one sample of every channel."""
_NAMES = "LIST JUNK junk bext fact cue smpl iXML axml chna PEAK PAD id3 ID3 FLLR _PMX inst plst cart DISP umid"
_CHUNKS = tuple(name.ljust(4).encode() for name in _NAMES.split(" "))
"""Names of chunks in use."""
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
"""Beginnings of tags that programs append to files of any format."""

_log = logging.getLogger("nearfar")
_logged: set[str] = set()
_logged_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Wav:
    """The header of a WAV file.

    Attributes:
        form: RIFF, RIFX, RF64 or BW64.
        chunks: those before the sound that decoding needs, as in the file.
        frame: bytes of a frame; 1 where sound is not frames of fixed size.
        riff_size: stated size of the file after its first 8 bytes.
        size: stated bytes of sound.
        in_ds64: whether that is stated in the ``ds64`` chunk.
        start: position of the sound.
        file_size: of the file.
    """

    form: bytes
    chunks: bytes
    frame: int
    riff_size: int
    size: int
    in_ds64: bool
    start: int
    file_size: int

    @property
    def available(self) -> int:
        return self.file_size - self.start

    @property
    def riff_agrees(self) -> bool:
        return abs(self.riff_size + 8 - self.file_size) <= 1

    @property
    def states_no_size(self) -> bool:
        """Whether the size is a placeholder that programs write before the length is known."""
        sizes = [size - header for size in _STREAM_SIZES for header in _HEADERS]
        return self.size in sizes or self.size in [size - size % self.frame for size in sizes]


class RestoredWav(io.RawIOBase):
    """A WAV file with another header in front of its sound; nothing is copied."""

    def __init__(self, path: Path, header: bytes, start: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._header, self._start, self._size, self._at = header, start, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._header) + self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        """Read into a buffer; the number of bytes read."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._at < len(self._header):
            part = self._header[self._at : self._at + len(view)]
        else:
            inside = self._at - len(self._header)
            self._file.seek(self._start + inside)
            part = self._file.read(max(0, min(len(view), self._size - inside)))
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def wav_source(path: Path) -> Path | RestoredWav:
    """The source for libsndfile: the path, or a WAV file with a header that states the sound that is there.

    What is read in spite of its header is logged once for each kind of defect. Files of other formats are not
    checked.

    Raises:
        InputError: if the file cannot be opened, is empty, or is a WAV file whose sound is not, or may not be,
            what its header states.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            wav = _read_header(path, file, size)
            found = None if wav is None else _sound(path, wav, file)
    except OSError as error:
        raise InputError(
            path,
            found=f"a file that cannot be opened ({error.strerror})",
            expected="a WAV or FLAC file",
            remedy="Check the path and the permissions",
        ) from None
    if size == 0:
        raise _refused(path, "a file of 0 bytes", "a WAV or FLAC recording")
    if wav is None or found is None:
        return path
    return RestoredWav(path, _header(path, wav, found), wav.start, found)


def _sound(path: Path, wav: _Wav, file: BinaryIO) -> int | None:
    """The bytes of sound where they are not what libsndfile would read, else None."""
    stated, available = wav.size, wav.available
    if wav.states_no_size and stated > available:
        return available if wav.form != b"RIFF" else None  # libsndfile reads all of a RIFF
    if stated > available:
        return _less_than_stated(path, wav, file)
    is_read = wav.form != b"BW64" and wav.in_ds64 == (wav.form == b"RF64")
    as_stated = None if is_read else stated
    rest, end = available - stated // wav.frame * wav.frame, wav.start + stated
    if stated == 0:
        # An empty data chunk is right only at the end, or before another chunk.
        is_empty = rest < wav.frame or _ends(wav, file, end)
        if is_empty:
            return as_stated
        _log_size("zero", path, "a size of 0 bytes", available)
        return available
    if rest < max(2, wav.frame) or _ends(wav, file, end):
        return as_stated
    if not wav.in_ds64 and (whole := _unwrapped(wav, file)) is not None:
        _log_size("wrapped", path, "a size that wrapped at 4 GiB", whole)
        return whole
    if (before := _chunk_before(wav, file)) is not None:
        _log_size("large", path, f"a size of {stated} bytes", before)
        return before
    if _are_zeros(file, end):
        return as_stated
    if rest > _SLACK and wav.riff_agrees:
        found = f"a WAV file with {rest} more bytes than the {stated} bytes of sound that its header states"
        raise _refused(path, found, "as much sound as the header states, or chunks after it")
    _log_size("short", path, f"a size of {stated} bytes", available)
    return available


def _less_than_stated(path: Path, wav: _Wav, file: BinaryIO) -> int:
    """The bytes of sound of a file that states more, if only the header is miscounted."""
    stated, available = wav.size, wav.available
    if (before := _chunk_before(wav, file)) is not None:
        _log_size("large", path, f"a size of {stated} bytes", before)
        return before
    if stated - available <= _SLACK and available % wav.frame == 0 and available:
        _log_size("large", path, f"a size of {stated} bytes", available)
        return available
    raise _refused(
        path,
        f"a truncated WAV file with {available} bytes of sound",
        f"the {stated} bytes of sound stated in its header",
    )


def _chunk_before(wav: _Wav, file: BinaryIO) -> int | None:
    """The bytes of sound before a chunk that begins shortly before the stated end of the sound."""
    for size in range(max(0, wav.size - _SLACK), wav.size):
        if size % wav.frame <= 1 and _is_chunk(wav, file, wav.start + size, to_the_end=True):
            return size - size % wav.frame
    return None


def _unwrapped(wav: _Wav, file: BinaryIO) -> int | None:
    """The bytes of sound of a file of more than 4 GiB that states them modulo 4 GiB."""
    for times in range(1, wav.available // _WRAP + 1):
        size = wav.size + times * _WRAP
        rest = wav.available - size
        if 0 <= rest <= 1 or (rest > 1 and _ends(wav, file, wav.start + size)):
            return size
    return None


def _ends(wav: _Wav, file: BinaryIO, at: int) -> bool:
    """Whether a chunk or a tag begins at a position, or one byte on, where odd sizes are padded."""
    file.seek(at)
    if file.read(12).startswith(_TAGS):
        return True
    return any(_is_chunk(wav, file, at + pad) for pad in ((0, 1) if (at - wav.start) % 2 else (0,)))


def _is_chunk(wav: _Wav, file: BinaryIO, at: int, *, to_the_end: bool = False) -> bool:
    """Whether a known chunk begins at a position, or (``to_the_end``: only) chunks that end with the file."""
    file.seek(at)
    if file.read(4) in _CHUNKS and not to_the_end:
        return True
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or not _is_name(head[:4]):
            return False
        (size,) = struct.unpack(_FORMS[wav.form] + "I", head[4:])
        at += 8 + size
        if wav.file_size - 1 <= at <= wav.file_size:
            return True
        at += size % 2
        if at == wav.file_size + 1:
            return True
    return False


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def _are_zeros(file: BinaryIO, at: int) -> bool:
    file.seek(at)
    while block := file.read(2**20):
        if block.count(0) != len(block):
            return False
    return True


def _require_consistent(path: Path, fmt: bytes, order: str) -> None:
    """Raise an InputError if blocks of the stated size cannot hold the stated channels and bits."""
    kind, channels, _, _, block, bits = struct.unpack(f"{order}HHIIHH", fmt)
    if kind not in _PLAIN_FORMATS or not channels or not block:
        return
    width, needed = block // channels, -(-bits // 8)
    if block % channels or not (width == needed or (width == 4 and needed == 3)):
        found = f"a damaged header: {channels} channels of {bits} bits in blocks of {block} bytes"
        raise _refused(path, found, "a block of one sample of every channel")


def _read_header(path: Path, file: BinaryIO, file_size: int) -> _Wav | None:
    """The header up to the sound; None without a ``data`` chunk and for other files, which libsndfile reports.

    Raises:
        InputError: if the stated format contradicts itself.
    """
    form, riff_bytes, kind = file.read(4), file.read(4), file.read(4)
    if form not in _FORMS or kind != b"WAVE":
        return None
    order = _FORMS[form]
    (riff_size,) = struct.unpack(order + "I", riff_bytes)
    wide_size, chunks, frame = -1, b"", 1
    for name, size, start in _chunk_heads(file, order):
        if name == b"data":
            in_ds64 = wide_size >= 0 and size == _UNKNOWN_32
            return _Wav(form, chunks, frame, riff_size, wide_size if in_ds64 else size, in_ds64, start, file_size)
        body = file.read(size) if name in (b"ds64", b"fmt ", b"fact") and size <= _MOST_HEADER else b""
        if name == b"ds64" and len(body) >= 16:
            riff_size, wide_size = struct.unpack("<QQ", body[:16])
        elif body:
            chunks += name + struct.pack(order + "I", size) + body + b"\0" * (size % 2)
        if name == b"fmt " and len(body) >= 16:
            _require_consistent(path, body[:16], order)
        if name == b"fmt " and len(body) >= 14:
            tag, align = struct.unpack(order + "H10xH", body[:14])
            frame = max(1, align) if tag in _LINEAR else 1
    return None


def _chunk_heads(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, size and position of the content of each chunk; odd ones may lack the byte that pads them."""
    at = 12
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        name, start = head[:4], at + 8
        (size,) = struct.unpack(order + "I", head[4:])
        yield name, size, start
        at = start + size
        if size % 2:
            file.seek(at)
            following = file.read(5)
            at += 0 if _is_name(following[:4]) and not _is_name(following[1:]) else 1


def _header(path: Path, wav: _Wav, size: int) -> bytes:
    """A header of the chunks that decoding needs, which states ``size`` bytes of sound."""
    total = 4 + len(wav.chunks) + 8 + size
    if total < _WRAP - 64:
        order, form = (">", b"RIFX") if wav.form == b"RIFX" else ("<", b"RIFF")
        head = form + struct.pack(order + "I", total) + b"WAVE"
        return head + wav.chunks + b"data" + struct.pack(order + "I", size)
    if wav.form == b"RIFX":
        raise _refused(path, f"a big-endian WAV file with {size} bytes of sound", "at most 4 GiB")
    wide = struct.pack("<QQQI", total + 36, size, size // wav.frame, 0)
    head = b"RF64" + struct.pack("<I", _UNKNOWN_32) + b"WAVEds64" + struct.pack("<I", len(wide)) + wide
    return head + wav.chunks + b"data" + struct.pack("<I", _UNKNOWN_32)


def _refused(path: Path, found: str, expected: str) -> InputError:
    remedy = "Copy or record it again, or take it out of the data folder"
    return InputError(path, found=found, expected=expected, remedy=remedy)


def _log_size(kind: str, path: Path, stated: str, read: int) -> None:
    message = "%s: the header states %s, and there are %d bytes of sound, which are read, as in all such files"
    log_once(kind, message, path, stated, read)


def log_once(kind: str, message: str, *values: object) -> None:
    """Log a warning of a kind, once in this process."""
    with _logged_lock:
        if kind in _logged:
            return
        _logged.add(kind)
    _log.warning(message, *values)
