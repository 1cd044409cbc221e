"""The commands that download the challenge's data and published encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="Download the challenge's data, or the weights of a published encoder."
)

EncoderOutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Also copy the weights into this folder, for a computer without network."),
]


@app.command()
def dcase2026(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="dev|train|eval",
            help="Development set, additional training set, evaluation test set; default all three.",
        ),
    ] = None,
    machines: Annotated[str | None, typer.Option(help="Machine types, comma-separated; default all.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Data folder; created if needed.")] = Path("data"),
    connections: Annotated[int, typer.Option(min=1, max=4, help="Archives downloaded at the same time.")] = 3,
    only_list: Annotated[
        bool, typer.Option("--list", help="Print addresses, sizes and md5 sums; download nothing.")
    ] = False,
    base_url: Annotated[str | None, typer.Option(envvar="NEARFAR_ZENODO", hidden=True)] = None,
) -> None:
    """Download, verify and unpack the recordings of DCASE 2026 Challenge Task 2.

    Rerun the same command to resume.
    """
    from nearfar.data.download.catalogue import ZENODO, chosen
    from nearfar.data.download.dataset import address_list, download
    from nearfar.terminal import progress_bars, show

    archives = chosen(parts or (), machines.split(",") if machines else ())
    if only_list:
        print(address_list(archives, base_url or ZENODO))
        return
    with progress_bars() as progress:
        fetched = download(archives, out, base_url=base_url or ZENODO, connections=connections, progress=progress)
    for entry in fetched:
        show(f"{entry.archive.filename}: {entry.how}")
    for licence in dict.fromkeys(
        f"record {archive.record.number} of Zenodo: {archive.record.licence}" for archive in archives
    ):
        show(f"Licence of {licence}")
    show(f"The recordings are in {out}. Summarise them with: nearfar data {out}")


@app.command()
def eat_base(out: EncoderOutOption = None) -> None:
    """Download EAT-base, pre-trained on AudioSet: the encoder of the report's systems."""
    _encoder("eat-base", out)


@app.command()
def eat_large(out: EncoderOutOption = None) -> None:
    """Download EAT-large, pre-trained on AudioSet."""
    _encoder("eat-large", out)


def _encoder(short_name: str, out: Path | None) -> None:
    from nearfar.encoders.hub import fetch_encoder
    from nearfar.terminal import show

    fetched = fetch_encoder(short_name, out)
    show(f"{fetched.name} at {fetched.revision}: {fetched.how}, {fetched.licence}")
    show(f"{fetched.weights}: {fetched.size_bytes} bytes, sha256 {fetched.sha256}")
    show(f"Recorded in {fetched.record}. Use it with: --encoder {out or fetched.name}")
