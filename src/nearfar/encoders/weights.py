"""Loading and saving of EAT's weights.

EAT is published in two forms that name the same tensors differently: fairseq checkpoints (``.pt``) and Hugging
Face folders (``config.json`` and ``model.safetensors``). Both are read strictly: a tensor that is missing, left
over or of another shape is an error, because a half-loaded encoder still produces embeddings, only worse ones.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.encoders.eat import (
    EAT,
    EAT_BASE,
    FIXED_BY_EAT,
    SIZE_KEYS,
    SIZES,
    EATConfig,
    build_encoder,
    sincos_positions,
)
from nearfar.encoders.hub import ENCODER_FILES, SHORT_NAMES, download
from nearfar.errors import InputError
from nearfar.files import whole_file

CONFIG_FILE, WEIGHTS_FILE = ENCODER_FILES
POSITIONS = "fixed_positional_encoder.positions"
POSITIONS_ATOL = 1e-4
"""The published table was computed in float32; a float64 formula differs from it by up to 5e-5."""

NOT_ENCODER = ("decoder.", "_ema", "head.", "fc_norm.")
"""The pre-training decoder, the teacher, and the classifier of a fine-tuned model, which are skipped."""

SHIPPED = ("eat-tiny",)
SHIPPED_FOLDER = Path(__file__).resolve().parent / "shipped"
"""Encoders that come with the package, by the name of their folder."""

HEADS_OF_WIDTH = {config.embed_dim: config.num_heads for config in SIZES.values()}


def load_encoder(path_or_name: str | Path, *, revision: str | None = None) -> EAT:
    """Load an EAT encoder, in evaluation mode, float32, on the CPU.

    Args:
        path_or_name: one of

            - a folder in Hugging Face layout: ``config.json`` and ``model.safetensors``, of any size;
            - a ``.safetensors`` file with fairseq, Hugging Face or bare names;
            - a fairseq ``.pt`` file, pre-trained or fine-tuned (``weights_only=True``: no code in it runs);
            - ``eat-tiny``, the small encoder that comes with nearfar;
            - ``eat-base`` or ``eat-large``, short for the published encoders' names on the hub;
            - ``random:tiny``, ``random:base`` or ``random:large``, optionally with ``:seed``, for a random start;
            - a name on the Hugging Face hub, ``owner/name``; a copy in the local cache is used first.

            A ``config.json`` beside a file gives the sizes; without one they follow from the tensors.
        revision: branch, tag or commit on the hub, see :func:`nearfar.encoders.hub.download`; only for hub names.

    Raises:
        InputError: if there is no such encoder, the file cannot be read or contains code, or its tensors are not
            those of an EAT encoder.
    """
    name = str(path_or_name)
    if name.startswith("random:"):
        return _random_start(name)
    path = SHIPPED_FOLDER / name if name in SHIPPED else Path(path_or_name)
    if path.exists():
        return _load_folder(path) if path.is_dir() else _load_file(path)
    name = SHORT_NAMES.get(name, name)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and path.suffix not in READERS:
        return _load_folder(download(name, revision))
    raise InputError(
        name,
        found="no such file or folder",
        expected="a folder with config.json and model.safetensors, a .safetensors or .pt file, "
        "eat-tiny, random:tiny, or owner/name on the Hugging Face hub",
        remedy="Check the spelling and the working directory",
    )


def save_encoder(encoder: EAT, folder: Path, *, compact: bool = False) -> None:
    """Write an encoder in the published Hugging Face layout; :func:`load_encoder` reads it back bit for bit.

    ``compact`` is float16, which rounds, and without the positions, which follow from the sizes. Each file
    appears whole or not at all, and ``config.json`` last.

    Raises:
        InputError: if the folder cannot be written, for instance because the disk is full.
    """
    tensors = encoder.state_dict()
    if not compact:
        tensors[POSITIONS] = encoder.fixed_positional_encoder.positions
    dtype = torch.float16 if compact else torch.float32
    stored = {f"model.{name}": tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    text = json.dumps(encoder.sizes(), indent=2) + "\n"
    try:
        with whole_file(folder / WEIGHTS_FILE) as partial:
            save_file(stored, partial, metadata={"format": "pt"})
        with whole_file(folder / CONFIG_FILE) as partial:
            partial.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            folder,
            found=f"a folder that cannot be written ({error})",
            expected=f"a writable folder with {sum(t.nbytes for t in stored.values()) / 1e6:.0f} MB free",
            remedy="Free some space or choose another folder",
        ) from None


def parameter_count(module: nn.Module) -> int:
    """Number of scalars in a module's parameters; buffers such as the positions do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def seeded_start(weights: str, seed: int) -> str:
    """The name of the weights, with the seed added to a random start without one: ``random:tiny:0``."""
    return f"{weights}:{seed}" if weights.startswith("random:") and weights.count(":") == 1 else weights


