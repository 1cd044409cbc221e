"""The baselines from recordings to tables: trained once, reused, resumed by machine, refused where unfit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile as sf
import torch
from typer.testing import CliRunner

from nearfar.challenge.reproduce import reproduce
from nearfar.challenge.run import run_system
from nearfar.challenge.suites import suite_recipes
from nearfar.cli import app
from nearfar.config import Recipe, load_recipe
from nearfar.data.clips import Clip
from nearfar.data.layouts import read_dataset
from nearfar.errors import InputError, NearfarError
from nearfar.executors import LocalExecutor
from nearfar.pipeline import scoring
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.preparation import resolve_run
from nearfar.pipeline.training import is_trained
from nearfar.scoring.autoencoder import backend as module
from nearfar.scoring.autoencoder.network import load_autoencoder

QUICK = {"autoencoder.epochs": 3, "autoencoder.batch_size": 64}


def quick(name: str = "ae-mse", **changes: object) -> Recipe:
    return load_recipe(name).with_changes(**QUICK, **changes)


@pytest.fixture(scope="module")
def trained(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders ``mse`` and ``mahala`` and their ``model``, made in this order."""
    place = tmp_path_factory.mktemp("baselines")
    for kind in ("mse", "mahala"):
        run_system(quick(f"ae-{kind}"), small_factory, place / kind, model_folder=place / "model")
    return place


def resolved(recipe: Recipe, data: Path) -> Recipe:
    return resolve_run(read_dataset(data), recipe)


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def scores_of(run: Path) -> dict[str, float]:
    rows = [
        line.rsplit(",", 1)
        for path in sorted((run / "scores").glob("anomaly_score_*.csv"))
        for line in path.read_text().splitlines()
    ]
    return {name: float(score) for name, score in rows}


# --- what comes out ---------------------------------------------------------------------------------------------


def test_a_run_writes_what_every_system_writes(trained: Path) -> None:
    for kind in ("mse", "mahala"):
        names = {path.name for path in (trained / kind).iterdir()}
        assert {"recipe.toml", "environment.json", "results.md", "thresholds.json", "scores"} <= names
        thresholds = json.loads((trained / kind / "thresholds.json").read_text())
        assert {entry["recordings"] for entry in thresholds} == {10}
        assert json.loads((trained / kind / "environment.json").read_text())["total_parameters"] == 2 * 267_928


