"""Wheel and sdist in environments of their own, outside the repository, with and without each extra."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from benchmarks.environments import Layer, empty, with_torch

from nearfar import Detector
from nearfar.export.write import export_detector
from nearfar.exported import ExportedDetector
from nearfar.extras import EXTRAS
from nearfar.scores import Score

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """An environment of torch and nearfar without extras."""
    folder = tmp_path_factory.mktemp("bare")
    layer = with_torch(folder / "torch").above(folder / "nearfar")
    layer.install(str(wheel))
    return layer


def modules_of(layer: Layer, cwd: Path) -> set[str]:
    """The extras' modules that can be imported."""
    names = [module for modules in EXTRAS.values() for module in modules]
    code = f"from importlib.util import find_spec\nprint(*filter(find_spec, {names}))"
    return set(layer.run("python", "-c", code, cwd=cwd).stdout.split())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, built: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name.removeprefix("src/") for name in listed.stdout.splitlines()}
    assert tracked
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in names if ".dist-info/" not in name} == tracked
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in tracked} | {"README.md", "LICENSE", "pyproject.toml"} <= names


def test_a_detector_needs_no_extra(bare: Layer, small_factory: Path, tmp_path: Path) -> None:
    assert modules_of(bare, tmp_path) <= {"jinja2"}, "jinja2 comes with torch"
    recording = next((small_factory / "hummer" / "test").glob("*anomaly_0000*.wav"))
    for arguments in (
        ("--version",),
        ("data", small_factory, "--check-channels"),
        ("fit", small_factory, "--out", "detector"),
        ("threshold", "detector", "--false-alarm-rate", "0.4"),
        ("add", "detector", recording, "--fault", "whistle"),
    ):
        finished = bare.run("nearfar", *arguments, cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
    finished = bare.run("nearfar", "score", "detector", recording, "--fail-on-anomaly", "--json", cwd=tmp_path)
    assert finished.returncode == 1, finished.stderr
    (score,) = json.loads(finished.stdout)
    assert score["anomalous"]


@pytest.fixture(scope="module")
def exported(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "hummer"
    export_detector(Detector.fit(small_factory / "hummer"), out)
    return out


@pytest.fixture(scope="module")
def edge_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, folder = ROOT / "packaging" / "edge", tmp_path_factory.mktemp("edge")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)], check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_exports_are_scored_without_torch(
    edge_wheel: Path, exported: Path, small_factory: Path, tmp_path: Path
) -> None:
    layer = empty(tmp_path / "edge")
    layer.install(str(edge_wheel))
    assert not any((layer.packages / name).exists() for name in ("torch", "scipy", "sklearn"))
    recordings = sorted((small_factory / "hummer" / "test").iterdir())
    finished = layer.run("nearfar", "score", exported, *recordings, "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    expected = [row.score for row in ExportedDetector(exported).score_many(recordings) if isinstance(row, Score)]
    assert [row["score"] for row in json.loads(finished.stdout)] == pytest.approx(expected, rel=1e-9)
    refused = layer.run("nearfar", "fit", small_factory, "--out", "detector", cwd=tmp_path)
    assert refused.returncode == 2
    assert "which nearfar-edge comes without" in refused.stderr


def interpreter(version: str) -> str:
    """An interpreter of another version on this machine; without one the test is skipped."""
    places = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for place in filter(None, places):
        asked = subprocess.run([place, "-V"], capture_output=True, text=True, check=False)
        if asked.stdout.startswith(f"Python {version}."):
            return str(place)
    pytest.skip(f"no Python {version} on this machine")


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_python_scores_exports_alike_and_compiles_all_of_the_package(
    version: str, edge_wheel: Path, exported: Path, small_factory: Path, tmp_path: Path
) -> None:
    python = interpreter(version)
    code = "import sys\nfor name in sys.argv[1:]: compile(open(name, 'rb').read(), name, 'exec')"
    files = map(str, sorted((ROOT / "src").rglob("*.py")))
    subprocess.run([python, "-W", "error", "-c", code, *files], check=True)
    subprocess.run([python, "-m", "venv", str(tmp_path / "other")], check=True)
    layer = Layer(tmp_path / "other")
    layer.install(str(edge_wheel))
    recordings = sorted((small_factory / "hummer" / "test").iterdir())
    finished = layer.run("nearfar", "score", exported, *recordings, "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    expected = [row.score for row in ExportedDetector(exported).score_many(recordings) if isinstance(row, Score)]
    assert len(expected) == len(recordings)
    assert [row["score"] for row in json.loads(finished.stdout)] == pytest.approx(expected, rel=1e-9)


def test_both_distributions_have_one_version_and_the_same_requirements() -> None:
    edge, whole = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in ("packaging/edge", ".")
    )
    assert edge["version"] == whole["version"]
    required = {*whole["dependencies"], *whole["optional-dependencies"]["edge"]}
    assert set(edge["dependencies"]) <= required
    assert set(edge["optional-dependencies"]["watch"]) <= set(whole["optional-dependencies"]["watch"])


COMMANDS = {
    "dask": ({"dask"}, "fit FACTORY --out OUT --dask tcp://127.0.0.1:9"),
    "edge": ({"edge"}, "score EXPORTED RECORDINGS"),
    "export": ({"export"}, "export DETECTOR --to OUT --machine hummer"),
    "openvino": ({"export", "openvino"}, "export DETECTOR --to OUT --machine hummer --openvino"),
    "ray": ({"ray"}, "fit FACTORY --out OUT --ray 127.0.0.1:9"),
    "report": ({"report"}, "run nearfar-best --data FACTORY --out OUT"),
    "simulate": (
        {"simulate"},
        "simulate OUT --machines fan --train-source 2 --train-target 1 --test 1 --seconds 1",
    ),
    "tracking": (
        {"report", "tracking"},
        "run ae-mse --data FACTORY --out OUT --tensorboard --set autoencoder.epochs=1",
    ),
    "train": ({"train"}, "fit FACTORY --recipe tiny-lora-near --out OUT --set training.steps=2"),
    "watch": ({"watch"}, "watch DETECTOR --machine hummer --folder RECORDINGS --once --memory OUT/watch.sqlite"),
}
"""By extra: the extras that a command needs, and the command."""

CLUSTERS = {
    "dask": "found no scheduler at",
    "openvino": "OpenVINO: found scores that differ",  # in the default recipe, whose distances are in float64
    "ray": "found no cluster at",
}
"""Extras whose commands need a cluster or another recipe, and what they say without; other tests have both."""


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_command_works_with_its_extra_and_names_it_without(
    extra: str, bare: Layer, wheel: Path, exported: Path, small_factory: Path, tmp_path: Path
) -> None:
    extras, command = COMMANDS[extra]
    names = ",".join(sorted(extras))
    places = {
        "FACTORY": str(small_factory),
        "RECORDINGS": str(small_factory / "hummer" / "test"),
        "DETECTOR": "detector",
        "EXPORTED": str(exported),
        "OUT": "out",
        "OUT/watch.sqlite": "out/watch.sqlite",
    }
    arguments = [places.get(word, word) for word in command.split()]
    refused = bare.run("nearfar", *arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.endswith(f"Run pip install 'nearfar[{names}]'.\n")
    assert not (tmp_path / "out").exists()
    layer = bare.above(tmp_path / "layer")
    layer.install(f"nearfar[{names}] @ {wheel.as_uri()}")
    expected = {module for name in extras for module in EXTRAS[name]}
    assert expected <= modules_of(layer, tmp_path)
    if "DETECTOR" in command:
        fitted = layer.run("python", "-m", "nearfar", "fit", str(small_factory), "--out", "detector", cwd=tmp_path)
        assert fitted.returncode == 0, fitted.stderr
    finished = layer.run("python", "-m", "nearfar", *arguments, cwd=tmp_path)
    if extra in CLUSTERS:
        assert CLUSTERS[extra] in finished.stderr
        return
    assert finished.returncode == 0, finished.stderr
    assert "OUT" not in command or any((tmp_path / "out").rglob("*"))
