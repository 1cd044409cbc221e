"""The command that writes a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|DETECTOR", help="Folder of a finished run, or of a detector.")
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Of a run, the recordings if they have moved; of a detector, those it was fitted on."
        ),
    ] = None,
) -> None:
    """Write one self-contained page: results, charts, worst mistakes to look at and listen to, how it was made."""
    from nearfar.detector.store import is_detector
    from nearfar.report.of_detector import report_detector
    from nearfar.report.page import report_run
    from nearfar.terminal import progress_bars, show

    with progress_bars() as progress:

        def drawn(done: int, total: int) -> None:
            progress("drawing machines", done, total)

        if is_detector(source):
            report_detector(source, out, data=data, progress=drawn)
        else:
            report_run(source, out, data=data, progress=drawn)
    show(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
