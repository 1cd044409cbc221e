"""Extras: which packages each installs, and what commands do where they are missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tests.command import Nearfar

from nearfar.encoders import load_encoder
from nearfar.encoders.adaptation import LoraSettings, add_adapters, load_adapters
from nearfar.encoders.hub import is_cached
from nearfar.errors import InputError
from nearfar.executors import launch
from nearfar.extras import EXTRAS, missing_modules, require_extras

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {"all", "dev", "docs"}
"""Extras of ``pyproject.toml`` that are made of others."""


def without(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules of an extra look as if they were not installed."""
    for module in EXTRAS[extra]:
        loaded = [name for name in sys.modules if name.partition(".")[0] == module]
        for name in {module, *loaded}:
            monkeypatch.setitem(sys.modules, name, None)


def declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: list(lines) for name, lines in project["optional-dependencies"].items()}


def normalised(distribution: str) -> str:
    return re.split(r"[<>=\[ ]", distribution)[0].lower().replace("_", "-")


def test_the_modules_are_those_of_the_declared_packages() -> None:
    packages, of_module = declared(), packages_distributions()
    assert packages.keys() - GROUPS == EXTRAS.keys()
    for name, modules in EXTRAS.items():
        found = sorted(normalised(of_module[module][0]) for module in modules)
        assert found == [normalised(line) for line in packages[name]], name
    assert packages["all"] == [f"nearfar[{','.join(sorted(EXTRAS))}]"]
    assert packages["dev"][0] == "nearfar[all]"


def test_the_page_on_installation_lists_every_extra_and_its_packages() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \|(.*)\|$", page.partition("## Sizes")[0], re.MULTILINE))
    packages = {name: ", ".join(normalised(line) for line in lines) for name, lines in declared().items()}
    assert rows.pop("all") == " "
    assert {name: row.strip().lower() for name, row in rows.items()} == {name: packages[name] for name in EXTRAS}


def test_all_extras_are_installed_with_the_tests() -> None:
    assert all(missing_modules(name) == [] for name in EXTRAS)
    require_extras("tests", *EXTRAS)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without("simulate", monkeypatch)
    with pytest.raises(InputError) as caught:
        require_extras("nearfar simulate", "simulate", "report")
    assert str(caught.value) == (
        "nearfar simulate: found no Python module pyroomacoustics; expected the packages of nearfar's extra "
        "simulate. Run pip install 'nearfar[simulate]'."
    )


def test_several_missing_extras_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"no Python module matplotlib, peft; .* extras report, train") as caught:
        require_extras("a run", "train", "report", "train")
    assert caught.value.remedy == "Run pip install 'nearfar[report,train]'"


COMMANDS = [
    (("simulate", "OUT"), {"simulate"}),
    (("demo", "--out", "OUT"), {"report", "simulate", "train"}),
    (("run", "nearfar-best", "--data", "DATA", "--out", "OUT"), {"report"}),
    (("run", "nearfar-best", "--data", "DATA", "--out", "OUT", "--tensorboard"), {"report", "tracking"}),
    (("run", "tiny-near", "--data", "DATA", "--out", "OUT"), {"report", "train"}),
    (("run", "ae-mse", "--data", "DATA", "--out", "OUT"), {"report"}),
    (("reproduce", "--suite", "tiny", "--data", "DATA", "--out", "OUT"), {"report", "train"}),
    (("ablate", "GRID", "--data", "DATA", "--out", "OUT"), {"report", "train"}),
    (("ensemble", "DATA", "DATA/train", "--out", "OUT"), {"report"}),
    (("report", "DATA", "--out", "OUT"), {"report"}),
    (("submit", "DATA", "--label", "L_I_task2_1", "--out", "OUT", "--author", "A B <a@b>"), {"report"}),
    (("submit", "--check", "DATA"), {"report"}),
    (("fit", "DATA", "--recipe", "tiny-near", "--out", "OUT"), {"train"}),
    (("embed", "DATA", "--encoder", "owner/name", "--out", "OUT.npy"), {"train"}),
    (("pretrain", "--data", "DATA", "--out", "OUT", "--encoder", "eat-tiny"), {"train"}),
    (("download", "eat-base"), {"train"}),
    (("watch", "DATA", "--folder", "DATA"), {"watch"}),
    (("watch", "DATA", "--folder", "DATA", "--port", "0"), {"report", "watch"}),
    (("watch", "--demo"), {"report", "simulate", "watch"}),
    (("doctor",), {"watch"}),
    (("fit", "DATA", "--out", "OUT", "--ray", "auto"), {"ray"}),
    (("fit", "DATA", "--out", "OUT", "--dask", "tcp://127.0.0.1:9"), {"dask"}),
]
"""Commands and the extras that they need."""


