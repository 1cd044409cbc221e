"""What is shown of a clip: where frames and marks are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nearfar.frontends.kaldi import mel_centres_hz
from nearfar.report.examples import frequency_marks, outline


def test_an_outline_goes_between_marked_cells_and_others():
    marked = np.random.default_rng(0).random((7, 8)) < 0.4
    marked[3:5, 2:5] = True
    width, height = 0.13, 1 / 8
    naive = set()
    for column in range(7):
        for band in range(8):
            if not marked[column, band]:
                continue
            left, bottom = column * width, 1 - band * height
            for step, edge in (
                ((-1, 0), ("v", left, bottom)),
                ((1, 0), ("v", left + width, bottom)),
                ((0, -1), ("h", left, bottom)),
                ((0, 1), ("h", left, bottom - height)),
            ):
                c, b = column + step[0], band + step[1]
                if not (0 <= c < 7 and 0 <= b < 8 and marked[c, b]):
                    naive.add((edge[0], round(edge[1], 3), round(edge[2], 3)))
    steps = re.findall(r"M([\d.]+) ([\d.]+)([vh])(-?[\d.]+)", outline(marked, width))
    assert {(kind, round(float(x), 3), round(float(y), 3)) for x, y, kind, _ in steps} == naive
    assert {(kind, float(size)) for _, _, kind, size in steps} == {("v", -0.125), ("h", 0.13)}
    assert outline(np.zeros((7, 8), dtype=bool), width) == ""


def test_frequencies_are_marked_where_their_filters_are():
    centres = mel_centres_hz().numpy()
    for (_, place), hertz in zip(frequency_marks(), (500, 1000, 2000, 4000), strict=True):
        nearest = int(np.argmin(np.abs(centres - hertz)))
        assert place == pytest.approx((nearest + 0.5) / 128, abs=0.5 / 128)
