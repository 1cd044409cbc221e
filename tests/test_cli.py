"""Every command once: its output and its exit code."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import typer
from safetensors.numpy import load_file
from tests.command import Nearfar

import nearfar
from nearfar import cli
from nearfar.challenge import demo
from nearfar.challenge.suites import SUITES
from nearfar.cli.messages import in_flags
from nearfar.data.simulate import FactoryPlan
from nearfar.errors import InputError, MultipleInputError, NearfarError
from nearfar.pipeline import training as training_module
from nearfar.pooling import POOLINGS
from nearfar.thresholds import RULES

SHORT = [
    text
    for setting in ("steps=2", "batch_size=4", "warmup_steps=1", "checkpoint_every=1")
    for text in ("--set", f"training.{setting}")
]


@pytest.fixture(scope="module")
def run_folder(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the near system, made from the command line."""
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["run", "tiny-near", "--data", str(small_factory), "--out", str(out), *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nearfar", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code
    return out


def test_version(nearfar_command: Nearfar) -> None:
    assert nearfar_command("--version") == (0, f"nearfar {nearfar.__version__}\n", "")


def test_help_lists_the_commands(nearfar_command: Nearfar) -> None:
    finished = nearfar_command("--help")
    assert finished.code == 0
    for command in all_commands():
        assert f" {command.partition(' ')[0]} " in finished.out
        assert nearfar_command(*command.split(), "--help").code == 0


def test_errors_of_the_installed_command(tmp_path: Path) -> None:
    """In a process of its own: no traceback."""
    (tmp_path / "mine.txt").touch()
    failed = subprocess.run(
        [sys.executable, "-m", "nearfar", "simulate", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"nearfar: {tmp_path}: found a folder that is not empty; expected")
    assert "Traceback" not in failed.stderr


def test_data_as_table_and_as_json(nearfar_command: Nearfar, small_factory: Path) -> None:
    table = nearfar_command("data", small_factory)
    assert table.code == 0
    assert "hummer" in table.out
    assert "8 source, 2 target" in table.out
    assert "16000 Hz" in table.out
    tree = json.loads(nearfar_command("data", small_factory, "--json").out)
    assert [machine["machine"] for machine in tree["machines"]] == ["hummer", "whiner"]
    for machine in tree["machines"]:
        assert {(c["split"], c["domain"], c["label"]): c["clips"] for c in machine["clips"]} == {
            ("train", "source", "normal"): 8,
            ("train", "target", "normal"): 2,
            ("test", "source", "normal"): 2,
            ("test", "source", "anomaly"): 2,
            ("test", "target", "normal"): 2,
            ("test", "target", "anomaly"): 2,
        }
        assert machine["channels"] == [2]
        assert machine["sample_rates_hz"] == [16000]
        assert machine["shortest_seconds"] == machine["longest_seconds"] == 1.0


def test_data_checks_channels_where_asked(nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    factory = tmp_path / "factory"
    shutil.copytree(small_factory / "hummer", factory / "hummer")
    assert "show no fault" in nearfar_command("data", factory, "--check-channels").out
    for path in (factory / "hummer" / "train").glob("*target*.wav"):
        samples, rate_hz = sf.read(path)
        samples[:, 1] = 0.0
        sf.write(path, samples, rate_hz)
    found = nearfar_command("data", factory, "--check-channels")
    assert found.code == 0
    assert "warning hummer: In 2 of 10 recordings that were checked, such as section_00_target" in found.out
    (warning,) = json.loads(nearfar_command("data", factory, "--check-channels", "--json").out)["channel_warnings"]
    assert (warning["kind"], warning["machine"], len(warning["files"])) == ("dead", "hummer", 2)
    (warning,) = json.loads(
        nearfar_command("data", factory, "--check-channels", "--json", "--near", 1, "--far", 0).out
    )["channel_warnings"]
    assert "the near channel is silent" in warning["message"]
    assert "channel_warnings" not in json.loads(nearfar_command("data", factory, "--json").out)


def test_names_with_brackets_are_printed_as_they_are(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    factory = tmp_path / "[bold]factory"
    shutil.copytree(small_factory / "hummer", factory / "hum[red]mer", copy_function=os.link)
    (factory / "notes[1].txt").touch()
    finished = nearfar_command("data", factory)
    assert "hum[red]mer" in finished.out
    assert "warning [bold]factory: files that are not read (1), such as notes[1].txt" in finished.out


def test_simulate_follows_its_options(nearfar_command: Nearfar, tmp_path: Path) -> None:
    options = "--machines fan,valve --train-source 2 --train-target 1 --test 1 --seconds 1 --snr-db 0,3 --seed 5"
    made = nearfar_command("simulate", tmp_path / "factory", *options.split())
    assert made.code == 0, made.err
    assert "12/14" in made.err or "14/14" in made.err
    tree = json.loads(nearfar_command("data", tmp_path / "factory", "--json").out)
    assert [machine["machine"] for machine in tree["machines"]] == ["fan", "valve"]
    assert [sum(group["clips"] for group in machine["clips"]) for machine in tree["machines"]] == [7, 7]
    again = nearfar_command("simulate", tmp_path / "factory", *options.split())
    assert again.code == 2
    assert str(tmp_path / "factory") in again.err


def test_run_prints_a_table_and_then_json(
    nearfar_command: Nearfar, run_folder: Path, small_factory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "finetune", None)  # the trained model is used
    arguments = ["run", "tiny-near", "--data", small_factory, "--out", run_folder, *SHORT]
    table = nearfar_command(*arguments, "--note", "a note for every table")
    assert table.code == 0, table.err
    assert "tiny-near" in table.out
    assert "a note for every table" in table.out
    assert f"Everything is in {run_folder}." in table.out
    assert "extracting features: 36/36" in table.err
    tree = json.loads(nearfar_command(*arguments, "--json").out)
    assert [system["name"] for system in tree["systems"]] == ["tiny-near"]
    assert tree == json.loads((run_folder / "results.json").read_text())


def test_run_shares_a_model_and_takes_options(
    nearfar_command: Nearfar, run_folder: Path, small_factory: Path, tmp_path: Path
) -> None:
    shared = nearfar_command(
        *("run", "tiny-fusion", "--data", small_factory, "--out", tmp_path / "fusion"),
        *("--model", run_folder / "model", *SHORT),
    )
    assert shared.code == 0, shared.err
    assert "training" not in shared.err
    other = nearfar_command(
        *("run", "tiny-fusion", "--data", small_factory, "--out", tmp_path / "other", "--seed", "7"),
        *("--encoder", "random:tiny:9", "--set", 'scoring.views=["far"]', "--tensorboard", *SHORT),
    )
    assert other.code == 0, other.err
    card = json.loads((tmp_path / "other" / "model" / "model.json").read_text())
    assert card["recipe"]["seed"] == 7
    assert card["recipe"]["encoder"]["weights"] == "random:tiny:9"
    assert card["recipe"]["scoring"]["views"] == ["far"]
    assert card["recipe"]["training"]["steps"] == 2
    assert list((tmp_path / "other" / "model" / "tensorboard").iterdir())


def test_run_on_hidden_labels_is_still_json(
    nearfar_command: Nearfar, run_folder: Path, small_factory: Path, tmp_path: Path
) -> None:
    factory = Path(shutil.copytree(small_factory, tmp_path / "factory", copy_function=os.link))
    for machine in ("hummer", "whiner"):
        for index, path in enumerate(sorted((factory / machine / "test").iterdir())):
            path.rename(path.with_name(f"section_00_{index:04d}.wav"))
    arguments = ["run", "tiny-near", "--data", factory, "--out", tmp_path / "run", "--model", run_folder / "model"]
    plain = nearfar_command(*arguments, *SHORT)
    assert plain.code == 0, plain.err
    assert plain.out.startswith("No table: the test clips hide their labels")
    tree = json.loads(nearfar_command(*arguments, *SHORT, "--json").out)
    assert tree["systems"] == []
    assert (tmp_path / "run" / "scores" / "anomaly_score_hummer_section_00_test.csv").is_file()


def test_reproduce(nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", "--suite", "tiny", "--systems", "tiny-fusion,tiny-near", "--data", small_factory]
    arguments += ["--out", tmp_path / "out", "--note", "a small factory", *SHORT]
    table = nearfar_command(*arguments)
    assert table.code == 0, table.err
    assert "tiny-fusion" in table.out
    assert "tiny-near" in table.out
    assert "a small factory" in table.out
    tree = json.loads(nearfar_command(*arguments, "--json").out)
    assert [system["name"] for system in tree["systems"]] == ["tiny-fusion", "tiny-near"]
    assert tree == json.loads((tmp_path / "out" / "table.json").read_text())
    assert tree["notes"] == ["a small factory"]


@pytest.mark.slow
def test_demo_says_that_its_data_is_simulated(
    nearfar_command: Nearfar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_figures
) -> None:
    plan = FactoryPlan(machines=("fan",), train_source=3, train_target=1, test_per_group=2, clip_seconds=1.0)
    monkeypatch.setattr(demo, "PLAN", plan)
    monkeypatch.setattr(demo, "TRAINING", {"training.steps": 1})
    with with_figures():
        finished = nearfar_command("demo", "--out", tmp_path)
    assert finished.code == 0, finished.err
    assert finished.out.startswith("The recordings of this demonstration are simulated")
    assert "nearfar-best" in finished.out
    assert (tmp_path / "report.html").is_file()
    assert "Simulated data" in finished.out
    assert "Simulated data" in (tmp_path / "results" / "table.md").read_text()
    assert list((tmp_path / "results" / "tiny-near" / "figures").glob("*.png"))


def test_demo_does_not_overwrite_other_recordings(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_factory, tmp_path / "factory")
    finished = nearfar_command("demo", "--out", tmp_path)
    assert finished.code == 2
    assert f"{tmp_path / 'factory'}: found a folder that the demonstration did not make" in finished.err
    assert len(list((tmp_path / "factory").rglob("*.wav"))) == 36


@pytest.mark.parametrize(("kind", "official_score"), [("mse", 0.57194), ("mahala", 0.57205)])
def test_evaluate_gives_the_published_scores(
    kind: str, official_score: float, nearfar_command: Nearfar, golden_arrays: Path
) -> None:
    tree = json.loads(
        nearfar_command("evaluate", "--scores", golden_arrays / "ae_rerun_scores" / kind, "--json").out
    )
    own = tree["systems"][0]
    assert own["name"] == kind
    assert own["all"]["score"]["mean"] == pytest.approx(official_score, abs=1e-5)


def test_evaluate_prints_what_run_printed(nearfar_command: Nearfar, run_folder: Path) -> None:
    finished = nearfar_command("evaluate", "--scores", run_folder / "scores", "--json")
    own, of_run = json.loads(finished.out), json.loads((run_folder / "results.json").read_text())
    assert own["systems"][0]["machines"] == of_run["systems"][0]["machines"]
    assert own["systems"][0]["all"] == of_run["systems"][0]["all"]
    table = nearfar_command("evaluate", "--scores", run_folder / "scores", "--note", "the same again")
    assert table.code == 0
    assert "the same again" in table.out


def test_embed(nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    files = sorted((small_factory / "hummer" / "test").iterdir())[:3]
    finished = nearfar_command("embed", *files, "--encoder", "random:tiny", "--out", tmp_path / "e.npy")
    assert finished.code == 0, finished.err
    assert "3 embeddings of 192 numbers" in finished.out
    near = np.load(tmp_path / "e.npy")
    assert near.shape == (3, 192)
    options = ["--encoder", "random:tiny", "--channel", "far", "--pooling", "cls", "--seconds", "1.5"]
    assert nearfar_command("embed", *files, "--out", tmp_path / "e.safetensors", *options).code == 0
    far = load_file(tmp_path / "e.safetensors")["embeddings"]
    assert far.shape == near.shape
    assert not np.allclose(near, far)


SETTINGS = {
    "training.steps": "--set: found training.steps; expected KEY=VALUE",
    "training.stepz=3": "training.stepz",
    "training.steps=many": "training.steps = 'many'",
    "training.steps.more=3": "training.steps",
    "nothing.at.all=3": "nothing",
    "training.steps=0": "training.steps = 0",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_do_not_fit_are_refused(setting: str, nearfar_command: Nearfar, tmp_path: Path) -> None:
    arguments = ["run", "tiny-near", "--data", tmp_path, "--out", tmp_path / "out", "--set", setting]
    finished = nearfar_command(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith("nearfar: ")
    assert SETTINGS[setting] in finished.err
    assert not (tmp_path / "out").exists()


ARGUMENTS = {
    "an unknown suite": (["reproduce", "--suite", "other"], "--suite: found 'other'; expected 'report', 'tiny'"),
    "a misspelt suite": (["reproduce", "--suite", "tinny"], "did you mean 'tiny'?"),
    "an unknown system": (["reproduce", "--suite", "tiny", "--systems", "x"], "--systems: found 'x'"),
    "seeds that are no numbers": (["reproduce", "--seeds", "0,a"], "--seeds: found 0,a; expected whole numbers"),
    "an unknown recipe": (["run", "x"], "x: found no recipe of that name"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused(
    what: str, nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    arguments, message = ARGUMENTS[what]
    finished = nearfar_command(*arguments, "--data", small_factory, "--out", tmp_path / "out")
    assert (finished.code, finished.out) == (2, "")
    assert message in finished.err
    assert not (tmp_path / "out").exists()


def test_a_negative_seed_is_refused(nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    arguments = ["--data", small_factory, "--out", tmp_path / "out", "--seed", "-1", "--encoder", "random:tiny:1"]
    finished = nearfar_command("run", "tiny-near", *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert "seed = -1" in finished.err


def test_a_missing_option_is_a_usage_error(nearfar_command: Nearfar) -> None:
    finished = nearfar_command("run", "tiny-near")
    assert (finished.code, finished.out) == (2, "")
    assert "--data" in finished.err


def test_interrupt_says_that_nothing_is_lost(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_module, "finetune", interrupted)
    finished = nearfar_command("run", "tiny-near", "--data", small_factory, "--out", tmp_path)
    assert finished.code == 130
    assert "stopped; rerun the same command to resume" in finished.err


def test_a_path_that_cannot_be_written_is_named(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    finished = nearfar_command(
        "run", "tiny-near", "--data", small_factory, "--out", tmp_path / "file" / "run", *SHORT
    )
    assert (finished.code, finished.out) == (2, "")
    assert str(tmp_path / "file") in finished.err
    assert "Not a directory" in finished.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_anywhere_is_no_traceback(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "log.jsonl"))

    monkeypatch.setattr(training_module, "finetune", full)
    finished = nearfar_command("run", "tiny-near", "--data", small_factory, "--out", tmp_path)
    assert finished.code == 2
    assert finished.err.splitlines()[-1].startswith(
        f"nearfar: {tmp_path / 'log.jsonl'}: found No space left on device"
    )


# --- help and flags ---------------------------------------------------------------------------------------------


def all_commands() -> dict[str, Any]:
    group = typer.main.get_command(cli.app)
    commands = {name: command for name, command in group.commands.items() if name != "download"}
    return commands | {f"download {name}": entry for name, entry in group.commands["download"].commands.items()}


def test_help_groups_the_commands_with_the_common_ones_first(nearfar_command: Nearfar) -> None:
    out = nearfar_command("--help").out
    headings = ("Your machine", "Monitoring", "Challenge", "Data and weights", "Research")
    order = [out.index(f" {heading} ") for heading in headings]
    assert order == sorted(order)
    first = out[order[0] : order[1]]
    assert all(re.search(rf"^\W+{name} ", first, re.MULTILINE) for name in ("fit", "score", "threshold", "report"))
    panels = {command.rich_help_panel for command in typer.main.get_command(cli.app).commands.values()}
    assert panels == set(headings)


def test_every_command_and_option_has_a_help_text_in_plain_words() -> None:
    for name, command in all_commands().items():
        texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        hidden = [getattr(parameter, "hidden", False) for parameter in command.params]
        assert command.help, name
        for text, is_hidden in zip(texts[1:], hidden, strict=True):
            assert text or is_hidden, name
        for text in filter(None, texts):
            assert not re.search(r"\b(hears?|heard|listens?|tells?|told|places?|puts?|goes on)\b", text), text


def test_choices_in_help_are_those_of_the_tables() -> None:
    """They are written by hand, so that help does not import the tables."""
    options = {
        name: {entry.name: entry.help for entry in command.params} for name, command in all_commands().items()
    }
    for command in ("fit", "threshold"):
        assert all(rule in options[command]["rule"] for rule in RULES)
    assert all(name in options["reproduce"]["suite"] for name in SUITES)
    untrained = [name for name, entry in POOLINGS.items() if not entry.trained]
    assert re.findall(r"[a-z-]+", options["embed"]["pooling"].partition(":")[2].replace(" or ", " ")) == untrained


def test_flags_of_earlier_versions_are_accepted_and_not_shown(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "detector"
    fitted = nearfar_command("fit", small_factory, "--out", out, "--target-far=0.25", "--method", "empirical")
    assert fitted.code == 0, fitted.err
    thresholds = json.loads((out / "thresholds.json").read_text())
    assert {(entry["rule"], entry["false_alarm_rate"]) for entry in thresholds} == {("empirical", 0.25)}
    assert "show no fault" in nearfar_command("data", small_factory, "--listen").out
    for command in ("fit", "threshold", "data"):
        shown = nearfar_command(command, "--help").out
        assert not any(flag in shown for flag in ("--target-far", "--method", "--listen"))
    assert nearfar_command("score", out, small_factory, "--method", "gamma").code == 2


def test_errors_name_flags_in_place_of_arguments() -> None:
    flags = {
        "machine": "--machine",
        "false_alarm_rate": "--false-alarm-rate",
        "near": "--near",
        "replace": "--replace",
    }
    argument = InputError("machine", found="2 (machine)", expected="1", remedy="Name it (machine), not it (other)")
    assert in_flags(argument, flags, set()) == (
        "--machine: found 2 (machine); expected 1. Name it (--machine), not it (other)."
    )
    key = InputError("r.toml", found="audio.near_channel = 7", expected="1", remedy="Set audio.near_channel")
    assert in_flags(key, flags, {"near"}) == "r.toml: found --near = 7; expected 1. Set --near."
    assert in_flags(key, flags, set()) == "r.toml: found audio.near_channel = 7; expected 1. Set --near."
    assert in_flags(key, {}, set()) == str(key)
    assert in_flags(NearfarError("Overwrite it (replace=True)."), flags, set()) == "Overwrite it (--replace)."
    several = MultipleInputError([argument, *[key] * 12])
    lines = in_flags(several, flags, set()).split("\n")
    assert lines[:2] == [in_flags(argument, flags, set()), in_flags(key, flags, set())]
    assert lines[-1] == "and 3 more"
    assert len(lines) == 11


def test_library_errors_name_no_flags() -> None:
    """The command line words them; whole command lines in documents may have flags."""
    root = Path(nearfar.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if root / "cli" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in ("found", "expected", "remedy"):
                text = ast.unparse(node.value)
                assert not re.search(r"(?<![\w-])--[a-z]", text) or "pip download" in text, f"{path}: {text}"
