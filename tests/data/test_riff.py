"""WAV files whose headers and sizes do not fit together, built byte by byte."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nearfar.data.audio import read_header
from nearfar.data.riff import wav_source
from nearfar.errors import InputError

SAMPLES = np.arange(1000, dtype="<i2").reshape(500, 2)
SOUND = SAMPLES.tobytes()
FMT = struct.pack("<HHIIHH", 1, 2, 16000, 64000, 4, 16)
EXTENSIBLE = struct.pack("<HHIIHHHHIH14s", 0xFFFE, 2, 16000, 64000, 4, 16, 22, 16, 3, 1,
                         bytes.fromhex("000000001000800000aa00389b71"))  # fmt: skip


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def wav(*chunks: bytes, riff_size: int | None = None, form: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def ds64(riff_size: int, data_size: int, table: bytes = b"") -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", riff_size, data_size, 0, len(table)) + table)


def decoded(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(wav_source(path), dtype="int16", always_2d=True)
    return samples


WHOLE = {
    "plain": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND)),
    "extensible": wav(chunk(b"fmt ", EXTENSIBLE), chunk(b"data", SOUND)),
    "odd chunk before": wav(chunk(b"LIST", b"INFOodd"), chunk(b"fmt ", FMT), chunk(b"data", SOUND)),
    "chunk after": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND), chunk(b"LIST", b"INFO")),
    "cut in the chunk after": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND), chunk(b"LIST", b"IN", 400)),
    "wrong riff size": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND), riff_size=12345),
    "rf64": wav(ds64(2000 + 72, 2000), chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0xFFFFFFFF),
                riff_size=0xFFFFFFFF, form=b"RF64"),
    "ffmpeg pipe": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0xFFFFFFFF), riff_size=0xFFFFFFFF),
    "sox pipe": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0x7FFFF000), riff_size=0x7FFFF024),
    "arecord pipe": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0x80000000), riff_size=0x80000024),
    "never closed, zeros": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0), riff_size=0),
    "never closed, header only": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0), riff_size=36),
    "never closed, riff unknown": wav(chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0), riff_size=0xFFFFFFFF),
    "never closed rf64": wav(ds64(0, 0), chunk(b"fmt ", FMT), chunk(b"data", SOUND, 0xFFFFFFFF),
                             riff_size=0xFFFFFFFF, form=b"RF64"),
}  # fmt: skip


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE.keys())
def test_all_the_sound_is_there(content, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    np.testing.assert_array_equal(decoded(path), SAMPLES)


def test_a_file_that_was_never_closed_is_left_as_it_was(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WHOLE["never closed, zeros"])
    assert isinstance(wav_source(path), io.BytesIO)
    assert path.read_bytes() == WHOLE["never closed, zeros"]


def test_big_endian(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES, 16000, endian="BIG", format="WAV", subtype="PCM_16")
    assert path.read_bytes()[:4] == b"RIFX"
    np.testing.assert_array_equal(decoded(path), SAMPLES)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="1500 bytes of sound; expected the 2000 bytes"):
        wav_source(path)


@pytest.mark.parametrize("form", ["plain", "extensible", "odd chunk before", "rf64"])
@pytest.mark.parametrize("lost", [1, 2, 1000, 2000])
def test_truncated(form, lost, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WHOLE[form][:-lost])
    with pytest.raises(InputError) as caught:
        wav_source(path)
    assert caught.value.where == path
    assert caught.value.found == f"a truncated WAV file with {2000 - lost} bytes of sound"
    assert caught.value.expected.startswith("the 2000 bytes")
    assert caught.value.remedy.startswith("Copy or record it again")


@pytest.mark.parametrize("form", ["plain", "rf64"])
def test_cut_inside_the_header_is_left_to_libsndfile(form, tmp_path):
    for length in range(1, 44):
        path = tmp_path / f"{length}.wav"
        path.write_bytes(WHOLE[form][:length])
        assert wav_source(path) == path
        with pytest.raises(InputError, match="expected a whole WAV or FLAC file"):
            read_header(path)


def test_an_empty_data_chunk_is_not_taken_for_a_stream(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(chunk(b"fmt ", FMT), chunk(b"data", b""), chunk(b"LIST", b"INFO")))
    assert wav_source(path) == path
    assert len(decoded(path)) == 0


def test_other_formats_pass_through(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, SAMPLES, 16000)
    assert wav_source(path) == path


def test_0_bytes(tmp_path):
    path = tmp_path / "a.wav"
    path.touch()
    with pytest.raises(InputError) as caught:
        wav_source(path)
    assert str(caught.value).startswith(f"{path}: found a file of 0 bytes; expected a WAV or FLAC recording. Copy")


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"No such file.*Check the path"):
        wav_source(tmp_path / "a.wav")
