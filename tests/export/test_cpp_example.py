"""The C++ example scores as the exported detector does."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nearfar import Detector
from nearfar.export.write import export_detector
from nearfar.exported import ExportedDetector
from nearfar.scores import Score

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program, upon the library of the Python package."""
    for tool in ("cmake", "c++", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine")
    if subprocess.run(["pkg-config", "--exists", "sndfile"], check=False).returncode:
        pytest.skip("no headers of libsndfile on this machine (libsndfile1-dev)")
    if subprocess.run(["pkg-config", "--exists", "nlohmann_json"], check=False).returncode:
        pytest.skip("no nlohmann-json3-dev on this machine")
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    folder, root = tmp_path_factory.mktemp("cpp"), Path(spec.origin).parent / "capi"
    configure = ["cmake", "-S", str(EXAMPLE), "-B", str(folder), f"-DONNXRUNTIME_ROOT={root}"]
    for command in (configure, ["cmake", "--build", str(folder)]):
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "score"


@pytest.fixture(scope="module")
def exported(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "hummer"
    export_detector(Detector.fit(small_factory / "hummer"), out)
    return out


def run(program: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_it_prints_the_same_numbers(score: Path, exported: Path, small_factory: Path, tmp_path: Path) -> None:
    files = sorted((small_factory / "hummer" / "test").iterdir())
    samples, rate = sf.read(files[0])
    joined, short = tmp_path / "joined.wav", tmp_path / "short.wav"
    sf.write(
        joined, np.concatenate([samples, *(sf.read(path)[0] for path in files[1:3]), samples[: rate // 2]]), rate
    )
    sf.write(short, samples[: rate // 2], rate)
    files += [joined, short]
    rows = [row for row in ExportedDetector(exported).score_many(files) if isinstance(row, Score)]
    assert len(rows) == len(files)
    assert len(next(row for row in rows if row.file == str(joined)).windows) > 2
    finished = run(score, exported, *files)
    assert finished.returncode == 0, finished.stderr
    lines = [line.split("\t") for line in finished.stdout.splitlines()]
    assert [line[3] for line in lines] == [str(path) for path in files]
    assert [float(line[0]) for line in lines] == pytest.approx([row.score for row in rows], rel=1e-9)
    assert [float(line[1]) for line in lines] == pytest.approx([row.p_value for row in rows], rel=1e-9)
    above = [row.margin is not None and row.margin > 0 for row in rows]
    assert [line[2] == "anomalous" for line in lines] == above
    assert len(set(above)) == 2, "recordings of both kinds"


def test_what_it_cannot_score_is_named(score: Path, exported: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "rate.wav"
    sf.write(wrong, np.full((8000, 2), 0.1), 8000)
    for path, reason in ((wrong, "resample it"), (tmp_path / "absent.wav", "absent.wav")):
        finished = run(score, exported, path)
        assert finished.returncode == 2
        assert reason in finished.stderr
