"""Grids: what they may say, what they come to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.ablation.grid import grid_names, load_grid
from nearfar.config import load_recipe
from nearfar.errors import InputError

WHOLE = """
base = "nearfar-best"
[set]
scoring.batch_size = 4
[axes]
"scoring.normalisation" = ["none", "varmin"]
scoring.domains = ["pooled", "standardised"]
[axes.view]
near = { "scoring.channels" = ["near"] }
short = { "scoring.channels" = ["cancelled"], cancellation = { window_samples = 1024, hop_samples = 512 } }
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_combination_in_the_order_of_the_file(tmp_path: Path) -> None:
    points, skipped = load_grid(written(tmp_path, WHOLE)).points()
    assert [tuple(point.values.values()) for point in points] == [
        ("none", "pooled", "near"),
        ("none", "pooled", "short"),
        ("none", "standardised", "near"),
        ("none", "standardised", "short"),
        ("varmin", "pooled", "near"),
        ("varmin", "pooled", "short"),
    ]
    best = load_recipe("nearfar-best")
    changed = {
        "scoring.batch_size": 4,
        "scoring.domains": "standardised",
        "scoring.normalisation": "none",
        "cancellation.window_samples": 1024,
        "cancellation.hop_samples": 512,
    }
    assert points[3].recipe == best.with_changes(**changed)
    assert [tuple(entry.values.values())[:2] for entry in skipped] == [("varmin", "standardised")] * 2
    assert "needs normalisation" in skipped[0].reason


def test_paths_are_relative_to_the_grid(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "tiny-near"\nname = "mine"\n', encoding="utf-8")
    text = 'base = "mine.toml"\nagainst = "runs/best"\n[axes]\n"seed" = [0, 1]\n'
    grid = load_grid(written(tmp_path, text))
    assert grid.base.name == "mine"
    assert grid.against == str(tmp_path / "runs" / "best")
    assert [point.recipe.seed for point in grid.points()[0]] == [0, 1]


def test_a_point_can_be_what_the_others_are_held_against(tmp_path: Path) -> None:
    against = 'base = "nearfar-best"\nagainst = { view = "near", scoring.neighbours = 4 }\n'
    axes = '[axes]\n"scoring.neighbours" = [1, 4]\n[axes.view]\nnear = { "scoring.channels" = ["near"] }\n'
    assert load_grid(written(tmp_path, against + axes)).against == {"scoring.neighbours": "4", "view": "near"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = ", "not TOML"),
        ("[axes]\nseed = [1]", "base = None"),
        ('base = "nearfar-best"', "no table axes"),
        ('base = "nearfar-best"\n[axes]', "no axes"),
        ('base = "nearfar-best"\n[axes]\nseed = []', "no axes"),
        ('base = "nearfar-best"\n[axes]\nseed = 3', r"axes.seed = 3; expected a list"),
        ('base = "nearfar-best"\n[axes]\nseed = [1, 1]', "a value twice"),
        ('base = "nearfar-best"\n[axes]\nview = ["near"]', r"axes.view = \['near'\]; expected a table"),
        ('base = "nearfar-best"\naxis = 3\n[axes]\nseed = [1]', "unknown key axis"),
        ('base = "no-such"\n[axes]\nseed = [1]', "no recipe of that name"),
        ('base = "nearfar-best"\nagainst = { seed = 7 }\n[axes]\nseed = [1]', "seed among 1"),
        (
            'base = "nearfar-best"\n[axes]\nseed = [' + ",".join(map(str, range(5001))) + "]",
            r"5,001 combinations; expected at most 5,000",
        ),
    ],
)
def test_bad_grids_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_grid(written(tmp_path, text))


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ('"scoring.normalization" = ["none"]', "unknown key scoring.normalization"),
        ('"scoring.normalisation" = ["none", "varmim"]', "normalisation = varmim, which no combination can have"),
        ('"scoring.neighbours" = [1, -1]', "neighbours = -1, which no combination"),
    ],
)
def test_a_value_that_is_always_refused_is_an_error_and_not_skipped(
    tmp_path: Path, axis: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_grid(written(tmp_path, f'base = "nearfar-best"\n[axes]\n{axis}')).points()


def test_a_grid_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no grid of that name and no such file; expected one of .*views"):
        load_grid("no-such")


@pytest.mark.parametrize("name", grid_names())
def test_the_packages_grids_hold(name: str) -> None:
    points, _ = load_grid(name).points()
    assert len(points) > 50
