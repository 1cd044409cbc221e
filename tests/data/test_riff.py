"""WAV files whose headers and sizes do not fit together, built byte by byte."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from nearfar.data import riff
from nearfar.data.audio import open_audio, read_header
from nearfar.data.riff import RestoredWav, wav_source
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
    with open_audio(path) as file:
        return file.read(dtype="int16", always_2d=True)


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
    assert isinstance(wav_source(path), RestoredWav)
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


# --- sizes that are wrong, and sound that is unmistakably there -------------------------------------------------

LIST = chunk(b"LIST", b"INFOIART" + struct.pack("<I", 60) + b"a" * 60)
MORE = np.random.default_rng(0).integers(-3000, 3000, (500, 2)).astype("<i2")
"""Sound without accidental names of chunks or silence."""


def written(path: Path, size: int, *behind: bytes, sound: bytes = MORE.tobytes(), **options: object) -> Path:
    path.write_bytes(wav(chunk(b"fmt ", FMT), chunk(b"data", sound, size), *behind, **options))
    return path


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch):
    monkeypatch.setattr(riff, "_logged", set())


@pytest.mark.parametrize("extra", [1, 8, 16, 36, 44, 52])
@pytest.mark.parametrize("riff_size", [None, 36 + 2000 + 44])
@pytest.mark.parametrize("behind", [(), (LIST,)])
def test_a_size_that_counts_the_header(extra, riff_size, behind, tmp_path, caplog):
    path = written(tmp_path / "a.wav", 2000 + extra, *behind, riff_size=riff_size)
    np.testing.assert_array_equal(decoded(path), MORE)
    decoded(path)
    (message,) = caplog.messages
    assert message.startswith(
        f"{path}: the header states a size of {2000 + extra} bytes, and there are 2000 bytes"
    )


def test_more_than_a_header_is_missing(tmp_path):
    with pytest.raises(InputError, match="truncated WAV file with 2000 bytes of sound; expected the 2053 bytes"):
        wav_source(written(tmp_path / "a.wav", 2053))


@pytest.mark.parametrize("missing", [4, 8, 36, 44, 1000, 1996])
def test_a_size_from_before_a_power_cut(missing, tmp_path, caplog):
    path = written(tmp_path / "a.wav", 2000 - missing, riff_size=2036 - missing)
    np.testing.assert_array_equal(decoded(path), MORE)
    assert len(caplog.messages) == 1


def test_a_size_that_is_too_small_by_a_header(tmp_path):
    np.testing.assert_array_equal(decoded(written(tmp_path / "a.wav", 2000 - 44)), MORE)


def test_sound_beyond_the_size_in_the_header_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        wav_source(written(tmp_path / "a.wav", 1000))
    assert caught.value.found.startswith("a WAV file with 1000 more bytes than the 1000 bytes of sound")


@pytest.mark.parametrize("behind", [b"\0" * 4096, b"TAG" + b"x" * 125, b"ID3\4" + b"x" * 50, LIST, LIST[:20]])
def test_what_is_behind_the_sound_is_not_sound(behind, tmp_path, caplog):
    np.testing.assert_array_equal(decoded(written(tmp_path / "a.wav", 2000, behind, riff_size=2036)), MORE)
    assert not caplog.messages


def test_no_size_though_the_size_of_the_file_is_right(tmp_path):
    np.testing.assert_array_equal(decoded(written(tmp_path / "a.wav", 0)), MORE)


def bw64(sound: bytes, form: bytes = b"BW64", size: int | None = None) -> bytes:
    size = len(sound) if size is None else size
    return wav(ds64(min(size + 72, 2**64 - 1), size), chunk(b"fmt ", FMT), chunk(b"data", sound, 0xFFFFFFFF),
               riff_size=0xFFFFFFFF, form=form)  # fmt: skip


@pytest.mark.parametrize("form", [b"BW64", b"RF64", b"RIFF"])
@pytest.mark.parametrize("stated", [2000, 2044, 0, 2**64 - 1])
def test_sizes_in_ds64(form, stated, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(bw64(MORE.tobytes(), form, stated))
    np.testing.assert_array_equal(decoded(path), MORE)
    assert read_header(path).frames == 500


def test_a_truncated_bw64(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(bw64(MORE.tobytes())[:-1000])
    with pytest.raises(InputError, match="1000 bytes of sound; expected the 2000 bytes"):
        wav_source(path)


@pytest.mark.parametrize("behind", [b"", LIST])
def test_a_size_that_wrapped_at_4_gib(behind, tmp_path, caplog):
    path, size = tmp_path / "a.wav", 2**32 + 8000
    with path.open("wb") as file:  # most of it is not on the disk
        file.write(wav(chunk(b"fmt ", FMT), chunk(b"data", MORE.tobytes(), 8000), riff_size=8036))
        file.seek(44 + size - 2000)
        file.write(MORE.tobytes() + behind)
    with open_audio(path) as file:
        assert file.frames == size // 4
        np.testing.assert_array_equal(file.read(500, dtype="int16"), MORE)
        file.seek(size // 4 - 500)
        np.testing.assert_array_equal(file.read(dtype="int16"), MORE)
    assert "wrapped at 4 GiB" in caplog.text


@given(
    frames=st.integers(1, 300),
    size=st.one_of(st.integers(0, 1400), st.sampled_from([0x7FFFF000, 0x80000000, 0xFFFFFFFF])),
    riff_size=st.one_of(st.integers(0, 1500), st.just(0xFFFFFFFF), st.none()),
    form=st.sampled_from([b"RIFF", b"RF64", b"BW64"]),
)
def test_any_sizes_give_all_the_sound_or_an_error(tmp_path_factory, frames, size, riff_size, form):
    path = tmp_path_factory.mktemp("sizes") / "a.wav"
    sound = MORE[:frames]
    path.write_bytes(
        wav(chunk(b"fmt ", FMT), chunk(b"data", sound.tobytes(), size), riff_size=riff_size, form=form)
    )
    with suppress(InputError):
        np.testing.assert_array_equal(decoded(path), sound)


@given(cut=st.integers(53, 1999))
def test_a_file_that_lost_more_than_a_header_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "a.wav"
    path.write_bytes(WHOLE["plain"][:-cut])
    with pytest.raises(InputError, match="truncated"):
        decoded(path)
