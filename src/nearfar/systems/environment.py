"""What a run was made with, written beside its results."""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nearfar
from nearfar.errors import NearfarError

_PACKAGES = ("accelerate", "numpy", "peft", "safetensors", "scikit-learn", "scipy", "soundfile", "soxr")


def environment() -> dict[str, Any]:
    """Versions, machine and command line of this process."""
    return {
        "nearfar": nearfar.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory_bytes() -> int | None:
    """The most memory this process has held, or None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all.

    Raises:
        NearfarError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise NearfarError(
            f"{path}: cannot write it ({error.strerror}). Free some space or choose another folder."
        ) from None


def write_json(path: Path, tree: Any) -> None:
    """:func:`write_text` of indented JSON."""
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False, default=str) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