def test_the_two_scores_share_one_training(trained: Path) -> None:
    seconds = [
        json.loads((trained / kind / "timing.json").read_text())["training_seconds"] for kind in ("mse", "mahala")
    ]
    assert seconds[0] == seconds[1] > 0
    assert sorted(times(trained / "model")) == [
        f"autoencoder_{machine}.{suffix}" for machine in ("hummer", "whiner") for suffix in ("json", "safetensors")
    ]
    card = json.loads((trained / "model" / "autoencoder_hummer.json").read_text())
    assert card["recipe"]["name"] == "ae-mse"
    assert card["training"]["clips"] == 10
    assert card["training"]["vectors"] == 10 * (1 + 16_000 // 512 - 4)
    assert [record["epoch"] for record in card["training"]["history"]] == [0, 1, 2]


def by_hand(clip: Path, model_file: Path) -> tuple[float, float]:
    """MSE and published Mahalanobis score of one clip, with librosa, plain loops and the N×N matrix.

    Two clips of a second are too few for a target covariance, so the source's stands in.
    """
    near = sf.read(clip, dtype="float32")[0][:, 0]
    mel = librosa.feature.melspectrogram(y=near, sr=16_000, n_fft=1024, hop_length=512, n_mels=128)
    log_mel = 10 * np.log10(np.maximum(mel, 2.0**-52))
    model = load_autoencoder(model_file)
    vectors = [np.concatenate([log_mel[:, t + k] for k in range(5)]) for t in range(log_mel.shape[1] - 4)]
    inputs = torch.tensor(np.array(vectors), dtype=torch.float32)
    delta = (model.network(inputs) - inputs).double().numpy()
    mse = float(np.mean(delta**2))
    frames = delta.reshape(-1, 128)
    return mse, float((frames @ np.linalg.inv(model.published[0].double().numpy()) @ frames.T).mean())


def test_scores_equal_those_worked_out_by_hand(small_factory: Path, trained: Path) -> None:
    for machine in ("hummer", "whiner"):
        path = sorted((small_factory / machine / "test").iterdir())[2]
        mse, mahala = by_hand(path, trained / "model" / f"autoencoder_{machine}.safetensors")
        file = f"scores/anomaly_score_{machine}_section_00_test.csv"
        for kind, expected in (("mse", mse), ("mahala", mahala)):
            rows = dict(line.split(",") for line in (trained / kind / file).read_text().splitlines())
            assert len(rows) == 8
            assert float(rows[path.name]) == pytest.approx(expected, rel=2e-3), (machine, kind)


def test_a_domain_with_too_few_recordings_is_named(
    small_factory: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_system(quick("ae-mahala"), small_factory, tmp_path, model_folder=trained / "model")
    assert (
        "hummer: too few target recordings for a covariance of their residuals; that of the source" in caplog.text
    )


def test_the_textbook_form_uses_the_same_model_and_scores_otherwise(
    small_factory: Path, trained: Path, tmp_path: Path
) -> None:
    before = times(trained / "model")
    recipe = quick("ae-mahala", **{"autoencoder.textbook": True})
    run_system(recipe, small_factory, tmp_path, model_folder=trained / "model")
    assert times(trained / "model") == before
    published, textbook = scores_of(trained / "mahala"), scores_of(tmp_path)
    assert all(textbook[name] > published[name] for name in published)


def test_only_the_near_channel_is_read(small_factory: Path, trained: Path, tmp_path: Path) -> None:
    data = copied(small_factory, tmp_path / "data")
    for path in data.rglob("*.wav"):
        samples, rate = sf.read(path, dtype="int16")
        sf.write(path, samples[:, 0], rate, subtype="PCM_16")
    run_system(quick(), data, tmp_path / "run")
    assert scores_of(tmp_path / "run") == scores_of(trained / "mse")


# --- reused, resumed, refused -------------------------------------------------------------------------------


def test_a_killed_training_resumes_with_the_machine_that_is_not_trained(
    small_factory: Path, trained: Path, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(task: str, done: int, total: int) -> None:
        if "whiner" in task and done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run_system(quick(), small_factory, tmp_path, progress=kill)
    kept = times(tmp_path / "model")
    assert sorted(kept) == ["autoencoder_hummer.json", "autoencoder_hummer.safetensors"]
    tasks = []
    run_system(quick(), small_factory, tmp_path, progress=lambda task, *_: tasks.append(task))
    assert "training autoencoder of whiner" in tasks
    assert "training autoencoder of hummer" not in tasks
    assert kept.items() <= times(tmp_path / "model").items()
    assert scores_of(tmp_path) == scores_of(trained / "mse")


def test_weights_without_their_card_are_trained_again(small_factory: Path, trained: Path, tmp_path: Path) -> None:
    model = copied(trained / "model", tmp_path / "model")
    (model / "autoencoder_hummer.json").unlink()
    (model / "autoencoder_hummer.safetensors").write_bytes(b"cut off")
    run_system(quick(), small_factory, tmp_path / "run", model_folder=model)
    assert scores_of(tmp_path / "run") == scores_of(trained / "mse")


@pytest.mark.parametrize("change", [{"seed": 5}, {"autoencoder.epochs": 4}])
def test_a_model_of_another_recipe_is_refused(
    small_factory: Path, trained: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    recipe = quick().with_changes(**change)
    with pytest.raises(InputError, match=r"hummer\.json: found an autoencoder of another recipe"):
        run_system(recipe, small_factory, tmp_path / "run", model_folder=trained / "model")
    assert not (tmp_path / "run").exists()


def test_a_model_of_other_recordings_is_refused(small_factory: Path, trained: Path, tmp_path: Path) -> None:
    data = copied(small_factory, tmp_path / "data")
    next((data / "whiner" / "train").iterdir()).unlink()
    with pytest.raises(
        InputError, match=r"whiner\.json: found an autoencoder of another recipe or other training"
    ):
        run_system(quick(), data, tmp_path / "run", model_folder=trained / "model")


def test_a_flipped_bit_of_a_model_or_its_card_is_refused(
    small_factory: Path, trained: Path, tmp_path: Path
) -> None:
    for name in ("autoencoder_whiner.json", "autoencoder_whiner.safetensors"):
        model = copied(trained / "model", tmp_path / name)
        content = bytearray((model / name).read_bytes())
        place = content.index(b'"seconds": ') + 11 if name.endswith(".json") else len(content) - 1
        content[place] ^= 1
        (model / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: found .* \(SHA-256 .*, not "):
            run_system(quick(), small_factory, tmp_path / "run", model_folder=model)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_card_that_cannot_be_read_is_refused(
    small_factory: Path, trained: Path, tmp_path: Path, text: str
) -> None:
    model = copied(trained / "model", tmp_path / "model")
    (model / "autoencoder_whiner.json").write_text(text)
    with pytest.raises(InputError, match=r"whiner\.json: found a model card that cannot be read"):
        is_trained(resolved(quick(), small_factory), read_dataset(small_factory), model)


def test_a_machine_without_test_clips_is_not_trained(small_factory: Path, tmp_path: Path) -> None:
    data = copied(small_factory, tmp_path / "data")
    shutil.rmtree(data / "hummer" / "test")
    run_system(quick(), data, tmp_path / "run")
    assert sorted(times(tmp_path / "run" / "model")) == [
        "autoencoder_whiner.json",
        "autoencoder_whiner.safetensors",
    ]


@pytest.mark.parametrize("views", [["near", "far"], ["far"], ["cancelled"]], ids="-".join)
def test_other_views_than_near_are_refused(small_factory: Path, tmp_path: Path, views: list[str]) -> None:
    with pytest.raises(InputError, match=r"scoring\.views: found .*'autoencoder'; expected \[\"near\"\]"):
        run_system(quick(**{"scoring.views": views}), small_factory, tmp_path)


def test_other_features_than_its_front_end_s_are_refused(small_factory: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"features\.source: found 'log-mel' with .*'autoencoder'; expected 'slaney'"
    ):
        run_system(quick(**{"features.source": "log-mel"}), small_factory, tmp_path)


def test_a_clip_shorter_than_a_vector_is_refused(small_factory: Path, tmp_path: Path) -> None:
    data = copied(small_factory, tmp_path / "data")
    for path in (data / "hummer").rglob("*.wav"):
        samples, rate = sf.read(path, dtype="int16")
        sf.write(path, samples[:2_000], rate, subtype="PCM_16")
    with pytest.raises(InputError, match=r"hummer: found clips of 4 frames; expected at least 5"):
        run_system(quick(), data, tmp_path / "run")


def test_a_singular_covariance_is_named(
    small_factory: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def singular(covariances: object) -> None:
        raise ValueError("the covariances of the residuals are singular")

    monkeypatch.setattr(module, "precisions", singular)
    with pytest.raises(InputError, match=r"hummer: found .*too few or too alike .*residuals are singular"):
        run_system(quick("ae-mahala"), small_factory, tmp_path, model_folder=trained / "model")


def test_helper_processes_of_a_distributed_launch_write_models_and_no_results(
    small_factory: Path, tmp_path: Path
) -> None:
    class Helper(LocalExecutor):
        is_main = False

    assert run_system(quick(), small_factory, tmp_path, executor=Helper()) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_named_and_what_is_whole_is_kept(
    small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = module.save_autoencoder

    def full(path: Path, model: object) -> None:
        if "whiner" in path.name:
            raise OSError(28, "No space left on device")
        save(path, model)

    monkeypatch.setattr(module, "save_autoencoder", full)
    with pytest.raises(NearfarError, match=r"cannot write the model of whiner .*No space left"):
        run_system(quick(), small_factory, tmp_path)
    assert sorted(times(tmp_path / "model")) == ["autoencoder_hummer.json", "autoencoder_hummer.safetensors"]


# --- one model per machine, scores by section -------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sections(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine hummer, with half of its clips in another section."""
    root = tmp_path_factory.mktemp("sections")
    for path in sorted((small_factory / "hummer").rglob("*.wav")):
        section = "01" if int(path.name.split("_")[5]) % 2 else "00"
        to = root / "hummer" / path.parent.name / path.name.replace("section_00", f"section_{section}")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return root


def test_sections_of_a_machine_share_a_model_and_have_thresholds_of_their_own(
    two_sections: Path, tmp_path: Path
) -> None:
    run_system(quick(), two_sections, tmp_path)
    assert sorted(times(tmp_path / "model")) == ["autoencoder_hummer.json", "autoencoder_hummer.safetensors"]
    card = json.loads((tmp_path / "model" / "autoencoder_hummer.json").read_text())
    assert card["training"]["clips"] == 10, "of both sections"
    assert json.loads((tmp_path / "environment.json").read_text())["total_parameters"] == 267_928
    scores = scores_of(tmp_path)
    assert len(scores) == 8
    model = tmp_path / "model" / "autoencoder_hummer.safetensors"
    for name, score in scores.items():
        assert score == pytest.approx(by_hand(two_sections / "hummer" / "test" / name, model)[0], rel=2e-3)
    thresholds = {entry["section"]: entry for entry in json.loads((tmp_path / "thresholds.json").read_text())}
    assert {section: entry["recordings"] for section, entry in thresholds.items()} == {"00": 5, "01": 5}


def test_thresholds_come_from_the_scores_of_the_section_s_training_clips(
    two_sections: Path, tmp_path: Path
) -> None:
    run_system(quick(**{"threshold.rule": "empirical"}), two_sections, tmp_path)
    model = tmp_path / "model" / "autoencoder_hummer.safetensors"
    found = json.loads((tmp_path / "thresholds.json").read_text())
    assert [entry["section"] for entry in found] == ["00", "01"]
    for entry in found:
        clips = sorted((two_sections / "hummer" / "train").glob(f"section_{entry['section']}_*"))
        expected = np.quantile([by_hand(clip, model)[0] for clip in clips], 0.9)
        assert entry["value"] == pytest.approx(expected, rel=2e-3)
        assert not entry["guaranteed"], "training clips are scored by a model that was trained on them"


def test_a_section_alone_is_scored_with_the_model_of_all_sections(two_sections: Path, tmp_path: Path) -> None:
    dataset, recipe = read_dataset(two_sections), resolved(quick(), two_sections)
    features = clip_features(recipe)
    both, parameters, seconds = scoring.score_machines(
        recipe, dataset, scoring.tested_groups(dataset), features, tmp_path
    )
    assert (parameters, seconds > 0) == (267_928, True)
    assert is_trained(recipe, dataset, tmp_path)
    groups = {key: pair for key, pair in scoring.tested_groups(dataset).items() if key[1] == "01"}
    (alone,), _, again = scoring.score_machines(recipe, dataset, groups, features, tmp_path)
    assert again == pytest.approx(seconds, abs=1e-3), "loaded, and not trained again"
    np.testing.assert_array_equal(alone.test.scores, both[1].test.scores)
    np.testing.assert_array_equal(alone.calibration.scores(), both[1].calibration.scores())


def clip_features(recipe: Recipe) -> Callable[[Sequence[Clip]], dict[str, torch.Tensor]]:
    extractor, cache = build_extractor(recipe), FeatureCache(None)
    return lambda clips: cache.get(extractor, clips)


# --- in the table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["report", "tiny"])
def test_the_baselines_come_first_in_the_table(suite: str) -> None:
    names = [recipe.name for recipe in suite_recipes(suite)]
    assert names[:2] == ["ae-mse", "ae-mahala"]
    assert len(names) == 6


def test_systems_can_be_left_out_and_keep_their_order() -> None:
    assert [recipe.name for recipe in suite_recipes("report", ["eat-near", "eat-fusion"])] == [
        "eat-fusion",
        "eat-near",
    ]
    with pytest.raises(InputError, match=r"systems: found 'tiny-near', which is not in the suite report"):
        suite_recipes("report", ["tiny-near"])
    with pytest.raises(InputError, match=r"^suite: found .small."):
        suite_recipes("small")


@pytest.mark.slow
def test_reproduce_trains_one_autoencoder_per_machine_and_seed(small_factory: Path, tmp_path: Path) -> None:
    recipes = [recipe.with_changes(**QUICK) for recipe in suite_recipes("tiny", ["ae-mse", "ae-mahala"])]
    finished = reproduce(recipes, small_factory, tmp_path, seeds=(0, 1))
    assert finished is not None
    assert finished.table is not None
    assert [column.name for column in finished.table.columns] == ["ae-mse", "ae-mahala"]
    models = [sorted(path.name for path in folder.glob("*.json")) for folder in tmp_path.glob("models/*")]
    assert models == [["autoencoder_hummer.json", "autoencoder_whiner.json"]] * 2
    assert scores_of(tmp_path / "seed_0" / "ae-mse") != scores_of(tmp_path / "seed_1" / "ae-mse")


def test_the_command_line_leaves_systems_out(small_factory: Path, tmp_path: Path) -> None:
    options = ["--suite", "tiny", "--data", str(small_factory), "--out", str(tmp_path), "--json"]
    settings = ["--set", "autoencoder.epochs=1"]
    done = CliRunner().invoke(app, ["reproduce", *options, *settings, "--systems", "ae-mahala"])
    assert done.exit_code == 0, done.output
    assert [system["name"] for system in json.loads(done.stdout)["systems"]] == ["ae-mahala"]
