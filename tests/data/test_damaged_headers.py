"""A flipped bit of a header gives an error, a warning of another sample rate, or the same samples."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nearfar.data import audio, read_waveform
from nearfar.errors import InputError

SOUND = (0.1 * np.random.default_rng(0).standard_normal((1600, 2)) * 32768).astype(np.int16)


def read_or_none(path: Path) -> np.ndarray | None:
    """The samples; None if the file is refused."""
    try:
        return read_waveform(path)
    except InputError:
        return None


@pytest.mark.parametrize(
    ("name", "subtype", "bytes_of_header"),
    [("a.wav", "PCM_16", 44), ("a.wav", "PCM_24", 44), ("a.flac", "PCM_16", 42), ("a.flac", "PCM_24", 42)],
)
def test_no_bit_of_a_header_gives_other_samples_in_silence(
    name: str, subtype: str, bytes_of_header: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    sf.write(path, SOUND, 16_000, subtype=subtype)
    whole, before, refused = path.read_bytes(), read_waveform(path), 0
    np.testing.assert_array_equal(before, SOUND.T / np.float32(32768))
    for place in range(bytes_of_header):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            audio._logged_rates.clear()
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="nearfar"):
                found = read_or_none(path)
            if found is None:
                refused += 1
                continue
            assert np.array_equal(found, before) or "has a sample rate of" in caplog.text, (
                f"byte {place}, bit {bit}"
            )
    assert refused > 100


def test_chunks_after_the_sound_and_files_without_md5_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, SOUND, 16_000, subtype="PCM_16")
    before, content = read_waveform(path), path.read_bytes()
    more = b"LIST\x04\x00\x00\x00INFO"
    content = content[:4] + (len(content) + len(more) - 8).to_bytes(4, "little") + content[8:] + more
    path.write_bytes(content)
    np.testing.assert_array_equal(read_waveform(path), before)

    flac = tmp_path / "a.flac"
    sf.write(flac, SOUND, 16_000, subtype="PCM_16")
    content = flac.read_bytes()
    flac.write_bytes(content[:26] + bytes(16) + content[42:])
    np.testing.assert_array_equal(read_waveform(flac), before)
    flac.write_bytes(content[:26] + bytes(15) + b"\x01" + content[42:])
    with pytest.raises(InputError, match=r"a\.flac: found samples whose MD5 is not the one in its header"):
        read_waveform(flac)
