"""A grid on one data folder: its numbers are those of runs, and nothing is computed twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nearfar.ablation.grid import Grid, load_grid
from nearfar.ablation.run import AblationRun, ablate
from nearfar.challenge.run import run_system
from nearfar.cli import app
from nearfar.errors import InputError
from nearfar.pipeline import cache as cache_module

GRID = """
base = "nearfar-best"
against = { source = "bands", view = "near", scoring.normalisation = "none" }
[set]
"cancellation.window_samples" = 1024
"cancellation.hop_samples" = 512
"encoder.weights" = "random:tiny"
[axes.source]
bands = {}
tokens = { "features.source" = "tokens", "features.layers" = [1, 3], "features.pooling" = "rdp" }
deep = { "features.source" = "tokens", "features.layers" = [99] }
head = { "features.source" = "embedding" }
[axes.view]
near = { "scoring.views" = ["near"] }
both = { "scoring.views" = ["residual", "cancelled"], "scoring.fusion" = "standardised" }
[axes]
"scoring.normalisation" = ["none", "varmin"]
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    file = tmp_path_factory.mktemp("grid") / "grid.toml"
    file.write_text(GRID, encoding="utf-8")
    return load_grid(file)


@pytest.fixture(scope="module")
def finished(grid: Grid, small_factory: Path, tmp_path_factory: pytest.TempPathFactory):
    """(what it returned, its folder, progress, announced lines)."""
    out = tmp_path_factory.mktemp("ablation")
    said: list[tuple[str, int, int]] = []
    lines: list[str] = []
    run = ablate(
        grid, small_factory, out, resamples=50, progress=lambda *what: said.append(what), announce=lines.append
    )
    return run, out, said, lines


def never(*_: object, **__: object) -> None:
    raise AssertionError("this must not be called")


def scores_of(run: AblationRun) -> dict[tuple[str, ...], float]:
    return {tuple(row.values.values()): row.results.official_score for row in run.table.rows}


@pytest.mark.slow
def test_every_number_is_that_of_a_run_of_the_same_recipe(
    finished, grid: Grid, small_factory: Path, tmp_path: Path
) -> None:
    run, out, _, _ = finished
    points = {tuple(point.values.values()): point.recipe for point in grid.points()[0]}
    assert len(run.table.rows) == 8
    kept = {}
    for file in (out / "points").iterdir():
        tree = json.loads(file.read_text())
        kept[json.dumps(tree["recipe"]["features"]), json.dumps(tree["recipe"]["scoring"])] = tree["machines"]
    for row in run.table.rows:
        name = tuple(row.values.values())
        alone = run_system(points[name], small_factory, tmp_path / "-".join(name))
        assert alone is not None
        assert alone.results is not None
        recipe = alone.recipe.model_dump(mode="json")
        ours = kept[json.dumps(recipe["features"]), json.dumps(recipe["scoring"])]
        for machine, theirs in zip(ours, alone.scores, strict=True):
            assert machine["scores"] == pytest.approx(theirs.scores.tolist(), rel=1e-5, abs=1e-6)
        assert row.results.official_score == pytest.approx(alone.results.official_score, abs=1e-9)


def test_the_reference_is_the_point_that_is_named(finished) -> None:
    run, _, _, _ = finished
    (row,) = (row for row in run.table.rows if tuple(row.values.values()) == ("bands", "near", "none"))
    assert run.table.reference.official_score == row.results.official_score
    assert row.difference.overall.value == row.difference.overall.low == row.difference.overall.high == 0


def test_impossible_combinations_are_skipped_and_listed(finished) -> None:
    run, _, _, _ = finished
    reasons = {entry.values["source"]: entry.reason for entry in run.skipped}
    assert len(run.skipped) == 8
    assert "expected layers from 1 to" in reasons["deep"]
    assert "trains nothing" in reasons["head"]


def test_one_pass_for_each_front_end_and_view(finished) -> None:
    _, _, said, lines = finished
    extracted = [(done, total) for task, done, total in said if task == "extracting features"]
    clips, passes = 36, 2 * 3
    assert extracted[-1] == (passes * clips, passes * clips), "log-mel and tokens; near, far and cancelled"
    assert lines[0].startswith("6 passes over 36 clips")


def test_what_is_stored_is_what_was_stated(finished) -> None:
    _, out, _, lines = finished
    files = list((out / "statistics").glob("*.safetensors"))
    stored = sum(file.stat().st_size for file in files)
    stated = float(lines[0].partition("at most ")[2].partition(" MB")[0]) * 1e6
    headers = 400 * len(files)
    assert stated - 1e5 <= stored <= stated + 1e5 + headers
    assert len(files) == 2 * 2 * (3 * 3 + 3 * 2), "machines, splits, views and pieces: three lags, two layers"


