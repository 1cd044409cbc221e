"""Exported detectors: their scores, what is refused, and what a changed file does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile as sf
from onnx import TensorProto, helper
from tests.command import Nearfar

from nearfar import Detector
from nearfar.config import load_recipe
from nearfar.errors import InputError
from nearfar.export import backends
from nearfar.export.write import export_detector
from nearfar.exported import ExportedDetector
from nearfar.exported.folder import require_harmless
from nearfar.files import signed
from nearfar.scores import Failure, Score
from nearfar.thresholds import given_threshold
from nearfar.thresholds.file import write_thresholds

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "auto": ("auto", {}),
    "frozen": ("frozen-eat", {"encoder.weights": "random:tiny:0", "encoder.mask_padding": True}),
}
SLOW_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "nearfar-best": ("nearfar-best", {}),
    "layers": (
        "frozen-eat",
        {"encoder.weights": "random:tiny:0", "features.layers": [1, 3], "features.pooling": "rdp"},
    ),
    "noise-aware": ("frozen-noise-aware", {"encoder.weights": "random:tiny:0"}),
    "beats": ("frozen-beats", {"encoder.weights": "random:tiny:0"}),
    "beats-masked": ("frozen-beats", {"encoder.weights": "random:tiny:0", "encoder.mask_padding": True}),
    "dasheng": ("frozen-dasheng", {"encoder.weights": "random:tiny:0"}),
    "dasheng-masked": ("frozen-dasheng", {"encoder.weights": "random:tiny:0", "encoder.mask_padding": True}),
    "leader": (
        "w1-lora-beats",
        {"encoder.weights": "random:tiny:0", "training.steps": 2, "training.warmup_steps": 0},
    ),
    "full": ("tiny-fusion", {"training.steps": 2, "training.warmup_steps": 0}),
    "lora": ("tiny-lora-near", {"training.steps": 2, "training.warmup_steps": 0}),
    "mahalanobis": ("nearfar-best", {"scoring.backend": "mahalanobis"}),
    "domains": ("nearfar-best", {"scoring.domains": "separate", "scoring.neighbours": 2}),
    "standardised": ("nearfar-best", {"scoring.domains": "standardised", "scoring.normalisation": "none"}),
    "largest band": ("nearfar-best", {"scoring.over_parts": "max"}),
    "softmax of bands": ("nearfar-best", {"scoring.over_parts": "softmax", "scoring.varmin_scale": 0.5}),
    "memmix": ("nearfar-best", {"scoring.enrichment": "memmix"}),
    "fusion": ("nearfar-best", {"scoring.views": ["near", "residual"], "scoring.fusion": "standardised"}),
}


def fitted(data: Path, chosen: tuple[str, dict[str, Any]]) -> Detector:
    name, changes = chosen
    return Detector.fit(data, load_recipe(name).with_changes(**changes))


@pytest.fixture(scope="module")
def data(small_factory: Path) -> Path:
    return small_factory / "hummer"


@pytest.fixture(scope="module")
def detector(data: Path) -> Detector:
    return fitted(data, RECIPES["auto"])


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "hummer"
    export_detector(detector, out)
    return out


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy of the export, to be damaged."""
    target = tmp_path / "copy"
    target.mkdir()
    for path in exported.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def require_equal_rows(one: Score, other: Score) -> None:
    """All of a row but the explanation, which is not exported."""
    first, second = one.to_json(), other.to_json()
    for tree in (first, second):
        for key in ("departure", "contributions", "like"):
            tree.pop(key)
    scale = max(abs(one.threshold or 0.0), abs(one.score))

    def compare(a: Any, b: Any, where: str) -> None:
        if isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                compare(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, list):
            assert len(a) == len(b), where
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                compare(x, y, f"{where}[{index}]")
        elif isinstance(a, float):
            assert b == pytest.approx(a, rel=1e-4, abs=1e-4 * scale), where
        else:
            assert a == b, where

    compare(first, second, one.file)


def require_equal(detector: Detector, exported: ExportedDetector, files: list[Path]) -> None:
    pairs = zip(detector.score_many(files), exported.score_many(files), strict=True)
    for one, other in pairs:
        assert isinstance(other, Score)
        require_equal_rows(one, other)


def recordings(data: Path) -> list[Path]:
    return sorted((data / "test").iterdir())


# --- scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*RECIPES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_RECIPES)]
)
def test_rows_are_those_of_the_detector(name: str, data: Path, tmp_path: Path) -> None:
    detector = fitted(data, (RECIPES | SLOW_RECIPES)[name])
    done = export_detector(detector, tmp_path / "out")
    assert done.description.parity.windows > 10
    assert done.description.parity.largest <= 1e-4
    require_equal(detector, ExportedDetector(tmp_path / "out"), recordings(data))


