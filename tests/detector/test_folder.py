"""The folder of a detector: its files, how they are written, and errors where they cannot be read."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.command import Nearfar

import nearfar
from nearfar.detector import store
from nearfar.errors import InputError, NearfarError
from nearfar.files import signed, without_signature
from nearfar.thresholds.file import THRESHOLDS


@pytest.fixture
def saved(fitted: nearfar.Detector, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "detector")
    return tmp_path / "detector"


def test_a_detector_comes_back_as_it_was(fitted: nearfar.Detector, saved: Path, small_factory: Path) -> None:
    loaded = nearfar.Detector.load(saved)
    files = sorted(small_factory.glob("*/test/*.wav"))
    assert list(loaded.score_many(files)) == list(fitted.score_many(files))
    assert loaded.thresholds == fitted.thresholds
    assert loaded.calibrations == fitted.calibrations
    loaded.save(saved.parent / "again")
    for name in (store.BANKS, store.CALIBRATION, THRESHOLDS):
        assert (saved.parent / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_the_folder_holds_numbers_and_text_only(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "detector.json",
        "banks.safetensors",
        "calibration.json",
        "thresholds.json",
    }
    card = json.loads((saved / "detector.json").read_text())
    assert card["clip"] == {
        "sample_rate_hz": 16000,
        "seconds": 1.0,
        "hop_seconds": 1.0,
        "channels": {"near": 0, "far": 1},
    }
    assert card["nearfar"] == nearfar.__version__
    assert card["encoder"] is None
    assert card["recipe"]["name"] == "auto"
    assert card["files"]["banks.safetensors"] == store.file_sha256(saved / "banks.safetensors")
    assert [entry["machine"] for entry in card["banks"]] == ["hummer", "whiner"]
    assert "torch" in card["made_with"]


def test_existing_files_are_not_lost(
    fitted: nearfar.Detector, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"found a detector; expected no such folder.*replace=True"):
        fitted.save(saved)
    other = saved.parent / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="found something other than a detector"):
        fitted.save(other, replace=True)
    assert (other / "thesis.txt").read_text() == "mine"

    before = (saved / "thresholds.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_card", full)
        with pytest.raises(NearfarError, match=r"No space left on device.*nothing was lost"):
            fitted.with_thresholds(0.5).save(saved, replace=True)
    assert (saved / "thresholds.json").read_bytes() == before
    assert {path.name for path in saved.parent.iterdir()} == {"detector", "other"}

    fitted.with_thresholds(0.5).save(saved, replace=True)
    assert {path.name for path in saved.parent.iterdir()} == {"detector", "other"}
    assert nearfar.Detector.load(saved).thresholds[0].false_alarm_rate == 0.5


def test_a_program_that_is_killed_leaves_the_old_detector_or_the_new_one(
    fitted: nearfar.Detector, saved: Path, small_factory: Path
) -> None:
    """A program replaces a detector by itself with other thresholds, over and over, until it is killed."""
    code = (
        "import sys, nearfar\n"
        "detector = nearfar.Detector.load(sys.argv[1])\n"
        "both = [detector.with_thresholds(rate) for rate in (0.3, 0.4)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for each in both:\n"
        "        each.save(sys.argv[1], replace=True)\n"
    )
    random = np.random.default_rng(0)
    file = sorted(small_factory.glob("*/test/*.wav"))[0]
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(saved)], stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            time.sleep(random.uniform(0, 0.3))
            program.kill()
        loaded = nearfar.Detector.load(saved)
        assert {entry.false_alarm_rate for entry in loaded.thresholds} < {0.1, 0.3, 0.4, 1 / 11}
        assert loaded.score(file).score == fitted.score(file).score
    fitted.save(saved, replace=True)
    assert nearfar.Detector.load(saved).thresholds == fitted.thresholds


def test_a_detector_that_was_moved_aside_comes_back(fitted: nearfar.Detector, saved: Path) -> None:
    """As where a program is killed between the two renames that replace a detector."""
    aside, partial = (saved.with_name(f".detector.77.{what}") for what in ("old", "partial"))
    saved.rename(aside)
    partial.mkdir()
    assert nearfar.Detector.load(saved).thresholds == fitted.thresholds
    assert not aside.exists()
    assert partial.exists()
    fitted.save(saved, replace=True)
    assert {path.name for path in saved.parent.iterdir()} == {"detector"}


def without_hashes(folder: Path) -> None:
    """Make a card as earlier versions wrote it, without hashes of itself and of the calibration."""
    card = json.loads((folder / "detector.json").read_text())
    card["sha256"] = {"banks.safetensors": card.pop("files")["banks.safetensors"]}
    (folder / "detector.json").write_text(json.dumps(card))


@pytest.mark.parametrize("digit", ["value", "false_alarm_rate", "rule", "name"])
def test_a_threshold_that_its_rule_does_not_find_is_refused(saved: Path, digit: str) -> None:
    rows = json.loads((saved / "thresholds.json").read_text())
    changed = {"value": rows[0]["value"] * 1.1, "false_alarm_rate": 0.5, "rule": "empirical", "name": "confozmal"}
    rows[0][{"name": "rule"}.get(digit, digit)] = changed[digit]
    (saved / "thresholds.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"thresholds\.json: found .*expected what the rule finds"):
        nearfar.Detector.load(saved)


def test_a_number_that_a_person_gave_is_refused_where_a_digit_changed(
    saved: Path, nearfar_command: Nearfar
) -> None:
    assert nearfar_command("threshold", saved, "--machine", "whiner", "--value", 12.5).code == 0
    rows = json.loads((saved / "thresholds.json").read_text())
    assert [row["rule"] for row in rows] == ["conformal", "given"]
    assert rows[1] == signed(without_signature(rows[1]))
    rows[1]["value"] = 12.6
    (saved / "thresholds.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"thresholds\.json: found a threshold of whiner .*12\.6.*set a number"):
        nearfar.Detector.load(saved)
    assert nearfar_command("threshold", saved, "--machine", "hummer", "--value", 1).code == 2
    assert nearfar_command("threshold", saved, "--machine", "whiner", "--value", 12.6).code == 0
    assert nearfar.Detector.load(saved).thresholds[1].value == 12.6
    del rows[1]["sha256"]  # as earlier versions wrote it
    (saved / "thresholds.json").write_text(json.dumps(rows))
    assert nearfar.Detector.load(saved).thresholds[1].value == 12.6


def test_a_card_as_earlier_versions_signed_it_loads(fitted: nearfar.Detector, saved: Path) -> None:
    card = without_signature(json.loads((saved / "detector.json").read_text()))
    files = card.pop("files")
    tree = {**card, "sha256": files}
    written = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
    (saved / "detector.json").write_text(json.dumps({**card, "sha256": {**files, "detector.json": written}}))
    assert nearfar.Detector.load(saved).thresholds == fitted.thresholds
    card["weights_hash"] = "other"
    (saved / "detector.json").write_text(json.dumps({**card, "sha256": {**files, "detector.json": written}}))
    with pytest.raises(InputError, match=r"detector\.json: found .*SHA-256"):
        nearfar.Detector.load(saved)


def test_an_empty_folder_will_do(fitted: nearfar.Detector, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    fitted.save(tmp_path / "new")
    assert store.is_detector(tmp_path / "new")


@pytest.mark.parametrize("name", ["detector.json", "calibration.json", "thresholds.json"])
@pytest.mark.parametrize("text", ["{", "[{}]", '{"format": 1}', ""])
def test_corrupt_json_is_named(saved: Path, name: str, text: str) -> None:
    (saved / name).write_text(text)
    with pytest.raises(
        InputError, match=rf"{name}: found a file that cannot be read.*expected what nearfar fit wrote"
    ):
        nearfar.Detector.load(saved)


@pytest.mark.parametrize("name", ["banks.safetensors", "calibration.json", "thresholds.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: found a file that cannot be read \(.*No such file"):
        nearfar.Detector.load(saved)


def test_banks_of_another_detector_are_refused(saved: Path) -> None:
    content = bytearray((saved / "banks.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "banks.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"banks\.safetensors: found .*SHA-256"):
        nearfar.Detector.load(saved)


def test_scores_of_other_machines_are_refused(saved: Path) -> None:
    tree = json.loads((saved / "calibration.json").read_text())
    (saved / "calibration.json").write_text(json.dumps(tree[:1]))
    with pytest.raises(InputError, match=r"calibration\.json: found .*SHA-256"):
        nearfar.Detector.load(saved)
    without_hashes(saved)
    with pytest.raises(InputError, match=r"calibration\.json: found scores of other machines"):
        nearfar.Detector.load(saved)


def test_features_of_another_computation_are_refused(saved: Path) -> None:
    card = json.loads((saved / "detector.json").read_text())
    (saved / "detector.json").write_text(json.dumps(card | {"computation": 1}))
    with pytest.raises(InputError, match=r"detector\.json: found .*SHA-256"):
        nearfar.Detector.load(saved)
    without_hashes(saved)
    with pytest.raises(InputError, match=r"detector\.json: found features computed as.*Fit the detector again"):
        nearfar.Detector.load(saved)


def test_a_folder_without_a_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no such folder"):
        nearfar.Detector.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"found no detector\.json"):
        nearfar.Detector.load(tmp_path)


def test_a_detector_can_be_moved(
    fitted: nearfar.Detector, saved: Path, small_factory: Path, tmp_path: Path
) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    file = sorted(small_factory.glob("*/test/*.wav"))[0]
    assert nearfar.Detector.load(tmp_path / "elsewhere").score(file) == fitted.score(file)


def test_folders_of_earlier_versions_load(tmp_path: Path, small_factory: Path) -> None:
    """Their recipes have the tables and keys of then, and their thresholds a ``method``."""
    fitted, saved = nearfar.Detector.fit(small_factory, "nearfar-best"), tmp_path / "saved"
    fitted.save(saved)
    thresholds = json.loads((saved / "thresholds.json").read_text())
    for entry in thresholds:
        entry["method"] = entry.pop("rule")
        del entry["sha256"]
    (saved / "thresholds.json").write_text(json.dumps(thresholds))
    card = json.loads((saved / "detector.json").read_text())
    recipe = card["recipe"]
    del recipe["threshold"], recipe["calibration"]
    recipe["method"] = "nearest-normal"
    recipe["scoring"]["channels"] = recipe["scoring"].pop("views")
    del recipe["scoring"]["backend"]
    recipe["training"]["channels"] = recipe["training"].pop("views")
    del recipe["audio"]["hop_seconds"]
    recipe["decision"] = {"threshold": "gamma", "quantile": 0.9}
    recipe["detection"] = {
        "calibration": "leave-one-out",
        "held_out": 0.25,
        "threshold": "conformal",
        "false_alarm_rate": 0.125,
        "domains": "pooled",
        "hop_seconds": 0.5,
    }
    (saved / "detector.json").write_text(json.dumps(card))
    without_hashes(saved)

    loaded = nearfar.Detector.load(saved)
    assert loaded.thresholds == fitted.thresholds
    expected = fitted.recipe.with_changes(
        **{"calibration.held_out": 0.25, "threshold.false_alarm_rate": 0.125, "audio.hop_seconds": 0.5}
    )
    assert loaded.recipe == expected
    file = sorted(small_factory.glob("*/test/*.wav"))[0]
    assert loaded.score(file) == fitted.score(file)
    loaded.save(saved.parent / "rewritten")
    assert nearfar.Detector.load(saved.parent / "rewritten").recipe == expected


def test_what_a_killed_process_left_is_restored_or_removed(
    fitted: nearfar.Detector, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, partial = saved.with_name(".detector.7.old"), saved.with_name(".detector.7.partial")
    saved.replace(old)  # as between the two steps of a replacement where folders cannot be exchanged
    partial.mkdir()
    with pytest.raises(InputError, match="found a detector"):
        fitted.save(saved)
    assert nearfar.Detector.load(saved).thresholds == fitted.thresholds
    assert list(saved.parent.iterdir()) == [saved]
    for exchanges in (True, False):
        if not exchanges:
            monkeypatch.setattr(store, "exchange", lambda one, other: False)
        fitted.with_thresholds(0.2).save(saved, replace=True)
        fitted.save(saved, replace=True)
        assert nearfar.Detector.load(saved).thresholds == fitted.thresholds
        assert list(saved.parent.iterdir()) == [saved]


def test_a_message_of_a_damaged_model_names_its_file(
    small_factory: Path, small_recipe: nearfar.Recipe, tmp_path: Path
) -> None:
    recipe = small_recipe.with_changes(**{"calibration.method": "split", "training.steps": 2})
    nearfar.Detector.fit(small_factory, recipe).save(tmp_path / "trained")
    head = tmp_path / "trained" / "model" / "head.safetensors"
    content = bytearray(head.read_bytes())
    content[-1] ^= 1
    head.write_bytes(content)
    with pytest.raises(
        InputError, match=r"trained/model/head\.safetensors: found a file that is not the one written"
    ):
        nearfar.Detector.load(tmp_path / "trained")
