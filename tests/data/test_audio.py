"""From files to waveforms, and every way in which a file can be bad."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nearfar.data import audio, riff
from nearfar.data.audio import (
    AudioHeader,
    read_header,
    read_headers,
    read_waveform,
    zero_pad,
)
from nearfar.errors import InputError

STEP = 1 / 32768


def noise(frames: int = 1600, channels: int = 2, seed: int = 0) -> np.ndarray:
    """(frames, channels) int16 noise."""
    return np.random.default_rng(seed).integers(-8000, 8000, (frames, channels)).astype(np.int16)


def write(path: Path, samples: np.ndarray, rate: int = 16000, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def expect(error: InputError, where: Path, found: str, expected: str, remedy: str) -> None:
    assert error.where == where
    assert found in error.found
    assert expected in error.expected
    assert remedy in error.remedy
    assert str(where) in str(error)


# Headers


@pytest.mark.parametrize(
    ("suffix", "options", "subtype"),
    [
        (".wav", {"subtype": "PCM_16"}, "PCM_16"),
        (".wav", {"subtype": "FLOAT"}, "FLOAT"),
        (".wav", {"subtype": "PCM_24", "format": "WAVEX"}, "PCM_24"),
        (".wav", {"subtype": "PCM_16", "format": "RF64"}, "PCM_16"),
        (".flac", {"subtype": "PCM_16"}, "PCM_16"),
    ],
)
def test_header(tmp_path, suffix, options, subtype):
    path = write(tmp_path / f"a{suffix}", noise(2400, 3), 8000, **options)
    header = read_header(path)
    assert header == AudioHeader(8000, 3, 2400, subtype)
    assert header.seconds == 0.3


def test_many_headers_in_order_with_the_errors_in_their_places(tmp_path):
    paths = [write(tmp_path / f"{n}.wav", noise(n)) for n in range(100, 140)]
    paths.insert(7, tmp_path / "missing.wav")
    answers = read_headers(paths)
    assert isinstance(answers.pop(7), InputError)
    assert [header.frames for header in answers] == list(range(100, 140))


def test_0_bytes(tmp_path):
    path = tmp_path / "a.wav"
    path.touch()
    for read in (read_header, read_waveform):
        with pytest.raises(InputError) as caught:
            read(path)
        expect(caught.value, path, "0 bytes", "a WAV or FLAC recording", "Copy or record it again")


def test_not_audio(tmp_path):
    path = tmp_path / "a.wav"
    path.write_text("file_name,d1p,d1v\n")
    for read in (read_header, read_waveform):
        with pytest.raises(InputError) as caught:
            read(path)
        expect(caught.value, path, "cannot be decoded (Format not recognised)", "a whole WAV or FLAC", "Copy")


def test_audio_of_another_format(tmp_path):
    path = write(tmp_path / "a.wav", noise(), format="OGG")
    with pytest.raises(InputError) as caught:
        read_header(path)
    expect(caught.value, path, "the format OGG", "WAV or FLAC", "convert it")


def test_no_samples(tmp_path):
    path = write(tmp_path / "a.wav", noise(0))
    with pytest.raises(InputError) as caught:
        read_header(path)
    expect(caught.value, path, "no samples", "a whole WAV or FLAC file", "record")


def test_missing(tmp_path):
    with pytest.raises(InputError) as caught:
        read_waveform(tmp_path / "a.wav")
    expect(caught.value, tmp_path / "a.wav", "No such file", "WAV or FLAC", "Check the path")


def test_truncated_wav(tmp_path):
    path = write(tmp_path / "a.wav", noise(1600))
    path.write_bytes(path.read_bytes()[: 44 + 3200])
    for read in (read_header, read_waveform):
        with pytest.raises(InputError) as caught:
            read(path)
        expect(caught.value, path, "3200 bytes of sound", "the 6400 bytes of sound", "Copy or record it again")


@pytest.mark.parametrize("kept", [0.03, 0.5, 0.98])
def test_truncated_flac(tmp_path, kept):
    path = write(tmp_path / "a.flac", noise(40_000))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError) as caught:
        read_waveform(path)
    expect(caught.value, path, "sound that", "a whole WAV or FLAC file", "Copy, record or convert it again")


def test_flac_cut_between_two_frames(tmp_path):
    """A cut that leaves whole FLAC frames: nothing in the stream is damaged, samples are only missing."""
    path = write(tmp_path / "a.flac", noise(16_384))
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xff\xf8")])  # with these bytes a frame starts
    with pytest.raises(InputError) as caught:
        read_waveform(path)
    expect(caught.value, path, "sound that", "a whole WAV or FLAC file", "Copy")


def test_a_short_read_of_libsndfile_is_an_error(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", noise())
    whole = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **kwargs: whole(*args, **kwargs)[:1000])
    with pytest.raises(InputError) as caught:
        read_waveform(path)
    expect(caught.value, path, "ends after 1000 of 1600 samples", "a whole WAV or FLAC file", "Copy")


def test_flac_that_does_not_state_its_length(tmp_path):
    path = write(tmp_path / "a.flac", noise())
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the last 36 bits of STREAMINFO before the MD5 count the samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    for read in (read_header, read_waveform):
        with pytest.raises(InputError) as caught:
            read(path)
        expect(caught.value, path, "does not state its length", "its length in the header", "Encode it again")


# Waveforms


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_samples_come_back_exactly(tmp_path, suffix):
    samples = noise(1234, 2)
    waveform = read_waveform(write(tmp_path / f"a{suffix}", samples))
    assert waveform.dtype == np.float32
    assert waveform.flags.c_contiguous
    np.testing.assert_array_equal(waveform, samples.T / np.float32(32768))


def test_near_and_far_are_chosen_by_name_in_the_order_asked_for(tmp_path):
    samples = noise(channels=8)
    path = write(tmp_path / "a.wav", samples)
    expected = samples.T / np.float32(32768)
    np.testing.assert_array_equal(read_waveform(path, ["far"]), expected[[1]])
    np.testing.assert_array_equal(read_waveform(path, ["far", "near"]), expected[[1, 0]])
    np.testing.assert_array_equal(read_waveform(path, near=5, far=2), expected[[5, 2]])


def test_mono_will_do_for_near(tmp_path):
    samples = noise(channels=1)
    path = write(tmp_path / "a.wav", samples)
    np.testing.assert_array_equal(read_waveform(path, ["near"]), samples.T / np.float32(32768))


def test_mono_where_far_is_needed(tmp_path):
    path = write(tmp_path / "a.wav", noise(channels=1))
    with pytest.raises(InputError) as caught:
        read_waveform(path)
    expect(caught.value, path, "1 channel (mono)", "at least 2", "use only the near one")


def test_too_few_channels_for_the_choice(tmp_path):
    path = write(tmp_path / "a.wav", noise(channels=4))
    with pytest.raises(InputError) as caught:
        read_waveform(path, near=0, far=4)
    expect(caught.value, path, "4 channels", "channel 4 (from 0) is the far microphone", "Record both")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_nan_and_infinite_samples(tmp_path, value, column):
    samples = noise() / np.float32(32768)
    samples[[800, 1000], column] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(InputError) as caught:
        read_waveform(path)
    name = ("near", "far")[column]
    expect(
        caught.value,
        path,
        f"2 NaN or infinite samples in the {name} channel, the first at 0.050 s",
        "finite samples",
        "Export the file again",
    )


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("level", [0, 117])
def test_silent_channel(tmp_path, column, level):
    samples = noise()
    samples[:, column] = level
    samples[::2, column] += 1  # a last bit that toggles is still no sound
    path = write(tmp_path / "a.wav", samples)
    with pytest.raises(InputError) as caught:
        read_waveform(path)
    name = ("near", "far")[column]
    expect(caught.value, path, f"a silent {name} channel", "in every channel that is used", "Check the microphone")
    other = ("far", "near")[column]
    assert read_waveform(path, [other]).shape == (1, 1600)


def test_two_steps_are_sound(tmp_path):
    samples = noise()
    samples[:, 1] = 0
    samples[7, 1] = 2
    assert read_waveform(write(tmp_path / "a.wav", samples)).max(axis=1)[1] == 2 * STEP


# Resampling


@pytest.fixture
def no_logged_rates(monkeypatch):
    """As in a process that has not resampled yet."""
    monkeypatch.setattr(audio, "_logged_rates", set())


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_stays_the_same_tone(tmp_path, rate, no_logged_rates):
    """Against the tone computed at 16 kHz directly, away from the ends, where the filter has settled."""

    def tones(rate: int) -> np.ndarray:
        time = np.arange(rate) / rate
        return np.stack([0.5 * np.sin(2 * np.pi * 1000 * time), 0.2 * np.cos(2 * np.pi * 440 * time)])

    waveform = read_waveform(write(tmp_path / "a.wav", tones(rate).T, rate, subtype="FLOAT"))
    assert waveform.shape == (2, 16000)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform[:, 2000:-2000], tones(16000)[:, 2000:-2000], atol=2e-4)


def test_frequencies_above_the_new_nyquist_frequency_are_removed(tmp_path, no_logged_rates):
    time = np.arange(48000) / 48000
    samples = np.stack([np.sin(2 * np.pi * 10_000 * time)] * 2, axis=1)
    waveform = read_waveform(write(tmp_path / "a.wav", samples, 48000))
    assert np.abs(waveform[:, 2000:-2000]).max() < 1e-3


def test_resampling_is_logged_once_per_rate(tmp_path, caplog, no_logged_rates):
    files = [write(tmp_path / f"{rate}_{i}.wav", noise(), rate) for rate in (44100, 16000, 8000) for i in (0, 1)]
    with caplog.at_level(logging.WARNING, "nearfar"):
        for path in files:
            read_waveform(path)
    logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert len(logged) == 2
    assert {entry[:2] for entry in logged} == {("nearfar", "WARNING")}
    assert str(files[0]) in logged[0][2]
    assert "44100 Hz" in logged[0][2]
    assert "16000 Hz" in logged[0][2]
    assert str(files[4]) in logged[1][2]
    assert "8000 Hz" in logged[1][2]


@pytest.mark.parametrize("rate", [8000, 32000, 44100, 96000])
def test_headers_give_the_resampled_length(tmp_path, rate, no_logged_rates):
    for frames in (1001, 1003, 4411, 4801):
        path = write(tmp_path / f"{frames}.wav", noise(frames), rate)
        assert read_header(path).frames_at(16000) == read_waveform(path).shape[1]


# Lengths


def test_zero_pad(tmp_path):
    waveform = np.ones((2, 3), np.float32)
    padded = zero_pad(waveform, 5, tmp_path / "a.wav")
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded, [[1, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(zero_pad(waveform[0], 4, tmp_path / "a.wav"), [1, 1, 1, 0])
    np.testing.assert_array_equal(zero_pad(waveform, 3, tmp_path / "a.wav"), waveform)


def test_longer_than_the_recipe(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(InputError) as caught:
        zero_pad(np.ones((2, 192_000), np.float32), 160_000, path)
    expect(caught.value, path, "12 s", "10 s", "Set audio.clip_seconds to 12 or more")


def test_the_remedy_for_a_long_clip_is_never_too_short(tmp_path):
    with pytest.raises(InputError) as caught:
        zero_pad(np.ones(1_234_567, np.float32), 160_000, tmp_path / "a.wav")
    advised = float(caught.value.remedy.split("clip_seconds to ")[1].split()[0])
    zero_pad(np.ones(1_234_567, np.float32), round(advised * 16000), tmp_path / "a.wav")


# Real recordings


def test_real_eight_channel_recordings(shared):
    path = shared / "data" / "formats" / "mimii_8ch" / "00000000.wav"
    assert read_header(path) == AudioHeader(16000, 8, 160_000, "PCM_16")
    whole, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(read_waveform(path, near=0, far=4), whole.T[[0, 4]])


def test_real_mono_recordings(shared):
    for path in sorted((shared / "data" / "formats" / "dcase2020").glob("*/test/*.wav")):
        assert read_waveform(path, ["near"]).shape[1] == read_header(path).frames
        with pytest.raises(InputError, match=r"mono"):
            read_waveform(path)


# --- samples out of range ---------------------------------------------------------------------------------------


def float_file(path, samples):
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return path


def test_integers_saved_as_numbers_are_divided_once_with_a_message(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(riff, "_logged", set())
    integers = np.random.default_rng(0).integers(-32_768, 32_768, (800, 2))
    integers[0] = -32_768
    path = float_file(tmp_path / "a.wav", integers.astype(np.float32))
    for _ in range(2):
        np.testing.assert_array_equal(read_waveform(path), (integers / 32_768).astype(np.float32).T)
    (message,) = caplog.messages
    assert "16-bit integers" in message
    assert str(path) in message


@pytest.mark.parametrize("scale", [1.0, 3.5, 900.0])
def test_numbers_out_of_range_that_may_be_sound_are_as_they_are(tmp_path, scale):
    samples = (np.sin(np.arange(800)) * scale).astype(np.float32)
    path = float_file(tmp_path / "a.wav", samples)
    np.testing.assert_array_equal(read_waveform(path, ["near"])[0], samples)


@pytest.mark.parametrize("scale", [1001.5, 2.0**31, 1e20, 3e38])
def test_absurd_samples_are_refused(tmp_path, scale):
    samples = np.full(800, 0.25, dtype=np.float32)
    samples[::3] = scale
    path = float_file(tmp_path / "a.wav", samples)
    with pytest.raises(InputError) as caught:
        read_waveform(path, ["near"])
    assert caught.value.where == path
    assert caught.value.found == f"samples as large as {float(np.float32(scale)):.3g}"
