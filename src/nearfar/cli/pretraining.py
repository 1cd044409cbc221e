"""The command that pre-trains an encoder on recordings without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.encoders import EncoderAtHand
from nearfar.cli.options import JsonOption, OutOption, SetOption, changed


def pretrain(
    data: Annotated[
        list[Path], typer.Option("--data", help="Folder of WAV, FLAC or Ogg files at any depth; may be repeated.")
    ],
    out: OutOption,
    recipe: Annotated[
        str, typer.Option(help="ssl-tiny, ssl-base, adapt (continue from EAT-base), or a TOML file.")
    ] = "ssl-tiny",
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Starting encoder: random:SIZE, a folder, file or hub name."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    settings: SetOption = None,
    licence: Annotated[
        list[str] | None,
        typer.Option("--licence", help="Licence of the recordings, for the model card; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pre-train an EAT encoder, or adapt one, on recordings without labels. Rerun the same command to resume."""
    import json

    from nearfar.pretraining.recipe import load_pretrain_recipe
    from nearfar.pretraining.run import pretrain_encoder
    from nearfar.terminal import progress_bars, show

    asked = changed(load_pretrain_recipe(recipe), encoder, seed, settings)
    chosen = EncoderAtHand(encoder, settings, recipe)(asked, out)
    with progress_bars() as progress:
        facts = pretrain_encoder(chosen, data, out, licences=licence or (), progress=progress)
    if facts is None:
        return
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    show(f"{out}: {facts['steps']} steps on {facts['recordings']} recordings, last loss {facts['loss']:.4g}")
    show(f"Use it with --encoder {out}; its data and training are described in {out / 'README.md'}")
