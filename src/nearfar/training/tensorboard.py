"""The training curve for TensorBoard; needs the extra ``nearfar[tracking]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nearfar.errors import InputError
from nearfar.training.finetune import StepRecord


@contextmanager
def tensorboard_writer(folder: Path) -> Iterator[Callable[[StepRecord], None]]:
    """A function that writes one step's record into ``folder``.

    Raises:
        InputError: if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard",
            found="no TensorBoard in this Python",
            expected="the extra nearfar[tracking]",
            remedy="Run pip install 'nearfar[tracking]', or leave the option out; log.jsonl holds the same",
        ) from None
    with SummaryWriter(str(folder)) as writer:

        def write(record: StepRecord) -> None:
            for name in ("loss", "learning_rate", "gradient_norm", "seconds"):
                writer.add_scalar(name, getattr(record, name), record.step)

        yield write