@pytest.mark.parametrize(
    ("arguments", "extra"), [(arguments, extra) for arguments, needed in COMMANDS for extra in sorted(needed)]
)
def test_a_command_refuses_to_begin_without_its_extra(
    arguments: tuple[str, ...],
    extra: str,
    small_factory: Path,
    tmp_path: Path,
    nearfar_command: Nearfar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(extra, monkeypatch)
    grid = tmp_path / "grid.toml"
    grid.write_text('base = "nearfar-best"\nagainst = "base"\n[axes]\n"training.adaptation" = ["none", "lora"]\n')
    places = {"DATA": str(small_factory), "OUT": str(tmp_path / "out"), "GRID": str(grid)}
    given = [re.sub("DATA|OUT|GRID", lambda found: places[found[0]], argument) for argument in arguments]
    finished = nearfar_command(*given)
    assert finished.code == 2
    assert finished.err.rstrip().endswith(f"Run pip install 'nearfar[{extra}]'.")
    assert finished.out == "" or "demo" in arguments
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]


DETECTOR = """
import sys
from nearfar.extras import EXTRAS
for modules in EXTRAS.values():
    for module in modules:
        sys.modules[module] = None
from nearfar.cli import app
data, folder, recording, scores, other = sys.argv[1:]
for arguments in (
    ["data", data, "--check-channels"],
    ["fit", data, "--out", folder],
    ["score", folder, recording, "--json"],
    ["threshold", folder, "--false-alarm-rate", "0.4"],
    ["add", folder, recording, "--normal"],
    ["embed", recording, "--out", folder + ".npy"],
    ["evaluate", "--scores", scores, "--intervals"],
    ["compare", scores, other, "--resamples", "10"],
    ["table", "--published"],
    ["download", "dcase2026", "--list"],
):
    app(arguments, standalone_mode=False)
import nearfar
for name in dir(nearfar):
    getattr(nearfar, name)
print("finished")
"""


def test_detectors_need_no_extra(small_factory: Path, golden_arrays: Path, tmp_path: Path) -> None:
    recording = next((small_factory / "hummer" / "test").glob("*normal_0000*.wav"))
    scores = [golden_arrays / "ae_rerun_scores" / kind for kind in ("mse", "mahala")]
    arguments = [small_factory, tmp_path / "detector", recording, *scores]
    command = [sys.executable, "-c", DETECTOR, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["finished"], done.stderr


# --- the library ------------------------------------------------------------------------------------------------


def test_lora_is_refused_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("train", monkeypatch)
    with pytest.raises(InputError, match=r"nearfar\[train\]"):
        add_adapters(load_encoder("random:tiny"), LoraSettings(rank=4))
    with pytest.raises(InputError, match=r"nearfar\[train\]"):
        load_adapters(load_encoder("random:tiny"), tmp_path)


def test_no_encoder_is_cached_without_the_client_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    without("train", monkeypatch)
    assert not is_cached("worstchan/EAT-base_epoch30_pretrain")


def test_one_process_is_the_main_one_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    without("train", monkeypatch)
    for name in launch.PROCESS_COUNTS:
        monkeypatch.delenv(name, raising=False)
    assert launch.is_main_process()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch.is_main_process()


@pytest.mark.parametrize("name", launch.PROCESS_COUNTS)
def test_several_processes_need_accelerate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without("train", monkeypatch)
    monkeypatch.setenv(name, "2")
    with pytest.raises(InputError, match=r"nearfar\[train\]"):
        launch.is_main_process()
