"""Versions, hardware and command line of a run, written beside its results."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import nearfar
from nearfar.files import as_text

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
        "command": [as_text(argument) for argument in sys.argv],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory_bytes() -> int | None:
    """Peak memory of this process in bytes, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
