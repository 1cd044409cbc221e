"""Packages and megabytes that nearfar installs: alone, and with each extra, torch apart.

    python benchmarks/installed_size.py

Every row is what its requirement adds to the one that it is installed upon, in an environment of its own.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path

from environments import Layer, closure, with_torch

ROOT = Path(__file__).resolve().parents[1]
NOT_MEASURED = {"dev", "docs"}
"""Extras for work on nearfar itself."""


def row(what: str, megabytes: float, packages: int) -> None:
    print(json.dumps({"installed": what, "MB": round(megabytes, 1), "packages": packages}), flush=True)


def measure(what: str, layer: Layer) -> None:
    """Print the size of a layer's own packages, with the bytecode that pip compiles."""
    files = [file for file in layer.packages.rglob("*") if file.is_file()]
    row(what, sum(file.stat().st_size for file in files) / 1e6, len(list(layer.packages.glob("*.dist-info"))))


def main() -> None:
    torch = closure("torch")
    files = [Path(str(file.locate())) for package in torch for file in package.files or ()]
    row("torch", sum(file.stat().st_size for file in set(files) if file.is_file()) / 1e6, len(torch))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = with_torch(folder / "torch").above(folder / "nearfar")
        bare.install(str(ROOT))
        measure("nearfar, upon torch", bare)
        for extra in sorted(project["optional-dependencies"].keys() - NOT_MEASURED):
            layer = bare.above(folder / extra)
            layer.install(f"nearfar[{extra}] @ {ROOT.as_uri()}")
            measure(f"nearfar[{extra}], upon nearfar", layer)


if __name__ == "__main__":
    main()
