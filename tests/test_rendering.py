"""Tables for people: which columns are left out where there is no room."""

from __future__ import annotations

import pytest

from nearfar.rendering import TextRow, TextTable
from nearfar.scores import Score, WindowScore
from nearfar.terminal import _rich_table, scores_table

TABLE = TextTable(
    ("file", "score", "near view", "nearest"),
    (TextRow(("monday/0001.wav", "1.25", "3.5", "0042.wav")), TextRow(("b.wav", "0.5", "12.25", "0007.wav"))),
    text_columns=(0, 3),
    notes=("A note.",),
    unwrapped=1,
    droppable=(3, 2),
)


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (200, []),
        (50, []),
        (49, ["nearest"]),
        (39, ["nearest"]),
        (38, ["near view", "nearest"]),
        (5, ["near view", "nearest"]),
    ],
)
def test_columns_are_left_out_in_their_order(width: int, left_out: list[str]) -> None:
    found = TABLE.fitted(width)
    assert [name for name in TABLE.headings if name not in found.headings] == left_out
    if left_out:
        assert found.notes == (f"Left out at this width: {', '.join(left_out)}.", "A note.")
        assert all(len(row.cells) == len(found.headings) for row in found.rows)
        assert found.text_columns == (0,)
        assert found.unwrapped == 1
    else:
        assert found is TABLE


def score(file: str) -> Score:
    window = WindowScore(0.0, 10.0, 5.5, {"near": 5.25, "cancelled": 5.75}, "0001.wav", 0.0)
    return Score(
        file=file,
        machine="pump 7",
        score=5.5,
        threshold=6.25,
        margin=-0.75,
        p_value=0.25,
        anomalous=False,
        domain=None,
        nearest="section_00_source_train_normal_0001_noAttribute.wav",
        nearest_begin_s=0.0,
        nearest_file=None,
        views=window.views,
        departure=None,
        windows=(window,),
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_scores_are_shown_without_broken_words(width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True)
    table = scores_table([score("monday/0001.wav"), score("monday/0002.wav")]).fitted(width)
    console.print(_rich_table(table))
    text = console.export_text()
    for word in ("monday/0001.wav", "monday/0002.wav", "5.5000", "normal"):
        assert word in text
    assert max(map(len, text.splitlines())) <= width
