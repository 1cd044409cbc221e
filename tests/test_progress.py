"""Training records as TensorBoard reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nearfar.errors import InputError
from nearfar.progress import record_writer
from nearfar.scoring.autoencoder.training import EpochRecord
from nearfar.training.finetune import StepRecord


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    with record_writer(tmp_path) as write:
        write(StepRecord(step=0, loss=2.5, learning_rate=0.25, gradient_norm=4.0, seconds=0.5))
        write(StepRecord(step=7, loss=1.5, learning_rate=0.125, gradient_norm=3.0, seconds=0.75))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    curves = {
        name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]
    }
    assert curves == {
        "loss": [(0, 2.5), (7, 1.5)],
        "learning_rate": [(0, 0.25), (7, 0.125)],
        "gradient_norm": [(0, 4.0), (7, 3.0)],
        "seconds": [(0, 0.5), (7, 0.75)],
    }


def test_an_epoch_without_validation_has_no_such_point(tmp_path: Path) -> None:
    with record_writer(tmp_path) as write:
        write(EpochRecord(epoch=0, loss=2.5, validation_loss=3.0, seconds=0.5))
        write(EpochRecord(epoch=1, loss=1.5, validation_loss=None, seconds=0.5))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    curves = {
        name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]
    }
    assert curves == {
        "loss": [(0, 2.5), (1, 1.5)],
        "validation_loss": [(0, 3.0)],
        "seconds": [(0, 0.5), (1, 0.5)],
    }


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with (
        pytest.raises(InputError, match=r"tensorboard: found no Python module.*pip install 'nearfar\[tracking\]'"),
        record_writer(tmp_path),
    ):
        pass


def test_without_a_folder_there_is_no_writer_and_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with record_writer(None) as write:
        assert write is None
