"""Virtual environments in layers, for tests and measurements of the installed package.

A layer sees the packages of the layers below it and has its own beside them. The lowest one holds links to torch
and what torch needs in this Python, so that nothing of it is downloaded or copied.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Layer:
    """A virtual environment in a folder."""

    folder: Path

    @property
    def scripts(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def packages(self) -> Path:
        """The folder of its own packages."""
        (found,) = self.folder.rglob("site-packages")
        return found

    def above(self, folder: Path) -> Layer:
        """A new layer above this one."""
        return _layer(folder, self.packages, *_linked(self.packages))

    def install(self, *requirements: str) -> None:
        """Install what the layers do not hold already."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.scripts / "python"), "install", "--quiet"]
        subprocess.run([*pip, *requirements], check=True, env=_clean(), cwd=self.folder)

    def run(self, script: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run ``python`` or a script of the environment without this process's Python settings."""
        command = [str(self.scripts / script), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=_clean(), cwd=cwd)


def empty(folder: Path) -> Layer:
    """An environment without any package."""
    return _layer(folder)


def with_torch(folder: Path) -> Layer:
    """The lowest layer: links to torch and its requirements in this Python."""
    links = folder / "links"
    links.mkdir(parents=True)
    for package in closure("torch"):
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (links / top).exists():
                (links / top).symlink_to(Path(str(package.locate_file(top))))
    return _layer(folder / "environment", links)


def closure(name: str) -> list[Distribution]:
    """An installed package and all that it requires."""
    found: dict[str, Distribution] = {}
    wanted = [name]
    while wanted:
        package = distribution(wanted.pop())
        if package.name not in found:
            found[package.name] = package
            lines = map(Requirement, package.requires or ())
            wanted += [line.name for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    return list(found.values())


_PATHS = "layers.pth"


def _layer(folder: Path, *below: Path) -> Layer:
    venv.create(folder, with_pip=False)
    layer = Layer(folder)
    (layer.packages / _PATHS).write_text("".join(f"{path}\n" for path in below), encoding="utf-8")
    return layer


def _linked(packages: Path) -> Iterator[Path]:
    yield from map(Path, (packages / _PATHS).read_text(encoding="utf-8").splitlines())


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
