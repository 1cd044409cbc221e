"""Defects of a data folder are listed together, from headers, before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.detector import Detector
from nearfar.errors import InputError, MultipleInputError
from nearfar.pipeline.preparation import prepare_run


@pytest.fixture
def data(small_factory: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(small_factory, tmp_path / "data"))


def rewrite(path: Path, change) -> str:
    sound, rate = sf.read(path, dtype="int16")
    sf.write(path, change(sound).astype(np.int16), rate, subtype="PCM_16")
    return path.name


def refusal(recipe: Recipe, data: Path, out: Path) -> list[InputError]:
    with pytest.raises(InputError) as caught:
        run_system(recipe, data, out)
    assert not out.exists()
    return list(caught.value.errors) if isinstance(caught.value, MultipleInputError) else [caught.value]


def test_defects_of_every_kind_are_listed_at_once(data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    clips = sorted((data / "hummer" / "train").iterdir())
    others = sorted((data / "whiner" / "test").iterdir())
    for path in (clips[0], others[0]):
        path.write_bytes(b"RIFF and nothing that follows")
    mono = [rewrite(path, lambda sound: sound[:, 0]) for path in (clips[1], others[1])]
    longer = [rewrite(path, lambda sound: np.concatenate([sound, sound])) for path in (clips[2], others[2])]
    short = rewrite(clips[3], lambda sound: sound[:300])
    errors = refusal(small_recipe, data, tmp_path / "out")
    by_kind = {
        "one channel": mono,
        "a clip of 2 s": longer,
        "a recording of 0.01875 s": [short],
        "a clip of 0.01875 s": [short],
    }
    for found, names in by_kind.items():
        assert [Path(error.where).name for error in errors if error.found.startswith(found)] == names, found
    unreadable = [error for error in errors if error.where in (clips[0], others[0])]
    assert len(unreadable) == 2
    assert len(errors) == 8, [str(error) for error in errors]


def test_a_message_lists_ten_defects_and_counts_the_rest(data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    for path in list(data.rglob("*.wav"))[:13]:
        path.write_bytes(b"")
    with pytest.raises(MultipleInputError) as caught:
        run_system(small_recipe, data, tmp_path / "out")
    summary, *lines = str(caught.value).splitlines()
    assert summary == "13 of 36 recordings cannot be read: take them out"
    assert (len(lines), lines[-1]) == (11, "and 3 more")


def test_most_recordings_are_not_to_be_taken_out(data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    for path in list(data.rglob("*.wav"))[:18]:
        path.write_bytes(b"")
    with pytest.raises(MultipleInputError) as caught:
        run_system(small_recipe, data, tmp_path / "out")
    assert "take them out" not in str(caught.value).splitlines()[0]


def test_each_kind_of_defect_has_its_line_and_a_lone_one_its_remedy(data: Path, tmp_path: Path) -> None:
    mono, empty = sorted((data / "hummer" / "test").iterdir())[:2]
    rewrite(mono, lambda sound: sound[:, :1])
    recipe = load_recipe("nearfar-best")
    (error,) = refusal(recipe, data, tmp_path / "out")
    assert error.where == mono
    assert error.remedy.startswith("1 of 36 recordings is mono: take it out. Use two-channel recordings")
    empty.write_bytes(b"")
    with pytest.raises(MultipleInputError) as caught:
        run_system(recipe, data, tmp_path / "out")
    assert caught.value.summary == (
        "1 of 36 recordings cannot be read: take it out",
        "1 of 36 recordings is mono: take it out",
    )


def test_what_only_reading_finds_is_listed_with_the_rest(data: Path, tmp_path: Path) -> None:
    clips = sorted((data / "hummer" / "train").iterdir())
    rewrite(clips[0], lambda sound: sound[:, 0])
    silent = [rewrite(path, lambda sound: sound * 0) for path in (clips[1], clips[2])]
    with pytest.raises(MultipleInputError) as caught:
        Detector.fit(data, "nearfar-best")
    assert [Path(error.where).name for error in caught.value.errors[1:]] == silent
    assert caught.value.summary == (
        "1 of 20 recordings is mono: take it out",
        "2 of 20 recordings cannot be used: take them out",
    )


def test_defects_of_all_machines_are_listed_where_headers_show_none(data: Path) -> None:
    paths = [sorted((data / machine / "train").iterdir())[1] for machine in ("hummer", "whiner")]
    for path in paths:
        rewrite(path, lambda sound: sound * [1, 0])
    with pytest.raises(MultipleInputError) as caught:
        Detector.fit(data, "nearfar-best")
    assert [error.where for error in caught.value.errors] == paths


def test_a_lone_defect_is_an_error_of_its_own(data: Path, tmp_path: Path) -> None:
    path = sorted((data / "hummer" / "test").iterdir())[0]
    rewrite(path, lambda sound: sound[:8000])
    (error,) = refusal(load_recipe("ae-mse"), data, tmp_path / "out")
    assert error.where == path
    assert error.expected.startswith("1 s (16000 samples) like ")


def test_much_padding_is_announced_with_the_time_that_it_takes(
    small_factory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe("frozen-eat").with_changes(**{"encoder.weights": "random:tiny"})

    def warning(**changes: object) -> str:
        caplog.clear()
        prepare_run(small_factory, recipe.with_changes(**changes))
        return caplog.text

    text = warning(**{"audio.clip_seconds": 3.7})
    assert "1 s are padded to 3.7 s" in text
    assert "about 3.7 times as long" in text
    assert "padded" not in warning(**{"audio.clip_seconds": 1.9})
    assert "padded" not in warning(**{"audio.clip_seconds": "longest"})
    assert "padded" not in warning(**{"audio.clip_seconds": 3.8, "inference.speedups": ["own-length"]})
    assert "padded" in warning(**{"audio.clip_seconds": 3.9, "inference.speedups": ["int8"]})
    assert "padded" not in warning(**{"audio.clip_seconds": 4.1, "features.source": "log-mel"})
