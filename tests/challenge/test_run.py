"""One system from recordings to results: what it writes, what it uses again, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch.nn import functional as F

from nearfar.challenge import run as module
from nearfar.challenge.run import SystemRun, run_system
from nearfar.config import Recipe, load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.files import exclusive
from nearfar.models import load_model
from nearfar.pipeline.preparation import prepare_run
from nearfar.report.run_page import report_run


@pytest.fixture(scope="module")
def finished(small_factory: Path, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, with_figures):
    """A whole run of the fusion system: (what it returned, its folder, its progress)."""
    out = tmp_path_factory.mktemp("run") / "fusion"
    said: list[tuple[str, int, int]] = []
    with with_figures():
        run = run_system(
            small_recipe, small_factory, out, progress=lambda *what: said.append(what), tensorboard=True
        )
    return run, out, said


def linked(factory: Path, to: Path) -> Path:
    """A copy of a data folder in which files can be replaced without a change to the original."""
    return Path(shutil.copytree(factory, to, copy_function=os.link))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def never(*_: object, **__: object) -> None:
    raise AssertionError("this must not be called")


def test_writes_every_file(finished) -> None:
    _, out, _ = finished
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = {
        "recipe.toml",
        "environment.json",
        "data.json",
        "timing.json",
        "thresholds.json",
        "view_scores.json",
        "results.json",
        "results.md",
        "results.csv",
        "model/model.json",
        "model/head.safetensors",
        "model/encoder/config.json",
        "model/encoder/model.safetensors",
        "model/log.jsonl",
        *(f"scores/anomaly_score_{machine}_section_00_test.csv" for machine in ("hummer", "whiner")),
        *(f"scores/decision_result_{machine}_section_00_test.csv" for machine in ("hummer", "whiner")),
        *(f"figures/{machine}_section_00.png" for machine in ("hummer", "whiner")),
    }
    assert expected <= files
    embeddings = {name for name in files if name.startswith("model/embeddings/")}
    facts = {name for name in embeddings if name.endswith(".facts.safetensors")}
    assert len(facts) == 2 * 2, "machines, train and test"
    assert len(embeddings - facts) == 2 * 2 * 2, "machines, train and test, channels"
    curve = {name for name in files if name.startswith("model/tensorboard/events.out")}
    assert len(curve) == 1
    assert files == expected | embeddings | curve


def test_problems_of_microphones_are_counted_by_machine_also_from_stored_features(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, recipe = linked(small_factory, tmp_path / "data"), small_recipe.with_changes(**{"training.steps": 1})
    quiet, clipped = sorted((data / "hummer" / "test").iterdir())[:2]
    for path, change in ((quiet, lambda x: 1e-3 * x), (clipped, lambda x: np.clip(4 * x, -0.2, 0.2))):
        samples, rate = sf.read(path)
        path.unlink()
        sf.write(path, change(samples / np.abs(samples).max()), rate, subtype="PCM_24")
    with caplog.at_level("WARNING"):
        assert run_system(recipe, data, tmp_path / "run") is not None
    (line,) = [record.getMessage() for record in caplog.records if "recordings, such as" in record.getMessage()]
    assert "hummer: " in line
    assert f"clipped in 1 of 18 recordings, such as {clipped.name}" in line
    first = (tmp_path / "run" / "quality.json").read_text()
    (machine,) = json.loads(first)
    assert {"clipped", "dead"} <= {entry["check"] for entry in machine["problems"]}
    (tmp_path / "run" / "quality.json").unlink()
    assert run_system(recipe, data, tmp_path / "run") is not None  # reads features that are there
    assert (tmp_path / "run" / "quality.json").read_text() == first
    page = report_run(tmp_path / "run", tmp_path / "page.html").read_text()
    assert "Microphones and recorder" in page
    assert "1 of 18" in page


def test_recipe_is_written_whole_and_resolved(finished, small_recipe: Recipe) -> None:
    run, out, _ = finished
    written = load_recipe(out / "recipe.toml")
    assert written == run.recipe
    assert small_recipe.audio.clip_seconds == "longest"
    resolved = {"audio.clip_seconds": 1.0, "threshold.rule": "gamma", "threshold.false_alarm_rate": 0.1}
    assert written == small_recipe.with_changes(**resolved)
    assert Recipe.model_validate(json.loads((out / "model" / "model.json").read_text())["recipe"]) == written


def test_environment_and_data_are_described(finished) -> None:
    run, out, _ = finished
    environment = json.loads((out / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert {"nearfar", "python", "platform", "cpus", "command", "started"} <= environment.keys()
    assert all(environment[name] for name in ("accelerate", "numpy", "peft", "safetensors", "soxr"))
    data = json.loads((out / "data.json").read_text())
    assert [machine["machine"] for machine in data] == ["hummer", "whiner"]
    assert sum(group["clips"] for machine in data for group in machine["clips"]) == 2 * (8 + 2 + 8)
    timing = json.loads((out / "timing.json").read_text())
    assert timing["training_seconds"] == run.timing.training_seconds > 0
    assert timing["scoring_seconds"] > 0
    assert timing["peak_memory_bytes"] > 50e6


def test_progress_covers_training_and_scoring(finished) -> None:
    _, _, said = finished
    assert [(done, total) for task, done, total in said if "training" in task] == [(n, 6) for n in range(1, 7)]
    scored = [(done, total) for task, done, total in said if task == "extracting features"]
    assert scored[-1] == (36, 36), "every clip once, for both views"
    assert [done for done, _ in scored] == sorted(done for done, _ in scored)


def test_scores_are_one_minus_the_largest_cosine_averaged_over_channels(finished, small_factory: Path) -> None:
    """Recomputed clip by clip: own reading of the files, numpy for the cosines."""
    run, out, _ = finished
    model = load_model(out / "model")

    def embedded(path: Path, channel: int) -> np.ndarray:
        waveform = torch.from_numpy(sf.read(path, dtype="float32")[0][:, channel].copy())
        with torch.inference_mode():
            embedding = model.embedder(waveform[None], torch.tensor([len(waveform)]))[0]
        return F.normalize(embedding.double(), dim=0).numpy()

    for entry in run.scores:
        folder = small_factory / entry.machine
        assert entry.names == tuple(sorted(path.name for path in (folder / "test").iterdir()))
        mean = np.zeros(len(entry.names))
        for channel in (0, 1):
            bank = np.stack([embedded(path, channel) for path in sorted((folder / "train").iterdir())])
            assert len(bank) == 10, "source and target"
            queries = np.stack([embedded(folder / "test" / name, channel) for name in entry.names])
            mean += 0.5 * (1.0 - (queries @ bank.T).max(axis=1))
        np.testing.assert_allclose(entry.scores, mean, rtol=0, atol=1e-6)
        assert np.ptp(entry.scores) > 1e-4


def test_results_are_those_of_the_score_files(finished) -> None:
    run, out, _ = finished
    read = read_scores(out / "scores")
    assert [entry.names for entry in read] == [entry.names for entry in run.scores]
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(read, run.scores, strict=True))
    assert run.results == evaluate_scores(read, GroundTruth.from_names(read))
    table = json.loads((out / "results.json").read_text())
    assert [system["name"] for system in table["systems"]] == ["tiny-fusion"]
    assert table["systems"][0]["all"]["score"]["mean"] == run.results.official_score


def test_second_system_uses_model_and_embeddings_again(
    finished, small_factory: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = finished
    before = contents(out / "model")
    monkeypatch.setattr("nearfar.pipeline.training.finetune", never)
    monkeypatch.setattr("nearfar.pipeline.cache.extract", never)
    monkeypatch.setattr("nearfar.models.embedder.Embedder.forward", never)
    near = small_recipe.with_changes(**{"name": "near", "scoring.views": ["near"]})
    run = run_system(near, small_factory, tmp_path / "near", model_folder=out / "model")
    assert isinstance(run, SystemRun)
    assert run.timing.training_seconds == finished[0].timing.training_seconds, (
        "of the model, whenever it was trained"
    )
    assert contents(out / "model") == before
    fusion = read_scores(out / "scores")
    assert all(not np.array_equal(a.scores, b.scores) for a, b in zip(run.scores, fusion, strict=True))
    assert not (tmp_path / "near" / "model").exists()


def test_same_run_again_changes_no_result(
    finished, small_factory: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, out, _ = finished
    before = contents(out)
    monkeypatch.setattr("nearfar.pipeline.training.finetune", never)
    monkeypatch.setattr("nearfar.pipeline.cache.extract", never)
    monkeypatch.setattr(module, "check_recordings", never)
    again = run_system(small_recipe, small_factory, out)
    assert contents(out) == before, "what made the results, and how long that took, as well"
    assert again is not None
    assert again.timing == first.timing


def test_other_scores_come_with_what_made_them(
    finished, small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    _, out, _ = finished
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    environment = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps(environment | {"torch": "of the first run"}))

    def torch_of(run: Path) -> str:
        return json.loads((run / "environment.json").read_text())["torch"]

    run_system(small_recipe, small_factory, copy)
    assert torch_of(copy) == "of the first run"
    file = copy / "scores" / "anomaly_score_hummer_section_00_test.csv"
    changed = file.read_text().splitlines()
    file.write_text("\n".join([changed[0].split(",")[0] + ",0.123", *changed[1:]]) + "\n")
    run_system(small_recipe, small_factory, copy)
    assert torch_of(copy) == torch.__version__, "other scores than these"
    (copy / "environment.json").write_text(json.dumps(environment | {"torch": "of the first run"}))
    run_system(small_recipe.with_changes(**{"threshold.false_alarm_rate": 0.2}), small_factory, copy)
    assert torch_of(copy) == torch.__version__, "another recipe"


def test_a_broken_clip_is_found_before_training(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = linked(small_factory, tmp_path / "factory")
    clip = factory / "whiner" / "test" / "section_00_target_test_anomaly_0001_noAttribute.wav"
    sound, rate = sf.read(clip, dtype="float32")
    sound[100, 1] = np.nan
    clip.unlink()
    sf.write(clip, sound, rate, subtype="FLOAT")
    monkeypatch.setattr("nearfar.pipeline.training.finetune", never)
    monkeypatch.setattr("nearfar.scoring.autoencoder.backend.train_autoencoder", never)
    said: list[tuple[str, int, int]] = []
    with pytest.raises(InputError, match=r"anomaly_0001_noAttribute\.wav: found 1 NaN .* in the far channel"):
        run_system(small_recipe, factory, tmp_path / "out", progress=lambda *what: said.append(what))
    assert {task for task, _, _ in said} == {"checking clips"}
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    one_epoch = load_recipe("ae-mse").with_changes(**{"autoencoder.epochs": 1})
    assert run_system(one_epoch, factory, tmp_path / "ae") is not None, "which reads the near channel only"


def test_a_warm_up_longer_than_training_is_shortened_with_a_warning(
    small_factory: Path, small_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    longer = small_recipe.with_changes(**{"training.steps": 20, "training.warmup_steps": 21})
    _, resolved = prepare_run(small_factory, longer)
    assert (resolved.training.warmup_steps, resolved.training.steps) == (2, 20)
    assert "training.warmup_steps is 21 of 20 steps" in caplog.text
    whole = longer.with_changes(**{"training.warmup_steps": 20})
    assert prepare_run(small_factory, whole)[1].training.warmup_steps == 20
    frozen = longer.with_changes(**{"training.adaptation": "none", "features.source": "log-mel"})
    assert prepare_run(small_factory, frozen)[1].training.warmup_steps == 21


@pytest.mark.parametrize("held", ["", "model"])
def test_a_folder_that_another_process_writes_is_refused_and_nothing_changes(
    finished, small_factory: Path, small_recipe: Recipe, tmp_path: Path, held: str
) -> None:
    out = Path(shutil.copytree(finished[1], tmp_path / "run"))
    before = contents(out)
    with (
        exclusive(out / held),
        pytest.raises(InputError, match="found another nearfar process that writes into it"),
    ):
        run_system(small_recipe, small_factory, out)
    assert contents(out) == before


def test_model_of_another_recipe_is_refused_and_nothing_changes(
    finished, small_factory: Path, small_recipe: Recipe
) -> None:
    _, out, _ = finished
    before = contents(out)
    other = small_recipe.with_changes(**{"name": "other", "training.learning_rate": 0.01})
    with pytest.raises(InputError, match="a model of another recipe, training clips or encoder weights") as caught:
        run_system(other, small_factory, out)
    assert str(out / "model") in str(caught.value)
    assert "Choose another output folder" in str(caught.value)
    assert contents(out) == before


def test_model_of_other_data_is_refused_and_nothing_changes(
    finished, small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    _, out, _ = finished
    before = contents(out)
    factory = linked(small_factory, tmp_path / "factory")
    one, other = sorted((factory / "hummer" / "train").iterdir())[:2]
    sound, rate = sf.read(other)
    one.unlink()
    sf.write(one, sound, rate)
    with pytest.raises(InputError, match="training clips or encoder weights"):
        run_system(small_recipe, factory, out)
    assert contents(out) == before


def test_checkpoint_of_another_recipe_is_refused_and_nothing_changes(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(task: str, done: int, total: int) -> None:
        if "training" in task and done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_system(small_recipe, small_factory, tmp_path, progress=stop)
    assert (tmp_path / "model" / "checkpoint.safetensors").is_file()
    before = contents(tmp_path)
    with pytest.raises(InputError, match="a checkpoint of other recipe"):
        run_system(small_recipe.with_changes(seed=3), small_factory, tmp_path)
    assert contents(tmp_path) == before
    assert run_system(small_recipe, small_factory, tmp_path) is not None


def test_new_test_clips_need_no_training(
    finished,
    small_factory: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_figures,
) -> None:
    """Evaluation clips hide their labels: they get scores, and there is no table."""
    _, out, _ = finished
    factory = linked(small_factory, tmp_path / "factory")
    for machine in ("hummer", "whiner"):
        for index, path in enumerate(sorted((factory / machine / "test").iterdir())):
            path.rename(path.with_name(f"section_00_{index:04d}.wav"))
    monkeypatch.setattr("nearfar.pipeline.training.finetune", never)
    with with_figures():
        run = run_system(small_recipe, factory, tmp_path / "out", model_folder=out / "model")
    assert run is not None
    assert run.results is None
    for entry, known in zip(run.scores, read_scores(out / "scores"), strict=True):
        assert entry.names == tuple(f"section_00_{index:04d}.wav" for index in range(8))
        assert np.array_equal(entry.scores, known.scores)
    assert {entry.machine for entry in read_scores(tmp_path / "out" / "scores")} == {"hummer", "whiner"}
    assert not list((tmp_path / "out").glob("results.*"))
    assert not (tmp_path / "out" / "figures").exists()


def test_machine_without_test_clips_only_trains(small_factory: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    factory = linked(small_factory, tmp_path / "factory")
    shutil.rmtree(factory / "whiner" / "test")
    run = run_system(small_recipe.with_changes(**{"training.steps": 1}), factory, tmp_path / "out")
    assert run is not None
    assert [entry.machine for entry in run.scores] == ["hummer"]
    assert [row.machine for row in run.results.machines] == ["hummer"]
    classes = json.loads((tmp_path / "out" / "model" / "model.json").read_text())["classes"]
    assert {name.split("|")[0] for name in classes} == {"hummer", "whiner"}


def test_data_without_any_test_clips_trains_a_model(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    factory = linked(small_factory, tmp_path / "factory")
    for machine in ("hummer", "whiner"):
        shutil.rmtree(factory / machine / "test")
    run = run_system(small_recipe.with_changes(**{"training.steps": 1}), factory, tmp_path / "out")
    assert run is not None
    assert (run.scores, run.results) == ((), None)
    assert load_model(tmp_path / "out" / "model").classes


def test_sections_have_banks_of_their_own(small_factory: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    factory = linked(small_factory, tmp_path / "factory")
    for split in ("train", "test"):  # whiner becomes section 01 of hummer
        for path in (factory / "whiner" / split).iterdir():
            path.rename(factory / "hummer" / split / path.name.replace("section_00", "section_01"))
    shutil.rmtree(factory / "whiner")
    run = run_system(small_recipe.with_changes(**{"training.steps": 1}), factory, tmp_path / "out")
    assert run is not None
    assert [(entry.machine, entry.section, len(entry.names)) for entry in run.scores] == [
        ("hummer", "00", 8),
        ("hummer", "01", 8),
    ]
    for path in (factory / "hummer" / "train").glob("section_01_*"):
        path.unlink()
    with pytest.raises(InputError, match="test clips of section 01 without training clips"):
        run_system(small_recipe.with_changes(**{"training.steps": 1}), factory, tmp_path / "other")


def test_simulated_data_is_named_in_every_table(
    finished, small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    _, out, _ = finished
    factory = linked(small_factory, tmp_path / "factory")
    (factory / "SIMULATED.md").write_text("Simulated.")
    run_system(small_recipe, factory, tmp_path / "out", model_folder=out / "model")
    for suffix in ("md", "csv", "json"):
        assert "Simulated data" in (tmp_path / "out" / f"results.{suffix}").read_text()
        assert "Simulated data" not in (out / f"results.{suffix}").read_text()


def test_near_system_takes_mono_recordings(small_factory: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    factory = linked(small_factory, tmp_path / "factory")
    for path in factory.rglob("*.wav"):
        sound, rate = sf.read(path)
        path.unlink()
        sf.write(path, sound[:, 0], rate)
    near = {"training.views": ["near"], "scoring.views": ["near"], "training.steps": 1}
    run = run_system(small_recipe.with_changes(**near), factory, tmp_path / "near")
    assert run is not None
    assert run.results is not None
    classes = json.loads((tmp_path / "near" / "model" / "model.json").read_text())["classes"]
    assert all(name.endswith("|near") for name in classes)
    with pytest.raises(InputError, match="found one channel; expected two"):
        prepare_run(factory, small_recipe)


def test_scoring_a_channel_that_is_not_trained_is_refused(small_factory: Path, small_recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"scoring\.views: found far, on which the model is not trained"):
        prepare_run(small_factory, small_recipe.with_changes(**{"training.views": ["near"]}))


def test_clip_length_is_that_of_the_longest_clip(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    factory = linked(small_factory, tmp_path / "factory")
    for path in (factory / "whiner").rglob("*.wav"):
        sound, rate = sf.read(path)
        path.unlink()
        sf.write(path, np.concatenate([sound, sound[: rate // 2]]), rate)
    _, resolved = prepare_run(factory, small_recipe)
    assert resolved.audio.clip_seconds == 1.5
    _, resolved = prepare_run(factory, small_recipe.with_changes(**{"audio.clip_seconds": 2.0}))
    assert resolved.audio.clip_seconds == 2.0
    with pytest.raises(InputError, match=r"whiner.*found a clip of 1\.5 s; expected at most the recipe's 1\.25 s"):
        prepare_run(factory, small_recipe.with_changes(**{"audio.clip_seconds": 1.25}))
