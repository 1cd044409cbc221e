"""Optional packages: which extra installs them, and the error where they are missing.

``pip install nearfar`` installs what detectors need. Modules in :data:`EXTRAS` are imported inside the functions
that need them, and long tasks that come to such a function call :func:`require_extras` before they begin.
"""

from __future__ import annotations

from importlib.util import find_spec

from nearfar.errors import InputError

EXTRAS: dict[str, tuple[str, ...]] = {
    "dask": ("distributed",),
    "edge": ("onnxruntime",),
    "export": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "ray": ("ray",),
    "report": ("jinja2", "matplotlib", "yaml"),
    "simulate": ("pyroomacoustics",),
    "tracking": ("tensorboard",),
    "train": ("accelerate", "huggingface_hub", "peft"),
    "watch": (
        *(
            "apprise",
            "av",
            "fastapi",
            "paho",
            "prometheus_client",
            "python_multipart",
            "sounddevice",
            "sqlalchemy",
        ),
        *("uvicorn", "watchfiles"),
    ),
}
"""The modules that each extra installs, which nothing else of nearfar needs; as in ``pyproject.toml``."""


def missing_modules(extra: str) -> list[str]:
    """The modules of an extra that are not installed; none is imported."""
    return [module for module in EXTRAS[extra] if find_spec(module) is None]


def require_extras(subject: str, *extras: str) -> None:
    """Refuse to begin without the modules of extras.

    Args:
        subject: what needs them, such as ``"nearfar simulate"``, for the message.
        extras: keys of :data:`EXTRAS`.

    Raises:
        InputError: if a module is not installed, with the command that installs the extras.
    """
    missing = {extra: modules for extra in sorted(set(extras)) if (modules := missing_modules(extra))}
    if missing:
        modules = [module for of_extra in missing.values() for module in of_extra]
        noun = "extra" if len(missing) == 1 else "extras"
        raise InputError(
            subject,
            found=f"no Python module {', '.join(modules)}",
            expected=f"the packages of nearfar's {noun} {', '.join(missing)}",
            remedy=f"Run pip install 'nearfar[{','.join(missing)}]'",
        )