def test_a_second_call_extracts_and_scores_nothing(
    finished, grid: Grid, small_factory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out, _, _ = finished
    assert (run.computed, run.found) == (9, 0), "eight rows and the base"
    monkeypatch.setattr(cache_module, "extract", never)
    monkeypatch.setattr("nearfar.pipeline.scoring.MachineScorer", never)
    again = ablate(grid, small_factory, out, resamples=50)
    assert (again.computed, again.found) == (0, 9)
    assert scores_of(again) == scores_of(run)


def test_what_is_lost_or_damaged_is_computed_again(
    finished, grid: Grid, small_factory: Path, tmp_path: Path
) -> None:
    run, out, _, _ = finished
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    first, second, *_ = sorted((copy / "points").iterdir())
    first.unlink()
    second.write_text(second.read_text()[:-40], encoding="utf-8")
    some = sorted((copy / "statistics").iterdir())
    some[0].unlink()
    some[1].write_bytes(some[1].read_bytes()[:100])
    again = ablate(grid, small_factory, copy, resamples=50)
    assert (again.computed, again.found) == (2, 7)
    assert scores_of(again) == scores_of(run)


class StopError(Exception):
    """As when the program is killed."""


def test_a_stopped_ablation_resumes(grid: Grid, small_factory: Path, finished, tmp_path: Path) -> None:
    def stop(task: str, done: int, total: int) -> None:
        if task == "scoring combinations" and done == 4:
            raise StopError

    with pytest.raises(StopError):
        ablate(grid, small_factory, tmp_path, resamples=50, progress=stop)
    assert not (tmp_path / "ablation.csv").exists()
    run = ablate(grid, small_factory, tmp_path, resamples=50)
    assert (run.computed, run.found) == (5, 4)
    assert scores_of(run) == scores_of(finished[0])


def test_other_recordings_are_scored_anew(grid: Grid, small_factory: Path, finished, tmp_path: Path) -> None:
    data = Path(shutil.copytree(small_factory, tmp_path / "data"))
    clips = sorted((data / "hummer" / "test").iterdir())
    clips[0].write_bytes(clips[1].read_bytes())
    out = Path(shutil.copytree(finished[1], tmp_path / "out"))
    assert ablate(grid, data, out, resamples=50).found == 0


def test_the_size_on_disk_is_checked_before_extraction(grid: Grid, small_factory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"GB of statistics to store; expected at most 1e-05 GB.*cache_gigabytes"):
        ablate(grid, small_factory, tmp_path, cache_gigabytes=1e-5)
    assert not (tmp_path / "statistics").exists()


def test_memory_is_bounded_by_a_chunk_of_clips(
    grid: Grid, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = grid.base.with_changes(**{"scoring.views": ["near"], "scoring.batch_size": 2})
    axes = {"scoring.normalisation": grid.axes["scoring.normalisation"]}
    small = replace(grid, base=base, axes=axes, against="base")
    whole = ablate(small, small_factory, tmp_path / "whole", resamples=50)
    monkeypatch.setattr(cache_module, "CLIPS", 5)
    most = []
    extract = cache_module.extract

    def counted(extractor, recordings, **options):
        most.append(len(recordings))
        return extract(extractor, recordings, **options)

    monkeypatch.setattr(cache_module, "extract", counted)
    run = ablate(small, small_factory, tmp_path / "chunks", resamples=50)
    assert max(most) == 4, "whole batches"
    assert scores_of(run) == scores_of(whole)


def test_a_base_that_does_not_work_is_an_error(small_factory: Path, grid: Grid, tmp_path: Path) -> None:
    base = grid.base.with_changes(**{"features.source": "embedding"})
    with pytest.raises(InputError, match=r"features\.source: found 'embedding' in a recipe that trains nothing"):
        ablate(replace(grid, base=base), small_factory, tmp_path)


def test_a_recipe_that_trains_is_trained_once_for_the_grid(
    small_factory: Path, small_recipe, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(small_recipe.to_toml(), encoding="utf-8")
    text = 'base = "small.toml"\n[axes]\n"scoring.views" = [["near"], ["far"], ["cancelled"]]\n'
    (tmp_path / "grid.toml").write_text(text, encoding="utf-8")
    run = ablate(load_grid(tmp_path / "grid.toml"), small_factory, tmp_path / "out", resamples=50)
    assert len(run.table.rows) == 3
    assert len(list((tmp_path / "out" / "models").iterdir())) == 1
    near = small_recipe.with_changes(**{"scoring.views": ["near"]})
    (model,) = (tmp_path / "out" / "models").iterdir()
    alone = run_system(near, small_factory, tmp_path / "run", model_folder=model)
    assert alone is not None
    assert alone.results is not None
    assert scores_of(run)["near",] == pytest.approx(alone.results.official_score, abs=1e-9)


def test_the_command(finished, grid: Grid, small_factory: Path) -> None:
    _, out, _, _ = finished
    options = ["--data", str(small_factory), "--out", str(out), "--resamples", "50"]
    done = CliRunner().invoke(app, ["ablate", grid.file, *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    tree = json.loads(done.stdout)
    assert tree == json.loads((out / "ablation.json").read_text())
    assert "skipped 4: features.layers = [99]" in done.stderr
    done = CliRunner().invoke(app, ["ablate", grid.file, *options], catch_exceptions=False)
    assert "0 combinations computed, 9 read from earlier runs" in done.stdout
