"""The shape of the package: layers of imports, when heavy libraries are imported, public names, sizes, choices."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import nearfar
from nearfar.encoders import ADAPTATIONS, ENCODERS
from nearfar.extras import EXTRAS
from nearfar.features import SOURCES
from nearfar.losses import LOSSES
from nearfar.pooling import POOLINGS, TRAINED_POOLINGS
from nearfar.scoring import BACKENDS, FUSIONS
from nearfar.thresholds import RULES

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "nearfar"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (contract for contract in settings["contracts"] if contract["type"] == "layers")
    return list(contract["layers"])


# --- layers -----------------------------------------------------------------------------------------------------


def lint_imports(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command as lint; lint(sys.argv[1:])"
    return run("-c", code, "--no-cache", *arguments)


def test_a_package_imports_only_from_lower_layers() -> None:
    done = lint_imports()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout)


def test_the_check_finds_an_import_from_a_higher_layer(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    upside_down = json.dumps(["nearfar.errors", "nearfar.files"])
    settings.write_text(
        '[tool.importlinter]\nroot_package = "nearfar"\n'
        f'[[tool.importlinter.contracts]]\nname = "upside down"\ntype = "layers"\nlayers = {upside_down}\n',
        encoding="utf-8",
    )
    done = lint_imports("--config", str(settings))
    assert done.returncode == 1
    assert "nearfar.files -> nearfar.errors" in done.stdout


def test_every_package_and_module_has_a_layer() -> None:
    found = {f"nearfar.{module.name}" for module in pkgutil.iter_modules(nearfar.__path__)}
    assert found - {"nearfar.__main__"} == set(layers())
    assert len(layers()) == len(set(layers()))


def test_layers_are_in_the_order_of_the_data() -> None:
    flow = [
        "errors", "settings", "data", "views", "frontends", "encoders", "scoring", "features", "config", "models",
        "training", "pipeline", "challenge", "detector", "report", "cli",
    ]  # fmt: skip
    named = [layer.removeprefix("nearfar.") for layer in reversed(layers())]
    assert [name for name in named if name in flow] == flow


# --- heavy libraries are imported when they are needed ----------------------------------------------------------


LATER = {"sklearn", "transformers"} | {module for modules in EXTRAS.values() for module in modules}
HEAVY = {"numpy", "soundfile", "torch", "scipy"} | LATER

STEPS: dict[str, tuple[str, set[str]]] = {
    "nearfar": ("import nearfar; nearfar.__version__", HEAVY),
    "errors": ("import nearfar.errors", HEAVY),
    # The `nearfar` command, with the exit caught.
    "help": (
        "import sys; sys.argv = ['nearfar', '--help']\nfrom nearfar.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code",
        HEAVY,
    ),
    "data": ("import nearfar.data", {"torch", "scipy"} | LATER),
    "metrics": ("import nearfar.metrics", {"torch"} | LATER),
    "detector": ("import nearfar.detector", LATER),
    "batches": ("import nearfar.training.batches", LATER),
    "run": ("import nearfar.challenge.run", LATER),
}
"""Code by its name, and libraries that it must not import. Each may import all that an earlier one may."""


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Top-level names of the modules that are imported after each step, one after the other in one interpreter."""
    script = "import json, sys\nspace, found = {}, {}\n"
    for name, (code, _) in STEPS.items():
        script += f"exec({code!r}, space)\n"
        script += f"found[{name!r}] = sorted({{module.partition('.')[0] for module in sys.modules}})\n"
    done = run("-c", script + "print('\\n' + json.dumps(found))")
    assert done.returncode == 0, done.stderr
    return {name: set(modules) for name, modules in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("name", STEPS)
def test_rarely_needed_libraries_are_imported_later(name: str, imported: dict[str, set[str]]) -> None:
    assert "nearfar" in imported[name]
    assert not imported[name] & STEPS[name][1]


def test_no_step_may_import_what_a_later_step_must_not() -> None:
    forbidden = [libraries for _, libraries in STEPS.values()]
    assert all(later <= earlier for earlier, later in itertools.pairwise(forbidden))


def test_the_report_of_imports_shows_heavy_ones(imported: dict[str, set[str]]) -> None:
    assert "numpy" in imported["data"]
    assert "torch" in imported["detector"]


# --- every other package is declared, and those of extras are imported late --------------------------------------

WITHIN = {"pydantic_core": "pydantic"}
"""Modules by the declared package whose version fixes theirs."""

USED_WITHIN = {"python_multipart": "fastapi", "tensorboard": "torch.utils.tensorboard"}
"""Modules of extras that nearfar does not import itself, by the module that does."""

WHOLE = {"watch": "watch", "web": "watch"}
"""Packages of nearfar that need an extra as a whole, with that extra: their modules may import it early, and the
rest of nearfar imports them late."""


def late_imports(tree: ast.AST, *, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Modules that a module imports, and whether only in functions or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield from ((f"{node.module}.{alias.name}", late) for alias in node.names)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checked = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            yield from late_imports(node, late=late or later or checked)


def roots(imports: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in imports}


def early_extras(name: str, tree: ast.AST, whole: Mapping[str, str]) -> set[str]:
    """What a module imports too early: modules of extras, and packages of nearfar that need an extra.

    Args:
        name: the module's path from ``src/nearfar``.
        whole: as :data:`WHOLE`.
    """
    own = whole.get(re.split(r"[/.]", name)[0])
    early = {module for module, late in late_imports(tree) if not late}
    found = roots(early) & {module for extra, modules in EXTRAS.items() if extra != own for module in modules}
    for package, extra in whole.items():
        if extra != own:
            found |= {module for module in early if f"{module}.".startswith(f"nearfar.{package}.")}
    return found


def test_no_module_imports_an_extra_before_it_is_needed() -> None:
    early = {name: found for name, tree in trees().items() if (found := early_extras(name, tree, WHOLE))}
    assert early == {}
    used = roots(module for tree in trees().values() for module, _ in late_imports(tree))
    listed = {module for modules in EXTRAS.values() for module in modules}
    assert listed - used == USED_WITHIN.keys(), "an extra that nothing uses"


@pytest.mark.parametrize(
    ("code", "early"),
    [
        ("import peft.tuners", {"peft"}),
        ("from matplotlib.axes import Axes", {"matplotlib"}),
        ("try:\n    import peft\nexcept ImportError:\n    peft = None", {"peft"}),
        ("class Chart:\n    import jinja2", {"jinja2"}),
        ("if sys.platform == 'linux':\n    import yaml", {"yaml"}),
        ("def draw():\n    import matplotlib", set()),
        ("if TYPE_CHECKING:\n    import accelerate", set()),
        ("from . import yaml", set()),
        ("from nearfar import report", {"nearfar.report"}),
        ("import nearfar.report.page", {"nearfar.report.page"}),
        ("def draw():\n    from nearfar.report.page import write_page", set()),
        ("from nearfar.reporting import write_page", set()),
    ],
)
def test_the_check_finds_an_early_import(code: str, early: set[str]) -> None:
    assert early_extras("cli/machine.py", ast.parse(code), {"report": "report"}) == early


def test_a_package_of_an_extra_may_import_it_and_no_other_early() -> None:
    tree = ast.parse("import jinja2\nfrom nearfar.report.page import write_page\nimport peft")
    assert early_extras("report/run_page.py", tree, {"report": "report"}) == {"peft"}


def test_every_imported_package_is_declared() -> None:
    """Nothing is imported that only comes along with another package and may be gone in its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split(r"[<>=]", line)[0].lower() for line in project["dependencies"]}
    of_module = {
        module: {name.lower().replace("_", "-") for name in names}
        for module, names in packages_distributions().items()
    }
    found = roots(module for tree in trees().values() for module, _ in late_imports(tree))
    found -= sys.stdlib_module_names | {"nearfar"} | {module for modules in EXTRAS.values() for module in modules}
    assert {module for module in found if not of_module[WITHIN.get(module, module)] & core} == set()
    used = {name for module in found for name in of_module[module]}
    assert core <= used, "a dependency that nothing imports"


# --- public names -----------------------------------------------------------------------------------------------

PUBLIC = {
    "nearfar": [
        "Detector", "NearfarError", "Recipe", "Score", "__version__", "list_recipes", "load_encoder",
        "load_recipe",
    ],
    "nearfar.cancellation": ["Cancellation", "best_delay", "cancel"],
    "nearfar.data": [
        "AudioHeader", "Clip", "Dataset", "read_dataset", "read_header", "read_normals", "read_waveform",
    ],
    "nearfar.encoders": [
        "ADAPTATIONS", "EAT", "ENCODERS", "SPEEDUPS", "Adaptation", "BaseEncoder", "EATConfig", "Encoder",
        "EncoderFamily", "LoraSettings", "Speedup", "Tokens", "build_encoder", "encoder_hash", "load_encoder",
        "parameter_count", "save_encoder", "stochastic_depth", "token_keep",
    ],
    "nearfar.frontends": ["Frontend", "KaldiFbank", "SlaneyLogMel", "slaney_log_mel"],
    "nearfar.losses": ["LOSSES", "AdaCosLoss", "AdaCosSettings", "ArcFaceLoss", "ArcFaceSettings", "Loss"],
    "nearfar.metrics": [
        "auc", "auc_source_target", "bootstrap_interval", "harmonic_mean", "official_score", "partial_auc",
        "roc_curve",
    ],
    "nearfar.pooling": [
        "POOLINGS", "TRAINED_POOLINGS", "AttentiveStatisticsPooling", "AttentiveStatisticsSettings",
        "MeanPooling", "MeanStdPooling", "Pooling", "RelativeDeviationPooling", "RelativeDeviationSettings",
        "TrainedPooling", "attentive_statistics", "log_mel_statistics", "mean_pooling", "mean_std_pooling",
        "relative_deviation_pooling",
    ],
    "nearfar.scoring": [
        "BACKENDS", "BEAM", "FUSIONS", "Backend", "Contributions", "ExplainingScorer", "Fusion", "LocalDensity",
        "MachineScorer", "Mahalanobis", "NearestNeighbours", "Scorer", "ScoringPlan", "VarMin",
        "ViewContributions", "ViewScores", "Workspace",
    ],
    "nearfar.thresholds": [
        "FEWEST_GROUPS", "RULES", "Calibration", "Fallback", "NormalScore", "Rule", "Threshold",
        "changed_thresholds",
        "conformal_threshold", "domains_of", "empirical_threshold", "find_threshold", "gamma_threshold",
        "given_threshold", "is_consistent", "p_values", "threshold_of", "usable_threshold", "usable_thresholds",
    ],
    "nearfar.views": [
        "VIEWS", "View", "channels_of", "combined_features", "make_views", "read_views", "required_waveforms",
    ],
}  # fmt: skip
"""All public names, by module. A change here is a change of the public interface."""

MODULES = [name.removeprefix("nearfar.") for name in PUBLIC if name != "nearfar"]


def public_objects() -> Iterator[tuple[str, object]]:
    """Public classes and functions, and the public methods and properties of the classes, by dotted name."""
    for module, names in PUBLIC.items():
        for name in names:
            found = getattr(importlib.import_module(module), name)
            if not inspect.isclass(found) and not inspect.isfunction(found):
                continue
            yield f"{module}.{name}", found
            for member, value in vars(found).items() if inspect.isclass(found) else ():
                plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                plain = plain.fget if isinstance(plain, property) else plain
                # A function that is the default of a field has another name than the field.
                if inspect.isfunction(plain) and plain.__name__ == member and not member.startswith("_"):
                    yield f"{module}.{name}.{member}", plain


OBJECTS = dict(public_objects())


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_the_listed_ones(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module])
    space: dict[str, object] = {}
    exec(f"from {module} import *", space)
    assert space.keys() - {"__builtins__"} == set(found.__all__)
    assert found.__doc__


def test_the_package_lists_its_names_and_modules() -> None:
    assert dir(nearfar) == sorted([*PUBLIC["nearfar"], *MODULES])
    for name in MODULES:
        assert isinstance(getattr(nearfar, name), ModuleType)
    space: dict[str, object] = {}
    exec("import nearfar\nloss = nearfar.losses.ArcFaceLoss", space)


def test_public_names_of_the_package_are_those_of_its_modules() -> None:
    from nearfar.config import Recipe, list_recipes, load_recipe
    from nearfar.detector import Detector, Score
    from nearfar.encoders import load_encoder
    from nearfar.errors import NearfarError

    found = (Detector, NearfarError, Recipe, Score, list_recipes, load_encoder, load_recipe)
    assert found == tuple(getattr(nearfar, name) for name in PUBLIC["nearfar"] if name != "__version__")


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_has_a_docstring(name: str) -> None:
    found = OBJECTS[name]
    doc = found.__doc__ if inspect.isclass(found) else inspect.getdoc(found)
    if not doc and name.count(".") == 3:  # a method that a base class or protocol documents
        owner = OBJECTS[name.rpartition(".")[0]]
        doc = inspect.getdoc(getattr(owner, name.rpartition(".")[2]))
    assert doc, f"{name} has no docstring"
    assert not doc.startswith(f"{name.rpartition('.')[2]}("), f"{name} has only the docstring of a dataclass"


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_is_annotated_in_full(name: str) -> None:
    found = OBJECTS[name]
    if inspect.isclass(found):
        found = vars(found).get("__init__")
        if not inspect.isfunction(found) or not found.__module__.startswith("nearfar"):
            return
    signature = inspect.signature(found)
    bare = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is inspect.Parameter.empty and parameter.name not in ("self", "cls")
    ]
    assert not bare, f"{name}: {bare}"
    is_init = found.__name__ == "__init__"
    assert is_init or signature.return_annotation is not inspect.Signature.empty, f"{name}: no return type"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'nearfar' has no attribute 'load_decoder'"):
        nearfar.load_decoder  # noqa: B018


def test_the_package_is_typed_and_its_version_is_the_distributions() -> None:
    assert (Path(nearfar.__path__[0]) / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert nearfar.__version__ == project["version"]


# --- sizes and names --------------------------------------------------------------------------------------------

MOST_LINES_OF_A_MODULE, MOST_LINES_OF_A_FUNCTION = 700, 60


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module, by path from ``src/nearfar``."""
    files = sorted(SOURCE.rglob("*.py"))
    assert files
    return {file.relative_to(SOURCE).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring and signature, which lists the options of a command."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_modules_and_functions_are_of_readable_length() -> None:
    long_modules = {
        name: lines
        for name in trees()
        if (lines := len((SOURCE / name).read_text(encoding="utf-8").splitlines())) > MOST_LINES_OF_A_MODULE
    }
    assert long_modules == {}
    long_functions = {
        f"{name}:{node.name}": lines
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := body_lines(node)) > MOST_LINES_OF_A_FUNCTION
    }
    assert long_functions == {}


def test_a_class_name_has_one_meaning_in_the_package() -> None:
    classes = defaultdict(list)
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(name)
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}


def test_no_module_has_a_name_without_meaning() -> None:
    names = {module.name.rpartition(".")[2] for module in pkgutil.walk_packages(nearfar.__path__, "nearfar.")}
    assert not names & {"utils", "util", "helpers", "common", "misc", "manager"}


# --- choices are made in their tables ---------------------------------------------------------------------------

TABLES = {
    "adaptation": ADAPTATIONS,
    "backend": BACKENDS,
    "family": ENCODERS,
    "fusion": FUSIONS,
    "loss": LOSSES,
    "method": BACKENDS,
    "pooling": {**POOLINGS, **TRAINED_POOLINGS},
    "rule": RULES,
    "source": SOURCES,
}
"""Entries by the field of a recipe, or the variable, that names one."""

ELSEWHERE = {
    "config/renamed.py": "reads the keys of earlier versions",
}
"""Modules that compare choices with names all the same, and why."""


def compared_choices(tree: ast.AST) -> list[str]:
    """Comparisons of a choice with the name of an entry of its table: ``recipe.features.source == "tokens"``."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        fields = {side.attr for side in sides if isinstance(side, ast.Attribute)}
        fields |= {side.id for side in sides if isinstance(side, ast.Name)}
        literals = {part.value for side in sides for part in ast.walk(side) if isinstance(part, ast.Constant)}
        found += [
            ast.unparse(node)
            for field in fields & TABLES.keys()
            if any(isinstance(value, str) and value in TABLES[field] for value in literals)
        ]
    return found


def test_code_compares_no_choice_with_a_name() -> None:
    """What differs between the entries of a table is written in the entries."""
    compared = {name: found for name, tree in trees().items() if (found := compared_choices(tree))}
    assert compared.keys() == ELSEWHERE.keys(), compared


@pytest.mark.parametrize(
    "code",
    [
        'recipe.training.adaptation != "none"',
        'recipe.scoring.backend == "autoencoder"',
        'settings.pooling in ("asp", "cls")',
        'rule == "gamma"',
    ],
)
def test_the_check_finds_a_comparison(code: str) -> None:
    assert compared_choices(ast.parse(code)) == [code.replace('"', "'")]