def test_long_short_and_other_recordings_have_the_same_rows(
    detector: Detector, exported: Path, data: Path, tmp_path: Path
) -> None:
    sound, rate = sf.read(recordings(data)[0], dtype="float32")
    long = np.tile(sound, (int(33 * rate / len(sound)) + 1, 1))[: int(32.7 * rate)]
    sf.write(tmp_path / "long.wav", long, rate)
    sf.write(tmp_path / "short.wav", sound[: len(sound) // 2], rate)
    sf.write(tmp_path / "resampled.wav", np.repeat(sound, 2, axis=0), 2 * rate)
    sf.write(tmp_path / "loud.flac", np.clip(8 * sound, -1, 1), rate)
    names = ("long.wav", "short.wav", "resampled.wav", "loud.flac")
    require_equal(detector, ExportedDetector(exported), [tmp_path / name for name in names])


def test_several_windows_at_once_are_scored_as_each_alone(exported: Path) -> None:
    loaded = ExportedDetector(exported)
    samples = 0.1 * np.random.default_rng(0).standard_normal((3, 2, loaded.description.window_samples))
    samples = samples.astype(np.float32)
    together = loaded.run(samples)
    for index in range(3):
        alone = loaded.run(samples[index : index + 1])
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][index], values[0], rtol=1e-5, atol=1e-7)
    sums = together["part_scores"].sum(axis=2)
    np.testing.assert_allclose(sums, together["view_scores"], rtol=1e-6)
    assert together["p_value"].shape == together["anomalous"].shape == (3,)


def test_the_graph_decides_as_the_rows_do(exported: Path, data: Path) -> None:
    loaded = ExportedDetector(exported)
    for file in recordings(data):
        (row,) = loaded.score_many([file])
        assert isinstance(row, Score)
        sound, _ = sf.read(file, dtype="float32")
        outputs = loaded.run(np.ascontiguousarray(sound.T[None, :, : loaded.description.window_samples]))
        if len(row.windows) == 1:
            assert bool(outputs["anomalous"][0]) == (row.score > row.threshold)
            assert outputs["p_value"][0] == pytest.approx(row.p_value)


def test_a_bad_file_has_a_row_of_its_own(exported: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    loaded = ExportedDetector(exported)
    first, second = loaded.score_many([tmp_path / "broken.wav", recordings(data)[0]], keep_errors=True)
    assert isinstance(first, Failure)
    assert isinstance(second, Score)
    with pytest.raises(InputError, match=r"broken\.wav"):
        list(loaded.score_many([tmp_path / "broken.wav"]))
    with pytest.raises(InputError, match="machine"):
        list(loaded.score_many([recordings(data)[0]], "whiner"))


# --- data beside the graph --------------------------------------------------------------------------------------


def test_a_threshold_can_be_changed_without_exporting_again(copy: Path, data: Path) -> None:
    before = ExportedDetector(copy)
    file = recordings(data)[0]
    (row,) = before.score_many([file])
    assert isinstance(row, Score)
    assert row.score > 0
    write_thresholds(copy, [given_threshold(before.calibration, 0.5 * row.score)])
    (changed,) = ExportedDetector(copy).score_many([file])
    assert isinstance(changed, Score)
    assert changed.score == row.score
    assert changed.threshold == pytest.approx(0.5 * row.score)
    assert changed.anomalous or changed.quality
    assert changed.threshold_from == "given by a person"


@pytest.mark.parametrize("name", ["model.onnx", "exported.json", "calibration.json", "thresholds.json"])
def test_a_damaged_or_missing_file_is_refused_by_name(name: str, copy: Path) -> None:
    path = copy / name
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        ExportedDetector(copy)
    path.unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        ExportedDetector(copy)


def test_a_changed_digit_of_a_threshold_is_refused(copy: Path) -> None:
    path = copy / "thresholds.json"
    rows = json.loads(path.read_text())
    rows[0]["value"] *= 10
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="not the one that was written"):
        ExportedDetector(copy)


def test_a_later_format_is_refused(copy: Path) -> None:
    path = copy / "exported.json"
    tree = json.loads(path.read_text())
    tree.pop("sha256")
    path.write_text(json.dumps(signed({**tree, "format": 99})))
    with pytest.raises(InputError, match="format 99"):
        ExportedDetector(copy)


# --- graphs of unknown origin -----------------------------------------------------------------------------------


def model_of(node: onnx.NodeProto, path: Path, *initializers: onnx.TensorProto) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], initializer=list(initializers))
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path = model_of(helper.make_node("Add", ["x", "w"], ["y"]), tmp_path / "m.onnx", tensor)
    with pytest.raises(InputError, match=r"weights in another file, '../../etc/passwd'"):
        require_harmless(path)
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    with pytest.raises(InputError, match="weights in another file"):
        require_harmless(model_of(constant, tmp_path / "n.onnx"))


