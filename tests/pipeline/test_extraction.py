"""From recordings to features of windows: what is computed, how often, and where the windows lie."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from tests.pipeline.conftest import WIDTH

import nearfar
from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.data import audio
from nearfar.data.clips import Clip
from nearfar.data.cutting import LEFT_OVER, window_starts
from nearfar.detector.machine import uses_both_channels
from nearfar.errors import InputError
from nearfar.features.sources import LogMelSettings
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.models import TrainedEmbedder
from nearfar.pipeline.extraction import Extracted, extract
from nearfar.pipeline.extractor import build_extractor, extractor_of_model
from nearfar.pipeline.windows import Recording
from nearfar.threads import set_jobs


def embed(
    model: TrainedEmbedder, clips: Sequence[Clip], view: str = "near", batch_size: int = 3, **options: Any
) -> NDArray[np.float32]:
    recipe = model.recipe.with_changes(**{"scoring.views": [view], "scoring.batch_size": batch_size})
    found = extract(extractor_of_model(model, recipe), [Recording.of_clip(clip) for clip in clips], **options)
    (features,) = found.features[view]
    return features[:, 0].numpy()


# --- one window per clip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channel", "column"), [("near", 0), ("far", 1)])
def test_each_row_is_the_embedding_of_one_padded_channel(
    model: TrainedEmbedder, clips: list[Clip], channel: str, column: int
) -> None:
    out = embed(model, clips, channel)
    assert out.shape == (8, WIDTH)
    assert out.dtype == np.float32
    for clip, row in zip(clips, out, strict=True):
        samples, rate = sf.read(clip.path, dtype="float32")
        assert rate == 16_000
        waveform = torch.zeros(1, 20_000)
        waveform[0, :16_000] = torch.from_numpy(samples[:, column].copy())
        with torch.no_grad():
            expected = model.embedder(waveform, torch.tensor([16_000]))[0]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5, rtol=1e-4)
    assert len(np.unique(out[:, 0])) == 8


@pytest.mark.parametrize("batch_size", [1, 5, 8, 100])
def test_the_batch_size_only_decides_the_memory(
    model: TrainedEmbedder, clips: list[Clip], batch_size: int
) -> None:
    np.testing.assert_allclose(
        embed(model, clips, batch_size=batch_size), embed(model, clips), atol=1e-5, rtol=1e-4
    )


def test_no_more_windows_than_a_batch_go_through_the_network_at_once(
    model: TrainedEmbedder, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, forward = [], model.embedder.embed

    def noting(spectrogram: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        sizes.append(len(spectrogram))
        return forward(spectrogram, samples)

    monkeypatch.setattr(model.embedder, "embed", noting)
    done: list[int] = []
    embed(model, clips, advance=done.append)
    assert sizes == [1] * 8  # each recording alone
    assert done == [1] * 8
    sizes.clear()
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 100_000), np.float32)
    recipe = model.recipe.with_changes(**{"scoring.views": ["near"], "scoring.batch_size": 3})
    extract(extractor_of_model(model, recipe), [Recording("several windows", samples)])
    assert sizes == [3, 2]


def test_true_lengths_reach_the_network(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = sf.read(clips[0].path, dtype="float32")
    shorter = replace(clips[0], path=tmp_path / clips[0].name)
    sf.write(shorter.path, samples[:9_000], rate, subtype="PCM_16")
    own = [shorter, *clips[1:3]]
    unmasked = embed(model, own)
    monkeypatch.setattr(model.embedder, "mask_padding", True)
    masked = embed(model, own)
    assert (np.abs(masked - unmasked).max(axis=1) > 1e-3).all()
    near = torch.from_numpy(sf.read(shorter.path, dtype="float32")[0].T[:1].copy())
    padded = torch.nn.functional.pad(near, (0, 11_000))
    with torch.no_grad():
        expected = model.embedder(padded, torch.tensor([9_000]))[0]
    np.testing.assert_allclose(masked[0], expected.numpy(), atol=1e-5, rtol=1e-4)


# --- workers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_jobs() -> Iterator[Callable[[int], None]]:
    yield set_jobs
    set_jobs(None)


def assert_equal(found: Extracted, expected: Extracted) -> None:
    for view, values in expected.features.items():
        assert torch.equal(found.features[view][0], values[0])
    np.testing.assert_array_equal(found.recording, expected.recording)
    np.testing.assert_array_equal(found.begins_s, expected.begins_s)
    assert found.log_mels.keys() == expected.log_mels.keys()
    assert all(torch.equal(found.log_mels[window], one) for window, one in expected.log_mels.items())
    assert found.facts.keys() == expected.facts.keys()
    for index, facts in expected.facts.items():
        assert found.facts[index].seconds == facts.seconds
        for channel, one in facts.channels.items():
            np.testing.assert_array_equal(found.facts[index].channels[channel].bands_db, one.bands_db)
    for index, marks in expected.landmarks.items():
        np.testing.assert_array_equal(found.landmarks[index].codes, marks.codes)
        np.testing.assert_array_equal(found.landmarks[index].positions, marks.positions)
    assert {i: str(error) for i, error in found.errors.items()} == {
        i: str(error) for i, error in expected.errors.items()
    }


def test_results_do_not_depend_on_the_number_of_workers(
    clips: list[Clip], tmp_path: Path, with_jobs: Callable[[int], None]
) -> None:
    """Also of files that are read in blocks, and of files that cannot be used."""
    random = np.random.default_rng(0)
    for name in ("long", "broken"):
        samples = 0.1 * random.standard_normal((70 * 16_000, 2))
        if name == "broken":
            samples[65 * 16_000] = np.nan
        sf.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    recordings = [Recording.of_clip(clip) for clip in clips]
    for place, name in ((2, "long"), (4, "missing"), (6, "broken"), (7, "long")):
        recordings.insert(place, Recording(name, tmp_path / f"{name}.wav"))
    extractor = build_extractor(log_mel(**{"scoring.views": ["near", "cancelled"]}))
    found = []
    for count in (1, 2, 3):
        with_jobs(count)
        done: list[int] = []
        found.append(
            extract(
                extractor,
                recordings,
                spectrograms_of=range(len(recordings)),
                with_facts=True,
                with_landmarks=True,
                keep_errors=True,
                advance=done.append,
            )
        )
        assert len(done) == len(recordings)
    assert set(found[0].errors) == {4, 6}
    assert len(found[0].recording) == 8 * 2 + 2 * 140
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])


def test_an_embedding_does_not_depend_on_the_number_of_workers(
    model: TrainedEmbedder, clips: list[Clip], with_jobs: Callable[[int], None]
) -> None:
    with_jobs(1)
    expected = embed(model, clips)
    for count in (2, 3):
        with_jobs(count)
        np.testing.assert_array_equal(embed(model, clips), expected)
        np.testing.assert_array_equal(embed(model, clips[:1]), expected[:1])


def test_the_first_error_of_several_workers_is_raised(
    clips: list[Clip], tmp_path: Path, with_jobs: Callable[[int], None]
) -> None:
    with_jobs(2)
    recordings = [Recording.of_clip(clip) for clip in clips]
    recordings[3:5] = [Recording(name, tmp_path / f"{name}.wav") for name in ("first", "second")]
    with pytest.raises(InputError, match=r"first\.wav"):
        extract(build_extractor(log_mel()), recordings)


# --- several windows --------------------------------------------------------------------------------------------


def log_mel(**changes: Any) -> Recipe:
    keys = {"features.source": "log-mel", "audio.clip_seconds": 0.5, "scoring.batch_size": 4}
    return load_recipe("nearfar-best").with_changes(**(keys | changes))


def test_windows_of_a_long_recording_are_those_of_its_pieces() -> None:
    """Views are made window by window, and a window's features are those of a recording that ends with it."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 20_000)).astype(np.float32)
    extractor = build_extractor(log_mel(**{"scoring.views": ["near", "cancelled"], "audio.hop_seconds": 0.3}))
    recordings = [Recording("short", samples[:, :7_000]), Recording("long", samples)]
    found = extract(extractor, recordings)
    pieces = [(0, 0, 7_000), (1, 0, 8_000), (1, 4_800, 12_800), (1, 9_600, 17_600), (1, 12_000, 20_000)]
    assert found.recording.tolist() == [recording for recording, _, _ in pieces]
    np.testing.assert_allclose(found.begins_s, [begin / 16_000 for _, begin, _ in pieces])
    np.testing.assert_allclose(found.ends_s, [end / 16_000 for _, _, end in pieces])
    single = [Recording("piece", recordings[recording].source[:, begin:end]) for recording, begin, end in pieces]
    expected = extract(extractor, single)
    assert expected.recording.tolist() == list(range(5))
    for view in ("near", "cancelled"):
        torch.testing.assert_close(found.features[view][0], expected.features[view][0])
        assert len(torch.unique(found.features[view][0][:, 0, 0])) == 5
    assert not torch.allclose(found.features["near"][0], found.features["cancelled"][0])


