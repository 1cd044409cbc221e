"""Checkpoints come back bit for bit, survive failed writes, and are refused where they do not fit."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.checkpoint import CHECKPOINT_FILE, Identity, finished_steps, load_checkpoint, save_checkpoint
from nearfar.errors import InputError, NearfarError

IDENTITY = Identity("recipe", "clips")


def make(seed: int = 0) -> tuple[nn.Module, dict[str, nn.Parameter], torch.optim.AdamW]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    return network, dict(network.named_parameters()), torch.optim.AdamW(network.parameters(), lr=0.1)


def train(network: nn.Module, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        network(torch.full((1, 4), float(step + 1))).square().sum().backward()
        optimizer.step()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a checkpoint after three steps."""
    network, parameters, optimizer = make()
    train(network, optimizer, range(3))
    save_checkpoint(tmp_path, parameters, optimizer, 3, IDENTITY)
    return tmp_path


def test_continues_exactly(saved: Path) -> None:
    whole, _, whole_optimizer = make()
    train(whole, whole_optimizer, range(6))
    resumed, parameters, optimizer = make(seed=1)
    assert load_checkpoint(saved, parameters, optimizer, IDENTITY) == 3
    train(resumed, optimizer, range(3, 6))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_checkpoint_is_the_start(tmp_path: Path) -> None:
    _, parameters, optimizer = make()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    assert load_checkpoint(tmp_path, parameters, optimizer, IDENTITY) == 0
    assert finished_steps(tmp_path / "absent", IDENTITY) == 0
    assert all(torch.equal(before[name], p) for name, p in parameters.items())


def test_next_one_replaces_it_and_nothing_else_is_left(saved: Path) -> None:
    network, parameters, optimizer = make()
    load_checkpoint(saved, parameters, optimizer, IDENTITY)
    train(network, optimizer, range(3, 4))
    save_checkpoint(saved, parameters, optimizer, 4, IDENTITY)
    assert finished_steps(saved, IDENTITY) == 4
    assert [path.name for path in saved.iterdir()] == [CHECKPOINT_FILE]


def refuse_to_save(folder: Path, match: str) -> None:
    """Try to save step 5; whatever stops it must leave the folder as it is."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    network, parameters, optimizer = make()
    train(network, optimizer, range(5))
    with pytest.raises(NearfarError, match=match) as caught:
        save_checkpoint(folder, parameters, optimizer, 5, IDENTITY)
    assert str(folder / CHECKPOINT_FILE) in str(caught.value)
    assert "step 5" in str(caught.value)
    assert "Free some space and run the same command again" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_disk_that_is_known_to_be_full(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    refuse_to_save(saved, "no space left on device.*0 MB are free; the previous checkpoint is kept")
    assert finished_steps(saved, IDENTITY) == 3


def test_first_checkpoint_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    refuse_to_save(tmp_path, "there is no earlier checkpoint")


def test_write_that_really_fails_halfway(saved: Path) -> None:
    """The system refuses to let a file grow beyond 512 bytes, as it refuses when a disk or a quota is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))  # Python ignores the signal that comes with it
    try:
        refuse_to_save(saved, "cannot write the checkpoint of step 5 .*the previous checkpoint is kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert finished_steps(saved, IDENTITY) == 3


@pytest.mark.parametrize("late", ["os.fsync", "pathlib.Path.replace"])
def test_write_that_fails_at_the_last_moment(late: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems find out that they are full only when the bytes leave the cache."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(late, full)
    refuse_to_save(saved, "No space left on device.*the previous checkpoint is kept")


def changed(folder: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> None:
    path = folder / CHECKPOINT_FILE
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    metadata.pop("sha256", None)  # as a checkpoint of another program
    save_file(tensors, path, metadata)


def refuse_to_load(folder: Path, match: str) -> None:
    """Loading must fail with file and remedy, and leave checkpoint, parameters and optimizer as they are."""
    kept = (folder / CHECKPOINT_FILE).read_bytes()
    _, parameters, optimizer = make(seed=1)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with pytest.raises(InputError, match=match) as caught:
        load_checkpoint(folder, parameters, optimizer, IDENTITY)
    assert str(caught.value).startswith(f"{folder / CHECKPOINT_FILE}: found ")
    assert "Give another output folder, or delete this file to train from the start" in str(caught.value)
    assert (folder / CHECKPOINT_FILE).read_bytes() == kept
    assert all(torch.equal(before[name], p) for name, p in parameters.items())
    assert not optimizer.state


WRONG = {
    "a missing parameter": (
        lambda tensors, _: tensors.pop("parameter.0.weight"),
        r"1 missing tensors \(parameter\.0\.weight\)",
    ),
    "a missing moment": (
        lambda tensors, _: tensors.pop("exp_avg_sq.1.bias"),
        r"1 missing tensors \(exp_avg_sq\.1\.bias\)",
    ),
    "an extra tensor": (
        lambda tensors, _: tensors.update({"parameter.2.weight": torch.zeros(2)}),
        r"1 unexpected tensors \(parameter\.2\.weight\)",
    ),
    "a parameter of another shape": (
        lambda tensors, _: tensors.update({"parameter.0.weight": torch.zeros(4, 3)}),
        r"parameter\.0\.weight of shape \(4, 3\); expected shape \(3, 4\)",
    ),
    "a moment of another shape": (
        lambda tensors, _: tensors.update({"exp_avg.0.bias": torch.zeros(1)}),
        r"exp_avg\.0\.bias of shape \(1,\); expected shape \(3,\)",
    ),
    "another recipe": (
        lambda _, metadata: metadata.update(model_key="another"),
        r"a checkpoint of other recipe \(another\); expected recipe recipe",
    ),
    "other data": (
        lambda _, metadata: metadata.update(data_key="others"),
        r"a checkpoint of other training clips \(others\); expected training clips clips",
    ),
    "no step": (lambda _, metadata: metadata.pop("step"), "the step None; expected a number of finished steps"),
    "a file of something else": (lambda _, metadata: metadata.clear(), r"other recipe \(None\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(what: str, saved: Path) -> None:
    change, match = WRONG[what]
    changed(saved, change)
    refuse_to_load(saved, match)


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_truncated_file_is_refused(left: int, saved: Path) -> None:
    path = saved / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:left])
    refuse_to_load(saved, r"a file that cannot be read \(.+\); expected a checkpoint")


def test_text_is_refused(saved: Path) -> None:
    (saved / CHECKPOINT_FILE).write_text("<html>not found</html>" * 20)
    refuse_to_load(saved, "a file that cannot be read")


def test_a_flipped_bit_of_a_tensor_is_refused(saved: Path) -> None:
    path = saved / CHECKPOINT_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuse_to_load(saved, r"a file that is damaged \(SHA-256 .{12}, not .{12}\)")
