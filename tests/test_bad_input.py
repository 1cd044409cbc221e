"""Bad input from end to end: exit code 2, one message with file, found, expected and remedy, no file lost."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file
from tests.command import Finished, Nearfar

from nearfar import checkpoint, cli
from nearfar.encoders import save_encoder
from nearfar.encoders.eat import build_encoder
from nearfar.tensorfiles import read_tensors

RATE = 16_000
STEPS = 3
SHORT = [
    text
    for setting in (f"steps={STEPS}", "batch_size=4", "warmup_steps=1", "checkpoint_every=1")
    for text in ("--set", f"training.{setting}")
]


@pytest.fixture
def nearfar_run(nearfar_command: Nearfar) -> Nearfar:
    """``nearfar run SYSTEM ...`` with few steps."""
    return partial(nearfar_command, "run", *SHORT)


@pytest.fixture
def factory(small_factory: Path, tmp_path: Path) -> Path:
    """A data folder to spoil."""
    return Path(shutil.copytree(small_factory, tmp_path / "factory", copy_function=os.link))


@pytest.fixture(scope="module")
def good_run(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the fusion system on the unspoilt data. Never written to: copy it first."""
    out = tmp_path_factory.mktemp("good") / "run"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["run", "tiny-fusion", "--data", str(small_factory), "--out", str(out), *SHORT]
        patch.setattr(sys, "argv", ["nearfar", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code
    return out


@pytest.fixture
def earlier(good_run: Path, tmp_path: Path) -> Path:
    """A run folder in which there is something to lose."""
    return Path(shutil.copytree(good_run, tmp_path / "earlier"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def message_of(finished: Finished) -> str:
    """The one message of a run that failed; anything before it is progress or a note."""
    assert (finished.code, finished.out) == (2, ""), finished.err
    assert "Traceback" not in finished.err
    lines = [line for line in finished.err.splitlines() if line.startswith("nearfar: ")]
    assert len(lines) == 1, finished.err
    assert finished.err.splitlines()[-1] == lines[0]
    return lines[0]


def clip(factory: Path, machine: str = "hummer", split: str = "train", index: int = 1) -> Path:
    return sorted((factory / machine / split).iterdir())[index]


def sound_of(path: Path) -> np.ndarray:
    return sf.read(path, dtype="float32")[0]


def replace(path: Path, sound: np.ndarray, subtype: str = "PCM_16") -> Path:
    path.unlink()  # the file may be linked to the unspoilt one
    sf.write(path, sound, RATE, subtype=subtype)
    return path


def mono(factory: Path) -> Path:
    path = clip(factory)
    return replace(path, sound_of(path)[:, 0])


def zero_bytes(factory: Path) -> Path:
    path = clip(factory)
    path.unlink()
    path.touch()
    return path


def truncated(factory: Path) -> Path:
    path = clip(factory, split="test")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def other_length(factory: Path) -> Path:
    path = clip(factory, "whiner", "test")
    return replace(path, sound_of(path)[: RATE // 2])


def outside_grammar(factory: Path) -> Path:
    path = clip(factory)
    return path.rename(path.with_name("Recording 7 (new).wav"))


def without_value(factory: Path) -> Path:
    path = clip(factory)
    return path.rename(path.with_name("section_00_source_train_normal_0001_spd.wav"))


def anomalous_training_clip(factory: Path) -> Path:
    path = clip(factory)
    return path.rename(path.with_name("section_00_source_train_anomaly_0001_spd_1.wav"))


def empty_train_folder(factory: Path) -> Path:
    folder = factory / "hummer" / "train"
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def no_train_folder(factory: Path) -> Path:
    shutil.rmtree(factory / "whiner" / "train")
    return factory


def nothing_there(factory: Path) -> Path:
    shutil.rmtree(factory)
    return factory


@dataclass(frozen=True)
class Case:
    """How to spoil the data (returning the path that must be named), and parts of the message."""

    spoil: Callable[[Path], Path]
    found: str
    expected: str
    remedy: str
    options: tuple[str, ...] = ()


FOUND_FIRST = {
    "mono": Case(mono, "one channel", "two: near microphone first", "Use two-channel recordings"),
    "0 bytes": Case(zero_bytes, "a file of 0 bytes", "a WAV or FLAC recording", "Copy or record it again"),
    "truncated": Case(truncated, "a truncated WAV file with 31978 bytes of sound", "64000", "Copy"),
    "other length": Case(
        other_length, "a clip of 0.5 s", "1 s (16000 samples) like", "Cut the clips of the machine"
    ),
    "too long": Case(
        lambda factory: clip(factory, index=0),
        "a clip of 1 s",
        "at most the recipe's 0.75 s",
        "Set audio.clip_seconds to 1",
        ("--set", "audio.clip_seconds=0.75"),
    ),
    "outside grammar": Case(outside_grammar, "the name 'Recording 7 (new).wav'", "section_", "Rename"),
    "key without value": Case(without_value, "the attribute text 'spd'", "noAttribute", "Rename the file"),
    "anomaly in training": Case(
        anomalous_training_clip, "an anomalous clip in the training folder", "section_", "."
    ),
    "empty train folder": Case(
        empty_train_folder, "a training folder without WAV", "normal recordings", "Copy the training clips there"
    ),
    "no training clips": Case(
        no_train_folder,
        "8 test clips and no training clips of the machine whiner",
        "training clips",
        "whiner/train",
    ),
    "no folder": Case(nothing_there, "no such folder", "a folder laid out as", "Check the path"),
}


@pytest.mark.parametrize("what", FOUND_FIRST)
def test_is_found_before_anything_is_written(
    what: str, nearfar_run: Nearfar, factory: Path, earlier: Path
) -> None:
    case = FOUND_FIRST[what]
    path = case.spoil(factory)
    before = contents(earlier)
    message = message_of(nearfar_run("tiny-fusion", "--data", factory, "--out", earlier, *case.options))
    assert message.startswith(f"nearfar: {path}: found ")
    found, expected_and_remedy = message.split("; expected ", 1)
    assert case.found in found
    assert case.expected in expected_and_remedy
    assert case.remedy in expected_and_remedy
    assert contents(earlier) == before, "an earlier run must stay as it is"


def nan(sound: np.ndarray) -> np.ndarray:
    sound[8000, 0] = np.nan
    return sound


def infinite(sound: np.ndarray) -> np.ndarray:
    sound[4000:4003, 1] = np.inf
    return sound


def silent_far(sound: np.ndarray) -> np.ndarray:
    sound[:, 1] = 0.0
    return sound


FOUND_WHEN_READ = {
    "NaN": (
        nan,
        "1 NaN or infinite samples in the near channel, the first at 0.500 s",
        "finite samples",
        "Export",
    ),
    "infinite": (
        infinite,
        "3 NaN or infinite samples in the far channel, the first at 0.250 s",
        "finite samples",
        "Export",
    ),
    "silent": (
        silent_far,
        "a silent far channel",
        "the sound of a machine in every channel",
        "Check the microphone",
    ),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("what", FOUND_WHEN_READ)
def test_is_found_when_it_is_read(
    what: str, split: str, nearfar_run: Nearfar, factory: Path, earlier: Path, tmp_path: Path
) -> None:
    change, found, expected, remedy = FOUND_WHEN_READ[what]
    path = clip(factory, split=split)
    replace(path, change(sound_of(path)), "FLOAT")
    # Other training clips make another model; a test clip is scored with the model that is there.
    out = tmp_path / "new" if split == "train" else earlier
    before = contents(earlier)
    message = message_of(nearfar_run("tiny-fusion", "--data", factory, "--out", out))
    assert message.startswith(f"nearfar: {path}: found {found}")
    assert f"; expected {expected}" in message
    assert remedy in message
    after = contents(earlier)
    assert before.keys() <= after.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"environment.json", "data.json"}, "scores, results and model of the earlier run stay"


def test_near_system_does_not_mind_a_silent_far_channel(
    nearfar_run: Nearfar, factory: Path, tmp_path: Path
) -> None:
    path = clip(factory)
    replace(path, silent_far(sound_of(path)))
    channels = ("--set", 'training.views=["near"]', "--set", 'scoring.views=["near"]')
    finished = nearfar_run("tiny-near", "--data", factory, "--out", tmp_path / "out", *channels)
    assert finished.code == 0, finished.err


def test_recipe_with_an_unknown_key(nearfar_run: Nearfar, factory: Path, earlier: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "tiny-fusion"\nname = "mine"\n[training]\nlearning_rat = 0.1\n')
    before = contents(earlier)
    message = message_of(nearfar_run(recipe, "--data", factory, "--out", earlier))
    assert message.startswith(f"nearfar: {recipe}: found the unknown key training.learning_rat; expected a key")
    assert "correct it" in message
    assert contents(earlier) == before


def missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.blocks.1.mlp.fc1.bias"]


def extra(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.blocks.1.mlp.fc3.bias"] = torch.zeros(3)


def misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.blocks.1.mlp.fc1.bias"] = torch.zeros(3)


ENCODERS = {
    "missing": (missing, "blocks.1.mlp.fc1.bias"),
    "extra": (extra, "blocks.1.mlp.fc3.bias"),
    "misshapen": (misshapen, "(3,)"),
}


@pytest.mark.parametrize("what", ENCODERS)
def test_encoder_whose_tensors_do_not_fit(
    what: str, nearfar_run: Nearfar, factory: Path, earlier: Path, tmp_path: Path
) -> None:
    change, found = ENCODERS[what]
    save_encoder(build_encoder("tiny"), tmp_path / "encoder")
    path = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    before = contents(earlier)
    options = ("--encoder", tmp_path / "encoder", "--out", tmp_path / "new", "--data", factory)
    message = message_of(nearfar_run("tiny-fusion", *options))
    assert message.startswith(f"nearfar: {path}: found ")
    assert found in message.split("; expected ")[0]
    assert "expected exactly the tensors of an EAT encoder" in message
    assert "Check that the file is an EAT checkpoint" in message
    assert not (tmp_path / "new" / "model" / "model.json").exists()
    assert contents(earlier) == before


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["pickle", "archive"])
def test_pickle_that_would_run_code(form: str, nearfar_run: Nearfar, factory: Path, tmp_path: Path) -> None:
    path, trap = tmp_path / "encoder.pt", tmp_path / "trap"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": Malicious(trap)}))
    else:
        torch.save({"model": Malicious(trap)}, path)
    message = message_of(
        nearfar_run("tiny-fusion", "--encoder", path, "--data", factory, "--out", tmp_path / "out")
    )
    assert not trap.exists()
    assert message.startswith(f"nearfar: {path}: found a pickle that asks for more than tensors (")
    assert "expected a checkpoint of tensors" in message
    assert "Get the weights as safetensors" in message
    assert not trap.exists()


MODEL_FILES = {
    "head.safetensors": "pooling and projection of this model's recipe",
    "encoder/model.safetensors": "a whole safetensors file",
    "model.json": "a model of format",
}


@pytest.mark.parametrize("name", MODEL_FILES)
def test_damaged_model_folder(name: str, nearfar_run: Nearfar, small_factory: Path, earlier: Path) -> None:
    path = earlier / "model" / name
    path.write_bytes(path.read_bytes()[:100])
    before = contents(earlier)
    message = message_of(nearfar_run("tiny-fusion", "--data", small_factory, "--out", earlier))
    assert message.startswith(f"nearfar: {path}: found ")
    assert MODEL_FILES[name] in message
    after = contents(earlier)
    assert {key for key in before if before[key] != after[key]} <= {"environment.json", "data.json"}


def test_full_disk_keeps_the_checkpoint_and_the_next_run_resumes(
    nearfar_run: Nearfar, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    free = shutil.disk_usage

    def filling_up(folder: Path) -> object:
        asked.append(folder)
        return free(folder) if len(asked) == 1 else namedtuple("usage", "total used free")(100, 100, 0)

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", filling_up)
    arguments = ("tiny-fusion", "--data", small_factory, "--out", tmp_path)
    message = message_of(nearfar_run(*arguments))
    file = tmp_path / "model" / "checkpoint.safetensors"
    assert message.startswith(f"nearfar: {file}: cannot write the checkpoint of step 2 (no space left on device)")
    assert "it needs 2" in message, "megabytes"
    assert "0 MB are free; the previous checkpoint is kept" in message
    assert "Free some space and run the same command again; it continues from the last checkpoint." in message
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", free)
    again = nearfar_run(*arguments)
    assert again.code == 0, again.err
    assert "training full model: 1/3" not in again.err
    assert "training full model: 2/3" in again.err
    assert "training full model: 3/3" in again.err
    assert not file.exists()


@pytest.fixture
def no_file_beyond():
    """The system refuses to let a file grow beyond a size, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_checkpoint_that_breaks_off_while_it_is_written(
    nearfar_run: Nearfar, small_factory: Path, tmp_path: Path, no_file_beyond: Callable[[int], None]
) -> None:
    no_file_beyond(1_000_000)
    message = message_of(nearfar_run("tiny-fusion", "--data", small_factory, "--out", tmp_path))
    assert "cannot write the checkpoint of step 1" in message
    assert "File too large" in message
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"log.jsonl"}


def test_model_that_breaks_off_while_it_is_written(
    nearfar_run: Nearfar, small_factory: Path, tmp_path: Path, no_file_beyond: Callable[[int], None]
) -> None:
    no_file_beyond(1_000_000)
    never = ("--set", "training.checkpoint_every=100")
    finished = nearfar_run("tiny-fusion", "--data", small_factory, "--out", tmp_path, *never)
    message = message_of(finished)
    assert message.startswith(f"nearfar: {tmp_path / 'model'}")
    assert "checkpoint of" not in message
    assert "File too large" in message
    assert "Free some space" in message
    assert not (tmp_path / "model" / "model.json").exists()


def test_features_that_break_off_while_they_are_written(
    nearfar_run: Nearfar, factory: Path, earlier: Path, no_file_beyond: Callable[[int], None]
) -> None:
    for path in (factory / "hummer" / "test").iterdir():  # another list of clips, hence other features
        path.unlink()
        break
    before = contents(earlier)
    no_file_beyond(5_000)
    message = message_of(nearfar_run("tiny-fusion", "--data", factory, "--out", earlier))
    assert f"{earlier / 'model' / 'embeddings'}/" in message
    assert "cannot write the features" in message
    after = contents(earlier)
    added = after.keys() - before.keys()  # facts of the signals are small enough, and are used again
    assert all(name.endswith(".facts.safetensors") and read_tensors(earlier / name) for name in added)
    assert before.keys() <= after.keys()
    assert {key for key in before if before[key] != after[key]} <= {"environment.json", "data.json"}