@pytest.mark.parametrize(
    ("operator", "domain"), [("Loop", ""), ("Optional", ""), ("Add", "com.someone"), ("If", "")]
)
def test_operators_that_are_not_listed_are_refused(operator: str, domain: str, tmp_path: Path) -> None:
    path = model_of(helper.make_node(operator, ["x"], ["y"], domain=domain), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=f"the operator .*{operator}"):
        require_harmless(path)


def test_operators_in_subgraphs_and_functions_count(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    inner = helper.make_graph([helper.make_node("Loop", [], ["z"])], "inner", [], [value])
    add = helper.make_node("Add", ["x", "x"], ["y"], body=inner)
    with pytest.raises(InputError, match="the operator Loop"):
        require_harmless(model_of(add, tmp_path / "m.onnx"))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 40, b"\x3a\xff\xff\x01abc"):
        (tmp_path / "m.onnx").write_bytes(content)
        if content:
            with pytest.raises(InputError, match="no ONNX model"):
                require_harmless(tmp_path / "m.onnx")


# --- writing ----------------------------------------------------------------------------------------------------


def test_a_difference_is_refused_and_nothing_is_written(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "TYPICAL", 4.01)
    with pytest.raises(InputError, match="of the detector and of the export"):
        export_detector(detector, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    settings = {"autoencoder.epochs": 1}
    detector = fitted(data, ("ae-mse", settings))
    with pytest.raises(InputError, match=r"features\.source"):
        export_detector(detector, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_other_folders_are_left_alone_and_exports_replaced(
    detector: Detector, tmp_path: Path, exported: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        export_detector(detector, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_one_machine_of_several_is_named(small_factory: Path, tmp_path: Path) -> None:
    detector = Detector.fit(small_factory, "frozen-near")
    with pytest.raises(InputError, match="one of hummer, whiner"):
        export_detector(detector, tmp_path / "out")
    done = export_detector(detector, tmp_path / "out", "whiner")
    assert done.description.machine == "whiner"


def test_the_card_states_recipe_thresholds_check_and_hashes(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    description = json.loads((exported / "exported.json").read_text())
    for fact in (
        "recipe | `auto`",
        "independent",
        description["model_sha256"],
        "licence",
        "all decisions are the same",
    ):
        assert fact in card


def test_the_command_exports_and_scores(
    detector: Detector, data: Path, tmp_path: Path, nearfar_command: Nearfar
) -> None:
    detector.save(tmp_path / "detector")
    done = nearfar_command("export", tmp_path / "detector", "--to", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["parity"]["decisions"] == 0
    scored = nearfar_command("score", tmp_path / "out", *recordings(data), "--json")
    assert scored.code == 0, scored.err
    rows = json.loads(scored.out)
    wanted = json.loads(nearfar_command("score", tmp_path / "detector", *recordings(data), "--json").out)
    assert [row["status"] for row in rows] == [row["status"] for row in wanted]
    table = nearfar_command("score", tmp_path / "out", recordings(data)[0])
    assert table.code == 0
    assert "hummer" in table.out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_precisions_are_measured(precision: str, data: Path, tmp_path: Path) -> None:
    detector = fitted(data, RECIPES["frozen"])
    whole = export_detector(detector, tmp_path / "fp32")
    done = export_detector(detector, tmp_path / precision, precision=precision)
    parity = done.description.parity
    assert done.bytes < 0.8 * whole.bytes
    assert parity.speed is not None
    assert whole.description.parity.largest < parity.largest < 0.2
    scores = []
    for name in ("fp32", precision):
        rows = ExportedDetector(tmp_path / name).score_many(recordings(data))
        scores.append([row.score for row in rows if isinstance(row, Score)])
    assert scores[0] != scores[1]
    assert scores[1] == pytest.approx(scores[0], rel=0.2)


def test_precisions_of_recipes_without_an_encoder_are_refused(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without an encoder"):
        export_detector(detector, tmp_path / "out", precision="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_openvino_computes_the_same_scores(data: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    detector = fitted(data, RECIPES["frozen"])
    done = export_detector(detector, tmp_path / "out", openvino=True)
    assert done.description.parity.openvino is not None
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "out" / "openvino" / "model.xml", "CPU", settings)
    loaded = ExportedDetector(tmp_path / "out")
    samples = np.full((1, 1, loaded.description.window_samples), 0.01, np.float32)
    samples[..., ::50] = 0.3
    found = compiled({"samples": samples, **loaded.inputs})["score"]
    assert found == pytest.approx(loaded.run(samples)["score"], rel=1e-3)


WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "sklearn", "scipy", "safetensors", "joblib", "matplotlib"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from nearfar.cli import main
main()
"""


def test_scoring_needs_neither_torch_nor_scipy(exported: Path, data: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "score", str(exported), *map(str, recordings(data)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = ExportedDetector(exported).score_many(recordings(data))
    wanted = [row.score for row in rows if isinstance(row, Score)]
    assert [row["score"] for row in json.loads(done.stdout)] == pytest.approx(wanted, rel=1e-9)