def _random_start(name: str) -> EAT:
    _, size, *seed = name.split(":")
    if size not in SIZES or len(seed) > 1 or not all(re.fullmatch(r"\d{1,18}", part) for part in seed):
        raise InputError(
            name,
            found="a random start of unknown size or seed",
            expected=f"random:SIZE or random:SIZE:SEED with SIZE one of {', '.join(SIZES)}",
            remedy="Correct the name",
        )
    return build_encoder(size, seed=int(seed[0]) if seed else 0).eval()


def _load_folder(folder: Path) -> EAT:
    absent = [name for name in ENCODER_FILES if not (folder / name).is_file()]
    if absent:
        raise InputError(
            folder,
            found=f"a folder without {' and '.join(absent)}",
            expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}, the Hugging Face layout",
            remedy="Copy both files to it, or name the .safetensors or .pt file itself",
        )
    return _load_file(folder / WEIGHTS_FILE)


def _load_file(path: Path) -> EAT:
    if path.suffix not in READERS:
        raise InputError(
            path,
            found=f"a file that ends in {path.suffix!r}",
            expected="weights: " + ", ".join(READERS),
            remedy="Give the file of weights, or its folder",
        )
    tensors = _encoder_tensors(READERS[path.suffix](path), path)
    config_path = path.with_name(CONFIG_FILE)
    config = _read_config(config_path) if config_path.is_file() else _infer_config(tensors, path)
    return _filled(config, tensors, path)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, "safetensors file", error) from None


def _read_pickle(path: Path, *, whole: bool = False) -> dict[str, Any]:
    """The state dict of a checkpoint, bare or of fairseq, or the whole; nothing in the pickle is executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load also raises what it warns of
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            if file.read(1) not in (b"\x80", b"P"):  # neither a pickle nor a zip archive with one inside
                raise _unreadable(path, "torch checkpoint", ValueError("not a pickle")) from None
        # Only the reason is quoted: torch's own message advises to switch the protection off.
        reason = re.search(r"GLOBAL \S+|Unsupported operand \d+", str(error)) or ["unknown"]
        raise InputError(
            path,
            found=f"a pickle that asks for more than tensors ({reason[0]}), so that it could run code; "
            "nothing in it was run",
            expected="a checkpoint of tensors, numbers, texts and containers only",
            remedy="Get the weights as safetensors. If this is an old fairseq checkpoint whose source you trust, "
            "convert its 'model' entry to a .safetensors file in an isolated environment",
        ) from None
    except Exception as error:  # a damaged archive or pickle can fail in nearly any way
        raise _unreadable(path, "torch checkpoint", error) from None
    if whole and isinstance(state, dict):
        return state
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(
            path,
            found=f"a {type(state).__name__} without named tensors",
            expected="a fairseq checkpoint with an entry 'model', or a dictionary of tensors",
            remedy="Check where the file comes from",
        )
    return state


READERS: dict[str, Callable[..., dict[str, Any]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_pickle,
    ".pth": _read_pickle,
    ".bin": _read_pickle,
}


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    found = f"{path.stat().st_size} bytes that do not read as a {kind} ({reason})"
    if isinstance(error, PermissionError):
        found = "a file that may not be read"
    else:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
        if not start:
            found = "an empty file"
        elif start.startswith(b"<"):
            found = "a web page"
        elif start.startswith(b"version https://git-lfs"):
            found = "a Git LFS pointer, not the weights it points to"
    return InputError(path, found=found, expected=f"a whole {kind}", remedy="Get the file again")


def _encoder_tensors(state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of the encoder under the names that :class:`EAT` gives them."""
    tensors: dict[str, Tensor] = {}
    wrong = []
    for published, value in state.items():
        name = published.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
        name = name.replace("context_encoder.norm.", "pre_norm.", 1)
        if name.startswith(NOT_ENCODER):
            continue
        if name in tensors:
            wrong.append(f"{published} twice")
        elif not isinstance(value, Tensor) or not value.is_floating_point():
            wrong.append(f"{published} of type {getattr(value, 'dtype', type(value).__name__)}")
        elif not torch.isfinite(value).all():
            wrong.append(f"{published} with NaN or infinite values")
        else:
            tensors[name] = value
    if wrong:
        raise _not_eat(path, wrong)
    return tensors


