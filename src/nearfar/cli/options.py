"""Options that several commands share, and how their text is parsed."""

from __future__ import annotations

from collections.abc import Callable
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
OutOption = Annotated[Path, typer.Option("--out", help="Output folder; created if needed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NoteOption = Annotated[
    str | None, typer.Option("--note", help="A line for all tables of the results, such as 'simulated data'.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key: --set training.steps=100"),
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Encoder weights: a folder, file or hub name, eat-tiny, or random:tiny."),
]
NearOption = Annotated[
    int | None, typer.Option("--near", min=0, help="Channel of the near microphone in the files, from 0.")
]
FarOption = Annotated[
    int | None, typer.Option("--far", min=0, help="Channel of the far microphone in the files, from 0.")
]

Changed = TypeVar("Changed", bound="RecipeTable")
Number = TypeVar("Number", int, float)


def changed(
    recipe: Changed,
    encoder: str | None,
    seed: int | None,
    settings: list[str] | None,
    near: int | None = None,
    far: int | None = None,
) -> Changed:
    """The recipe with the changes that options ask for; the options themselves override ``--set``."""
    changes: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError("--set", found=setting, expected="KEY=VALUE", remedy="Write --set training.steps=100")
        changes[key] = _toml_value(value)
    options = {"encoder.weights": encoder, "seed": seed, "audio.near_channel": near, "audio.far_channel": far}
    changes |= {key: value for key, value in options.items() if value is not None}
    return recipe.with_changes(**changes) if changes else recipe


def _toml_value(text: str) -> Any:
    """A TOML value (number, true, list, quoted text), else the text itself."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def numbers(option: str, text: str, kind: Callable[[str], Number], expected: str) -> tuple[Number, ...]:
    """Numbers separated by commas; ``expected`` words the error."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, found=text, expected=expected, remedy="Correct it") from None


def number_pair(option: str, text: str) -> tuple[float, float]:
    """Two numbers separated by a comma."""
    expected = "two numbers, as in -3,9"
    found = numbers(option, text, float, expected)
    if len(found) != 2:
        raise InputError(option, found=text, expected=expected, remedy="Correct it")
    return found[0], found[1]
