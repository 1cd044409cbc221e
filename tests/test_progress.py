"""Training records as TensorBoard reads them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nearfar.errors import InputError
from nearfar.progress import Pace, duration, record_writer
from nearfar.scoring.autoencoder.training import EpochRecord
from nearfar.terminal import _line_progress
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


# --- how long steps will take -----------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_from_the_steps_of_this_call_alone() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.seconds_left("training", 501, 1_001) is None  # resumed after 500 steps
    clock.now = 9.0
    assert pace.seconds_left("training", 504, 1_001) is None  # too early to say
    clock.now = 20.0
    assert pace.seconds_left("training", 511, 1_001) == pytest.approx(2.0 * 490)
    assert pace.seconds_left("scoring", 1, 10) is None
    clock.now = 30.0
    assert pace.seconds_left("scoring", 10, 10) == 0.0
    assert pace.seconds_left("training", 1, 1_001) is None  # another training of the same name
    clock.now = 50.0
    assert pace.seconds_left("training", 6, 1_001) == pytest.approx(4.0 * 995)


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.4, "7 s"), (99.0, "99 s"), (720.0, "12 min"), (12_600.0, "3.5 h")]
)
def test_durations_are_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_task_of_hours_is_announced_once_and_lines_state_what_is_left() -> None:
    clock, written = Clock(), io.StringIO()
    advance = _line_progress(Console(file=written, width=200), Pace(clock))
    for step in range(1, 5):
        clock.now = 60.0 * step
        advance("training", step, 400)
    clock.now = 60.0 * 40
    advance("training", 40, 400)
    clock.now = 60.0 * 390
    advance("training", 390, 400)
    assert written.getvalue().splitlines() == [
        "training: 1/400",
        "training will take about 6.6 h, measured from its first steps",
        "training: 40/400, about 6.0 h left",
        "training: 390/400, about 10 min left",
    ]
