"""The shape of the package: imports flow one way, heavy libraries wait, public names are the listed ones."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nearfar

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "matplotlib", "peft", "pyroomacoustics", "sklearn", "transformers", "scipy", "accelerate")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (contract for contract in settings["contracts"] if contract["type"] == "layers")
    return list(contract["layers"])


# --- imports flow one way ---------------------------------------------------------------------------------------


def lint_imports(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command as lint; lint(sys.argv[1:])"
    return run("-c", code, "--no-cache", *arguments)


def test_imports_flow_one_way() -> None:
    done = lint_imports()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout)


def test_the_check_would_find_an_import_against_the_flow(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    upside_down = json.dumps(["nearfar.errors", "nearfar.config"])
    settings.write_text(
        '[tool.importlinter]\nroot_package = "nearfar"\n'
        f'[[tool.importlinter.contracts]]\nname = "upside down"\ntype = "layers"\nlayers = {upside_down}\n',
        encoding="utf-8",
    )
    done = lint_imports("--config", str(settings))
    assert done.returncode == 1
    assert "nearfar.config -> nearfar.errors" in done.stdout


def test_every_room_has_its_place_in_the_flow() -> None:
    rooms = {f"nearfar.{module.name}" for module in pkgutil.iter_modules(nearfar.__path__)}
    assert rooms - {"nearfar.__main__"} == set(layers())


def test_the_flow_runs_from_errors_to_the_command_line() -> None:
    data_flow = ["errors", "config", "data", "models", "training", "scoring", "evaluation", "systems", "cli"]
    named = [layer.removeprefix("nearfar.") for layer in reversed(layers())]
    assert [room for room in named if room in data_flow] == data_flow


# --- heavy libraries wait until they are needed -----------------------------------------------------------------


def imported_by(code: str) -> set[str]:
    """Top-level names of the modules that are imported after running ``code`` in a fresh interpreter."""
    report = (
        "import sys, json; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = run("-c", f"{code}\n{report}")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import nearfar; nearfar.__version__",
        "import nearfar.errors",
        "import nearfar.config; nearfar.config.load_recipe('eat-fusion').model_key()",
        # What the `nearfar` command does, with the exit caught.
        "import sys; sys.argv = ['nearfar', '--help']\nfrom nearfar.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code",
    ],
    ids=["nearfar", "errors", "config", "help"],
)
def test_what_answers_at_once_imports_nothing_heavy(code: str) -> None:
    imported = imported_by(code)
    assert "nearfar" in imported
    assert not imported & set(HEAVY)


def test_the_import_report_sees_a_heavy_import() -> None:
    assert "torch" in imported_by("import nearfar; nearfar.load_encoder")


def test_scoring_and_training_modules_leave_the_rarely_needed_libraries_for_later() -> None:
    modules = ("models.folder", "training.batches", "scoring.embeddings", "scoring.scorer")
    code = "; ".join(f"import nearfar.{module}" for module in modules)
    assert not imported_by(code) & {"matplotlib", "peft", "pyroomacoustics", "sklearn", "transformers"}


# --- the public names -------------------------------------------------------------------------------------------


def test_exported_names_are_the_listed_ones() -> None:
    space: dict[str, object] = {}
    exec("from nearfar import *", space)
    assert space.keys() - {"__builtins__"} == set(nearfar.__all__)
    assert nearfar.__all__ == ["Detector", "__version__", "load_encoder"]


def test_no_other_object_of_the_package_is_public_by_accident() -> None:
    own = {name for name, value in vars(nearfar).items() if getattr(value, "__module__", "").startswith("nearfar")}
    assert {name for name in own if not name.startswith("_")} <= set(nearfar.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'nearfar' has no attribute 'load_decoder'"):
        nearfar.load_decoder  # noqa: B018


def test_the_public_encoder_loader_is_the_one_of_the_models() -> None:
    from nearfar.encoders import load_encoder

    assert nearfar.load_encoder is load_encoder


def test_the_public_detector_is_the_one_of_its_room() -> None:
    from nearfar.detector.detector import Detector

    assert nearfar.Detector is Detector


def test_the_package_is_typed_and_its_version_is_the_distributions() -> None:
    assert (Path(nearfar.__path__[0]) / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert nearfar.__version__ == project["version"]


# --- house style that a machine can check -----------------------------------------------------------------------


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {module.name.rpartition(".")[2] for module in pkgutil.walk_packages(nearfar.__path__, "nearfar.")}
    assert not names & {"utils", "util", "helpers", "common", "misc", "manager"}


def test_every_module_can_be_read_in_one_sitting() -> None:
    files = list((ROOT / "src" / "nearfar").rglob("*.py"))
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
