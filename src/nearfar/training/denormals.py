"""Numbers below 1e-38, which take a processor many times as long as others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take denormal float32 numbers for zero meanwhile, where the processor can.

    Gradients of an encoder that has learned hold many, at a fifth of a step's time; none matters beside AdamW's
    epsilon. The calling thread is put back, for others count on such numbers; threads of torch keep what they were
    started with, so enter this before the first of the work.
    """
    already = float(torch.tensor([1e-38]) * 0.1) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
