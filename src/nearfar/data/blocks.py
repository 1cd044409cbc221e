"""Reading long recordings in blocks, with the checks and the resampling of whole ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr

from nearfar.data.audio import (
    STEP_16_BIT,
    Waveform,
    channel_columns,
    in_range,
    log_resampling,
    nonfinite_samples,
    open_audio,
    read_file_header,
    silent_channel,
    unreadable,
)
from nearfar.data.clips import Channel


def read_blocks(
    path: Path, channels: Sequence[Channel], sample_rate_hz: int, near: int, far: int, seconds: float
) -> Iterator[Waveform]:
    """Successive blocks of a recording's channels.

    Args:
        path: a WAV or FLAC file of any sample rate and number of channels.
        channels: channels to return, in this order.
        sample_rate_hz: rate of the blocks.
        near, far: indices, from 0, of the near and far microphones' channels in the file.
        seconds: length of a block; the last one may be shorter.

    Yields:
        (channels, samples) float32 in [-1, 1].

    Raises:
        InputError: as :func:`nearfar.data.audio.read_waveform`: about NaN samples instead of the block that holds
            them, about a silent channel after the last block.
    """
    with open_audio(path) as file:
        header = read_file_header(path, file)
        columns = channel_columns(path, header.channels, channels, near, far)
        rate, done = header.sample_rate_hz, 0
        lowest, highest = np.full(len(channels), np.inf), np.full(len(channels), -np.inf)
        resampler, integers = None, False
        if rate != sample_rate_hz:
            log_resampling(path, rate, sample_rate_hz)
            resampler = soxr.ResampleStream(rate, sample_rate_hz, len(channels), dtype="float32", quality="HQ")
        while done < header.frames:
            wanted = min(round(seconds * rate), header.frames - done)
            block = file.read(wanted, dtype="float32", always_2d=True)[:, columns]
            for channel, samples in zip(channels, block.T, strict=True):
                if (error := nonfinite_samples(path, channel, samples, rate, done)) is not None:
                    raise error
            if len(block) < wanted:
                raise unreadable(path, f"sound that ends after {done + len(block)} of {header.frames} samples")
            done += len(block)
            if integers:
                block = block * np.float32(STEP_16_BIT)
            else:
                scaled = in_range(block, path)
                integers, block = scaled is not block, scaled
            lowest, highest = np.minimum(lowest, block.min(axis=0)), np.maximum(highest, block.max(axis=0))
            if resampler is not None:
                block = resampler.resample_chunk(block, last=done == header.frames)
            yield np.ascontiguousarray(block.T, dtype=np.float32)
    for channel, span in zip(channels, highest - lowest, strict=True):
        if span <= STEP_16_BIT:
            raise silent_channel(path, channel)
