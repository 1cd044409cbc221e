"""Windows of streams, against those of whole recordings."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.cutting import window_starts
from nearfar.watch.cutting import Cutter, CutWindow
from nearfar.watch.sources.base import AudioBlock

RATE = 100


def blocks(samples: np.ndarray, sizes: list[int], *, empty_end: bool) -> list[AudioBlock]:
    """The samples in blocks of these sizes, over and over; the end is of a block, or an empty one."""
    out, done, number = [], 0, 0
    total = samples.shape[1]
    while done < total:
        size = min(sizes[number % len(sizes)], total - done)
        ends = done + size == total and not empty_end
        out.append(AudioBlock(samples[:, done : done + size], RATE, "s", done, 1000.0, "s", ends))
        done, number = done + size, number + 1
    if empty_end:
        out.append(AudioBlock(samples[:, :0], RATE, "s", total, 1000.0, "s", ends=True))
    return out


def cut(cutter: Cutter, given_blocks: list[AudioBlock], start: int = 0) -> list[CutWindow]:
    return [window for block in given_blocks for window in cutter.cut(block, start)]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 700), st.integers(1, 120), st.integers(1, 120),
    st.lists(st.integers(1, 90), min_size=1, max_size=5), st.booleans(),
)  # fmt: skip
def test_windows_are_those_of_a_whole_recording(
    total: int, window: int, hop: int, sizes: list[int], empty_end: bool
) -> None:
    hop = min(hop, window)
    samples = np.arange(2 * total, dtype=np.float32).reshape(2, total)
    found = cut(Cutter(window / RATE, hop / RATE), blocks(samples, sizes, empty_end=empty_end))
    starts = window_starts(total, window, hop)
    assert [entry.begin for entry in found] == starts
    for entry in found:
        np.testing.assert_array_equal(entry.samples, samples[:, entry.begin : entry.begin + window])
        assert entry.begin_s == 1000.0 + entry.begin / RATE
    assert [entry.last for entry in found[:-1]] == [False] * (len(found) - 1)
    whole = cut(Cutter(window / RATE, hop / RATE), blocks(samples, [total], empty_end=False))
    assert [entry.begin for entry in whole] == starts
    assert whole[-1].last


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(1, 120), st.integers(1, 120), st.integers(0, 20))
def test_a_stream_that_is_begun_again_continues_behind_the_last_window(
    total: int, window: int, hop: int, done: int
) -> None:
    hop = min(hop, window)
    samples = np.arange(total, dtype=np.float32)[None]
    given_blocks = blocks(samples, [37], empty_end=False)
    every = cut(Cutter(window / RATE, hop / RATE), given_blocks)
    done = min(done, len(every) - 1)
    if done == 0 or every[done - 1].last:
        return
    again = cut(Cutter(window / RATE, hop / RATE), given_blocks, start=every[done - 1].next)
    assert [entry.begin for entry in again] == [entry.begin for entry in every[done:]]
    for one, other in zip(again, every[done:], strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


def test_a_new_stream_leaves_nothing_of_the_one_before() -> None:
    cutter = Cutter(1.0, 1.0)
    first = AudioBlock(np.ones((1, 150), np.float32), RATE, "one", 0, 0.0, "one")
    second = AudioBlock(np.zeros((1, 100), np.float32), RATE, "two", 0, 50.0, "two")
    assert len(list(cutter.cut(first))) == 1
    (window,) = cutter.cut(second)
    assert window.stream == "two"
    assert not window.samples.any()


def test_a_live_stream_holds_at_most_a_window_and_a_block() -> None:
    cutter = Cutter(1.0, 0.5)
    for number in range(1000):
        list(cutter.cut(AudioBlock(np.ones((1, 10), np.float32), RATE, "live", 10 * number, 0.0, "live")))
    assert sum(block.shape[1] for block in cutter._held) <= 120


def test_the_rest_of_a_recording_that_failed_is_no_window() -> None:
    cutter = Cutter(1.0, 1.0)
    good = AudioBlock(np.ones((1, 150), np.float32), RATE, "one", 0, 0.0, "one")
    bad = AudioBlock(np.empty((1, 0), np.float32), RATE, "one", 150, 0.0, "one", ends=True, error="cut off")
    assert len(list(cutter.cut(good))) == 1
    assert list(cutter.cut(bad)) == []