def _infer_config(tensors: dict[str, Tensor], path: Path) -> EATConfig:
    """Sizes from shapes. Only the number of heads cannot be inferred; for the published widths it is D / 64."""
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    patch, fc1 = tensors.get("local_encoder.proj.weight"), tensors.get("blocks.0.mlp.fc1.weight")
    if not blocks or patch is None or patch.dim() != 4 or fc1 is None or fc1.dim() != 2:
        raise _not_eat(path, sorted(tensors), f"{len(tensors)} tensors: ")
    dim = patch.shape[0]
    if dim not in HEADS_OF_WIDTH:
        raise InputError(
            path,
            found=f"an encoder of width {dim}, whose number of attention heads does not follow from its tensors",
            expected=f"width {', '.join(map(str, sorted(HEADS_OF_WIDTH)))}, or a {CONFIG_FILE} beside the file",
            remedy=f'Write {path.with_name(CONFIG_FILE)} with "embed_dim", "depth" and "num_heads"',
        )
    return EATConfig(
        embed_dim=dim,
        depth=max(blocks) + 1,
        num_heads=HEADS_OF_WIDTH[dim],
        mlp_ratio=fc1.shape[0] / dim,
        patch_size=patch.shape[-1],
    )


def _read_config(path: Path) -> EATConfig:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, "JSON file", error) from None

    def wrong(found: str, expected: str) -> InputError:
        return InputError(path, found=found, expected=expected, remedy=f"Use the {CONFIG_FILE} of these weights")

    if not isinstance(given, dict):
        raise wrong(f"a JSON {type(given).__name__}", "an object with the sizes of an EAT encoder")
    values: dict[str, Any] = {}
    for key, kind in SIZE_KEYS.items():
        is_required = key in ("embed_dim", "depth", "num_heads")
        value: Any = given.get(key, None if is_required else getattr(EAT_BASE, key))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and value > 0 and kind(value) == value):
            raise wrong(f"{key} = {value!r}", f"a positive {'whole number' if kind is int else 'number'}")
        values[key] = kind(value)
    for key, fixed in {**FIXED_BY_EAT, "stride": values["patch_size"]}.items():
        if given.get(key, fixed) != fixed:
            raise wrong(f"{key} = {given[key]!r}", f"{key} = {fixed!r}, as in every published EAT")
    if values["embed_dim"] % values["num_heads"] or values["embed_dim"] % 4:
        raise wrong(
            f"embed_dim {values['embed_dim']} and num_heads {values['num_heads']}",
            "a width that can be divided by 4 and by the number of heads",
        )
    return EATConfig(**values)


def _filled(config: EATConfig, tensors: dict[str, Tensor], path: Path) -> EAT:
    """An encoder of the given sizes with the tensors as weights; the stored positions are only compared."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
        encoder = EAT(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    table = sincos_positions(config.max_length, config.bands, config.embed_dim)
    stored = tensors.pop(POSITIONS, None)
    wrong = [f"no {name}" for name in shapes if name not in tensors]
    wrong += [f"an unknown {name}" for name in tensors if name not in shapes]
    wrong += [
        f"{name} of shape {tuple(tensor.shape)} instead of {shapes[name]}"
        for name, tensor in tensors.items()
        if name in shapes and tuple(tensor.shape) != shapes[name]
    ]
    if stored is not None and not _same_positions(stored, table):
        wrong.append(f"{POSITIONS} other than EAT's sines and cosines")
    if wrong:
        raise _not_eat(path, wrong)
    encoder.to_empty(device="cpu")
    encoder.load_state_dict(tensors)
    encoder.fixed_positional_encoder.positions.copy_(table)
    return encoder.eval()


def _same_positions(stored: Tensor, table: Tensor) -> bool:
    """Whether the common rows of two tables (1, rows, D) are equal, within the precision of the stored one."""
    if stored.dim() != 3 or stored.shape[0] != 1 or stored.shape[2] != table.shape[2]:
        return False
    rows = min(stored.shape[1], table.shape[1])
    tolerance = max(POSITIONS_ATOL, torch.finfo(stored.dtype).eps if stored.is_floating_point() else 0.0)
    return torch.allclose(stored[:, :rows].float(), table[:, :rows], rtol=0.0, atol=tolerance)


def _not_eat(path: Path, wrong: list[str], intro: str = "", at_most: int = 4) -> InputError:
    more = f" and {len(wrong) - at_most} more" if len(wrong) > at_most else ""
    return InputError(
        path,
        found=f"{intro}{', '.join(wrong[:at_most])}{more}",
        expected="exactly the tensors of an EAT encoder",
        remedy=f"Check that the file is an EAT checkpoint and that a {CONFIG_FILE} beside it belongs to it",
    )
