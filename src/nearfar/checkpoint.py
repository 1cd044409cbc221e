"""The state of a training in one safetensors file, replaced atomically.

Trainable parameters, the moments of Adam or AdamW, named buffers and the number of finished steps are the whole
state: batches and learning rates are functions of the step.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.errors import InputError, NearfarError
from nearfar.files import flush_to_disk, whole_file

CHECKPOINT_FILE = "checkpoint.safetensors"

_SUBJECTS = {"model_key": "recipe", "data_key": "training clips", "base_hash": "encoder weights"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Hashes of everything that a training depends on; it resumes only from a checkpoint with the same.

    Attributes:
        model_key: hash of the settings that decide the result.
        data_key: hash of the training data.
        base_hash: hash of the encoder's weights before training; not compared if None.
    """

    model_key: str
    data_key: str
    base_hash: str | None = None


def save_checkpoint(
    folder: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
    identity: Identity,
    buffers: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state after ``step`` finished steps; the previous checkpoint is replaced once it is complete.

    ``parameters`` are all trainable ones, ``optimizer`` is an Adam or AdamW over them, and ``buffers`` are other
    tensors that training changes. The folder is created if needed.

    Raises:
        NearfarError: if the file cannot be written, for instance because the disk is full.
    """
    tensors = {f"parameter.{name}": parameter.detach().cpu() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{key}.{name}": value.cpu() for key, value in optimizer.state[parameter].items()}
    tensors |= {f"buffer.{name}": value.detach().cpu().clone() for name, value in (buffers or {}).items()}
    metadata = {"step": str(step), **{key: value for key, value in asdict(identity).items() if value is not None}}
    path = folder / CHECKPOINT_FILE
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    try:
        if shutil.disk_usage(folder).free < needed:
            raise OSError("no space left on device")
        with whole_file(path) as partial:
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial, metadata)
            flush_to_disk(partial)
    except (OSError, SafetensorError) as error:
        earlier = "the previous checkpoint is kept" if path.is_file() else "there is no earlier checkpoint"
        raise NearfarError(
            f"{path}: cannot write the checkpoint of step {step} ({error}); it needs {needed / 1e6:.0f} MB and "
            f"{shutil.disk_usage(folder).free / 1e6:.0f} MB are free; {earlier}. "
            "Free some space and run the same command again; it continues from the last checkpoint."
        ) from None


def finished_steps(folder: Path, identity: Identity) -> int:
    """Number of finished steps of the folder's checkpoint; 0 without one. Reads the file's header only.

    Raises:
        InputError: if the checkpoint cannot be read or belongs to another run.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unfit(path, f"a file that cannot be read ({error})", "a checkpoint") from None
    for key, expected in asdict(identity).items():
        if expected is not None and metadata.get(key) != expected:
            subject = _SUBJECTS[key]
            raise _unfit(path, f"a checkpoint of other {subject} ({metadata.get(key)})", f"{subject} {expected}")
    if not metadata.get("step", "").isdecimal():
        raise _unfit(path, f"the step {metadata.get('step')}", "a number of finished steps")
    return int(metadata["step"])


def load_checkpoint(
    folder: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    identity: Identity,
    buffers: Mapping[str, Tensor] | None = None,
) -> int:
    """Restore the state in place and return the number of finished steps, 0 without a checkpoint.

    Raises:
        InputError: if the checkpoint cannot be read, belongs to another run, or its tensors do not fit.
    """
    finished, path, buffers = finished_steps(folder, identity), folder / CHECKPOINT_FILE, buffers or {}
    if not finished:
        return 0
    tensors = load_file(path)
    shapes = {
        f"{kind}.{name}": () if kind == "step" else tuple(parameter.shape)
        for kind in ("parameter", "exp_avg", "exp_avg_sq", "step")
        for name, parameter in parameters.items()
    } | {f"buffer.{name}": tuple(buffer.shape) for name, buffer in buffers.items()}
    for problem, names, expected in (
        ("missing", shapes.keys() - tensors.keys(), "a whole checkpoint"),
        ("unexpected", tensors.keys() - shapes.keys(), "only this model's tensors"),
    ):
        if names:
            raise _unfit(path, f"{len(names)} {problem} tensors ({', '.join(sorted(names)[:3])})", expected)
    for key, shape in shapes.items():
        if tensors[key].shape != shape:
            raise _unfit(path, f"{key} of shape {tuple(tensors[key].shape)}", f"shape {shape}")
    # Only a fused optimizer counts its steps on the device of the parameter.
    fused = bool(optimizer.defaults.get("fused"))
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(tensors[f"buffer.{name}"])
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            # Cloned, since a tensor may be a view of the mapped file, which the next checkpoint replaces.
            optimizer.state[parameter] = {
                "step": tensors[f"step.{name}"].to(parameter.device if fused else "cpu").clone(),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device).clone(),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device).clone(),
            }
    return finished


def _unfit(path: Path, found: str, expected: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected=expected,
        remedy="Give another output folder, or delete this file to train from the start",
    )