def test_a_file_and_its_samples_have_the_same_features(clips: list[Clip]) -> None:
    extractor = build_extractor(log_mel(**{"scoring.views": ["near", "far"]}))
    samples = [sf.read(clip.path, dtype="float32")[0].T for clip in clips[:2]]
    of_files = extract(extractor, [Recording.of_clip(clip) for clip in clips[:2]])
    of_arrays = extract(extractor, [Recording(f"array {i}", array) for i, array in enumerate(samples)])
    for view in ("near", "far"):
        assert torch.equal(of_files.features[view][0], of_arrays.features[view][0])


def test_several_settings_are_extracted_at_once(clips: list[Clip]) -> None:
    extractor = build_extractor(log_mel(**{"scoring.views": ["near"]}))
    recordings = [Recording.of_clip(clip) for clip in clips[:3]]
    settings = [LogMelSettings(), LogMelSettings(lags=(4,), keep_bands=True)]
    together = extract(extractor, recordings, wanted=settings).features["near"]
    for found, one in zip(together, settings, strict=True):
        (alone,) = extract(extractor, recordings, wanted=[one]).features["near"]
        assert torch.equal(found, alone)


def test_spectrograms_are_returned_of_the_recordings_asked_for_without_padding(clips: list[Clip]) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 12_000)).astype(np.float32)
    recordings = [
        Recording("a", samples),
        Recording("b", samples[:, :6_000]),  # shorter than a window of 8000
        Recording("c", samples[:, :2_000]),  # shorter than 16 frames
    ]
    extractor = build_extractor(log_mel(**{"scoring.views": ["near", "far"]}))
    found = extract(extractor, recordings, spectrograms_of=[1, 2])
    assert found.recording.tolist() == [0, 0, 1, 2]
    assert list(found.log_mels) == [2]
    expected = KaldiFbank().log_mel(torch.from_numpy(samples[:1, :6_000]))[0]
    torch.testing.assert_close(found.log_mels[2], expected)
    assert extract(extractor, recordings).log_mels == {}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            np.eye(2, 300, dtype=np.float32),
            r"array: found a recording of 0\.01875 s; expected at least one frame",
        ),
        (np.zeros((2, 8_000), np.int16), "array: found an array of int16; .* Divide 16-bit samples by 32768"),
        (np.zeros((8_000, 2), np.float32), r"array: found an array of shape \(8000, 2\); .* Transpose it"),
        (np.zeros((2, 2, 8_000), np.float32), r"array: found an array of shape \(2, 2, 8000\)"),
        (np.zeros((2, 0), np.float32), r"array: found an array of shape \(2, 0\)"),
    ],
)
def test_arrays_that_are_no_recordings_are_refused(samples: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract(build_extractor(log_mel()), [Recording("array", samples)])


# --- each file decoded once, each spectrogram computed once -----------------------------------------------------


class Calls:
    """How often files are decoded and how many spectrograms are computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoded: Counter[str] = Counter()
        self.spectrograms = 0
        lock, log_mel, read = threading.Lock(), KaldiFbank.log_mel, audio.read_file

        def counted_read(path: Path, *arguments: Any, **options: Any) -> Any:
            with lock:
                self.decoded[str(path)] += 1
            return read(path, *arguments, **options)

        def counted_log_mel(fbank: KaldiFbank, waveform: torch.Tensor) -> torch.Tensor:
            self.spectrograms += len(waveform)
            return log_mel(fbank, waveform)

        for module in ("pipeline.windows", "data.audio"):  # the latter is what read_waveform calls
            monkeypatch.setattr(f"nearfar.{module}.read_file", counted_read)
        monkeypatch.setattr(KaldiFbank, "log_mel", counted_log_mel)

    def taken(self) -> tuple[set[int], int, int]:
        """How often each file was decoded, the number of files and that of spectrograms; starts again at 0."""
        out = set(self.decoded.values()), len(self.decoded), self.spectrograms
        self.decoded, self.spectrograms = Counter(), 0
        return out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


TWO_VIEWS = {
    "log-mel": ("nearfar-best", {"scoring.views": ["near", "cancelled"]}, 2),
    "tokens": ("frozen-eat", {"scoring.views": ["near", "cancelled"], "encoder.weights": "random:tiny"}, 2),
    "several layers": (
        "frozen-eat",
        {
            "scoring.views": ["cancelled"],
            "encoder.weights": "random:tiny",
            "features.source": "tokens",
            "features.pooling": "mean",
            "features.keep_bands": False,
            "features.layers": [1, 2],
        },
        1,
    ),
    "features of two views": ("nearfar-best", {"scoring.views": ["far", "residual", "near"]}, 2),
}


def recipe_of(name: str) -> tuple[Recipe, int]:
    base, changes, views = TWO_VIEWS[name]
    return load_recipe(base).with_changes(**changes), views


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_a_detector_decodes_every_file_and_computes_every_spectrogram_once(
    name: str, small_factory: Path, calls: Calls
) -> None:
    recipe, views = recipe_of(name)
    detector = nearfar.Detector.fit(small_factory / "hummer", recipe)
    # Three recordings are read again to find out whether far is a delayed copy of near, where one is subtracted.
    decoded = {1, 2} if uses_both_channels(recipe) else {1}
    assert calls.taken() == (decoded, 10, 10 * views)
    files = sorted((small_factory / "hummer" / "test").iterdir())
    assert len(list(detector.score_many(files))) == 8
    assert calls.taken() == ({1}, 8, 8 * views)
    assert detector.score(files[0]).departure is not None, "the explanation uses the spectrogram"
    assert calls.taken() == ({1}, 1, views)


def test_windows_of_a_detector_have_one_spectrogram_each(small_factory: Path, calls: Calls) -> None:
    recipe = load_recipe("nearfar-best").with_changes(
        **{"scoring.views": ["near"], "audio.clip_seconds": 0.5, "audio.hop_seconds": 0.25}
    )
    nearfar.Detector.fit(small_factory / "hummer", recipe)
    assert calls.taken() == ({1}, 10, 10 * 3)


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_a_run_decodes_every_file_and_computes_every_spectrogram_once(
    name: str, small_factory: Path, calls: Calls, tmp_path: Path
) -> None:
    recipe, views = recipe_of(name)
    run_system(recipe, small_factory, tmp_path)
    assert calls.taken() == ({1}, 36, 36 * views)
    run_system(recipe, small_factory, tmp_path)
    assert calls.taken() == (set(), 0, 0), "everything is cached"
    two = recipe.with_changes(**{"scoring.neighbours": 2})
    run_system(two, small_factory, tmp_path / "other", model_folder=tmp_path / "model")
    assert calls.taken() == (set(), 0, 0)


# --- where windows begin ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "hop", "starts"),
    [
        (100, 100, [0]),  # a whole clip
        (60, 100, [0]),  # shorter, to be padded
        (110, 100, [0]),  # a tenth left over
        (111, 100, [0, 11]),  # more: the last window ends with the recording
        (200, 100, [0, 100]),
        (250, 100, [0, 100, 150]),
        (250, 50, [0, 50, 100, 150]),
        (205, 50, [0, 50, 100]),
        (350, 150, [0, 150, 250]),  # gaps between windows are asked for
    ],
)
def test_windows_by_hand(samples: int, hop: int, starts: list[int]) -> None:
    assert window_starts(samples, 100, hop) == starts


def test_windows_lie_inside_and_leave_out_at_most_a_tenth_of_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        samples, window = (int(x) for x in random.integers(1, 500, size=2))
        hop = int(random.integers(1, window + 1))
        covered = np.zeros(samples, dtype=bool)
        starts = window_starts(samples, window, hop)
        assert starts == sorted(set(starts))
        assert starts[0] == 0
        for start in starts:
            assert start + window <= max(samples, window)
            covered[start : start + window] = True
        assert (~covered).sum() <= LEFT_OVER * window


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_recording_read_in_blocks_has_the_windows_of_one_read_at_once(
    rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, size=(int(13.3 * rate), 2))
    sf.write(tmp_path / "long.wav", noise, rate, subtype="FLOAT")
    recipe = load_recipe("nearfar-best").with_changes(**{"audio.clip_seconds": 1.0, "audio.hop_seconds": 0.7})
    extractor = build_extractor(recipe)
    recording = Recording("long.wav", tmp_path / "long.wav")

    def extracted() -> Extracted:
        return extract(extractor, [recording], spectrograms_of=[0], with_landmarks=True)

    whole = extracted()
    for module in ("pipeline.windows", "data.cutting"):
        monkeypatch.setattr(f"nearfar.{module}.WHOLE_SECONDS", 2.5)
    blocks = extracted()
    assert blocks.begins_s.tolist() == whole.begins_s.tolist()
    for view, (values,) in whole.features.items():
        torch.testing.assert_close(blocks.features[view][0], values, rtol=1e-3, atol=1e-3)
    assert len(blocks.log_mels) <= 12 < len(blocks.begins_s)
    missing = next(window for window in range(len(blocks.begins_s)) if window not in blocks.log_mels)
    monkeypatch.setattr("nearfar.pipeline.extraction.SPECTROGRAMS", 1000)
    every = extracted()
    again = blocks.log_mel(missing)
    assert again is not None
    torch.testing.assert_close(again, every.log_mels[missing])
    assert blocks.facts[0].channels["near"].level_db == pytest.approx(
        whole.facts[0].channels["near"].level_db, abs=0.1
    )


def test_a_fault_late_in_a_long_recording_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, size=(160_000, 2)).astype(np.float32)
    sf.write(tmp_path / "good.wav", noise[:32_000], 16_000, subtype="FLOAT")
    noise[-1] = np.nan
    sf.write(tmp_path / "bad.wav", noise, 16_000, subtype="FLOAT")
    for module in ("pipeline.windows", "data.cutting"):
        monkeypatch.setattr(f"nearfar.{module}.WHOLE_SECONDS", 2.0)
    recipe = load_recipe("nearfar-best").with_changes(**{"audio.clip_seconds": 1.0})
    names = ("good.wav", "bad.wav", "good.wav")
    recordings = [Recording(name, tmp_path / name) for name in names]
    found = extract(build_extractor(recipe), recordings, keep_errors=True)
    assert list(found.errors) == [1]
    assert "NaN" in str(found.errors[1])
    assert found.recording.tolist() == [0, 0, 2, 2]
    assert all(len(values) == 4 for (values,) in found.features.values())
