"""Commands that work on embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.encoders import encoder_at_hand
from nearfar.cli.options import EncoderOption, FarOption, NearOption


def embed(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="WAV or FLAC files.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .safetensors or .npy.")],
    encoder: EncoderOption = None,
    channel: Annotated[str, typer.Option(help="near or far.")] = "near",
    pooling: Annotated[str, typer.Option(help="cls, or mean over the patch tokens.")] = "mean",
    seconds: Annotated[
        float | None, typer.Option(help="Zero-pad every clip to this length; default: each clip's own length.")
    ] = None,
    near: NearOption = None,
    far: FarOption = None,
) -> None:
    """Write one embedding per file with a plain encoder, without any training."""
    from nearfar.config import FAR_CHANNEL, NEAR_CHANNEL
    from nearfar.pipeline.embedding import embed_files
    from nearfar.terminal import progress_bars, show

    with progress_bars() as progress:
        shape = embed_files(
            files,
            encoder or encoder_at_hand(),
            out,
            channel=channel,
            pooling=pooling,
            clip_seconds=seconds,
            near=NEAR_CHANNEL if near is None else near,
            far=FAR_CHANNEL if far is None else far,
            progress=lambda done, total: progress("embedding files", done, total),
        )
    show(f"{out}: {shape[0]} embeddings of {shape[1]} numbers.")
