"""The command that writes a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    data: Annotated[
        Path | None, typer.Option("--data", help="The recordings, if they are no longer where they were.")
    ] = None,
) -> None:
    """Write one self-contained page: results, charts, worst mistakes to look at and listen to, how it was made."""
    from nearfar.report.page import report_run
    from nearfar.terminal import progress_bars, show

    with progress_bars() as progress:
        report_run(source, out, data=data, progress=lambda done, total: progress("drawing machines", done, total))
    show(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
