"""Options of several commands, and the parsing of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Option

from nearfar.cli.messages import usage_error
from nearfar.threads import set_jobs

if TYPE_CHECKING:
    from nearfar.config import Recipe
    from nearfar.config.validation import RecipeTable

_DATA = "Folder with <machine>/{train,test}/*.wav, or <machine>/normal/*.wav; see docs/layouts.md."
_ENCODER = "Encoder weights: a folder, file or hub name, eat-tiny, or random:tiny."
_FAST = "Speed-ups of the encoder, which change scores a little; see docs/results/fast-mode.md."
_NOTE = "A line for all tables of the results, such as 'simulated data'."
_SET = "Change a recipe key: --set training.steps=100"
_JOBS = "Workers and threads; default: NEARFAR_JOBS, or the cores that may be used."
_CLUSTER = "Run tasks on a {} cluster that shares folders with this machine: its address, such as {}."
_CHANNEL = "Channel of the {} microphone in the files, from 0."

Data = Annotated[Path, Option("--data", help=_DATA)]
Out = Annotated[Path, Option("--out", help="Output folder; created if needed.")]
Json = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]
Note = Annotated[str | None, Option("--note", help=_NOTE)]
Set = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help=_SET)]
Fast = Annotated[bool, Option("--fast", help=_FAST)]
Encoder = Annotated[str | None, Option("--encoder", help=_ENCODER)]
Near = Annotated[int | None, Option("--near", min=0, help=_CHANNEL.format("near"))]
Far = Annotated[int | None, Option("--far", min=0, help=_CHANNEL.format("far"))]
Jobs = Annotated[
    int | None, Option("--jobs", min=1, help=_JOBS, callback=lambda value: set_jobs(value), expose_value=False)
]
Ray = Annotated[str | None, Option("--ray", metavar="ADDRESS", help=_CLUSTER.format("Ray", "auto"))]
Dask = Annotated[str | None, Option("--dask", metavar="ADDRESS", help=_CLUSTER.format("Dask", "tcp://host:8786"))]

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
    """The recipe with the values of options, which override ``--set``.

    Raises:
        InputError: if a setting has no ``=``, or the recipe has no such key or value.
    """
    changes: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise usage_error("--set", setting, "KEY=VALUE", "Write --set training.steps=100")
        changes[key] = _toml_value(value)
    given = {"encoder.weights": encoder, "seed": seed, "audio.near_channel": near, "audio.far_channel": far}
    changes |= {key: value for key, value in given.items() if value is not None}
    return recipe.with_changes(**changes) if changes else recipe


def sped_up(recipe: Recipe, fast: bool) -> Recipe:
    """The recipe with the speed-ups of ``--fast``, if that was given; an InputError if it uses no encoder.

    Windows have their own length unless the model is trained on their padding, which then carries information.
    """
    from nearfar.encoders.speedups import FAST, FAST_WITH_PADDING

    if fast and not recipe.uses_encoder:
        remedy = "Omit --fast, or choose a recipe with an encoder, such as frozen-eat"
        raise usage_error("--fast", f"the recipe {recipe.name}", "one that uses an encoder", remedy)
    speedups = FAST_WITH_PADDING if recipe.trains and not recipe.encoder.mask_padding else FAST
    return recipe.with_changes(**{"inference.speedups": list(speedups)}) if fast else recipe


def _toml_value(text: str) -> Any:
    """A TOML value (number, true, list, quoted text), else the text itself."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def numbers(option: str, text: str, kind: Callable[[str], Number], expected: str) -> tuple[Number, ...]:
    """Numbers separated by commas; an InputError with ``expected`` if they are not."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise usage_error(option, text, expected, "Correct it") from None


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers, each once: ``0,1,2``, or ``0-4`` for all from 0 to 4.

    Raises:
        InputError: if they are not, or one is repeated.
    """
    expected = "whole numbers, each once, as in 0,1,2 or 0-4"
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or not (last.isdecimal() if dash else True) or int(last or first) < int(first):
            raise usage_error(option, text, expected, "Correct it")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) < len(found):
        raise usage_error(option, text, expected, "Remove the repeats")
    return tuple(found)


def number_pair(option: str, text: str) -> tuple[float, float]:
    """Two numbers separated by a comma; an InputError if they are not."""
    expected = "two numbers, as in -3,9"
    pair = numbers(option, text, float, expected)
    if len(pair) != 2:
        raise usage_error(option, text, expected, "Correct it")
    return pair[0], pair[1]


def channel_numbers(near: int | None, far: int | None) -> tuple[int, int]:
    """The values of ``--near`` and ``--far``, by default those of the challenge's recordings."""
    from nearfar.config import FAR_CHANNEL, NEAR_CHANNEL

    return NEAR_CHANNEL if near is None else near, FAR_CHANNEL if far is None else far
