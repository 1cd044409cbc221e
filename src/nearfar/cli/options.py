"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.config.validation import RecipeTable

DataOption = Annotated[
    Path,
    typer.Option(
        "--data", help="Folder with <machine>/{train,test}/*.wav, or <machine>/normal/*.wav; see docs/layouts.md."
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write into; made if needed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
NoteOption = Annotated[
    str | None, typer.Option("--note", help="A line for the tables, such as 'simulated data'; never left out.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key: --set training.steps=100"),
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Folder, file or hub name of the encoder's weights, eat-tiny, or random:tiny."),
]
NearOption = Annotated[
    int | None, typer.Option("--near", min=0, help="Channel of the files, from 0, that is the near microphone.")
]
FarOption = Annotated[
    int | None, typer.Option("--far", min=0, help="Channel of the files, from 0, that is the far microphone.")
]


Changed = TypeVar("Changed", bound="RecipeTable")


def changed(
    recipe: Changed,
    encoder: str | None,
    seed: int | None,
    settings: list[str] | None,
    near: int | None = None,
    far: int | None = None,
) -> Changed:
    changes: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError("--set", found=setting, expected="KEY=VALUE", remedy="Write --set training.steps=100")
        changes[key] = _toml_value(value)
    if encoder is not None:
        changes["encoder.weights"] = encoder
    if seed is not None:
        changes["seed"] = seed
    for key, number in (("audio.near_channel", near), ("audio.far_channel", far)):
        if number is not None:
            changes[key] = number
    return recipe.with_changes(**changes) if changes else recipe


def _toml_value(text: str) -> Any:
    """A TOML value (number, true, list, quoted text), else the text itself."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def number_pair(option: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, found=text, expected="two numbers, as in -3,9", remedy="Correct it") from None
    return low, high


def numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, found=text, expected="numbers, as in 2,1,1", remedy="Correct it") from None


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, found=text, expected="whole numbers, as in 0,1,2", remedy="Correct it") from None
