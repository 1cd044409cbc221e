"""The command that writes a page about a run or a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|DETECTOR", help="Folder of a finished run or of a detector.")
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder of recordings: of a run, if they have moved; of a detector, those it was fitted on.",
        ),
    ] = None,
) -> None:
    """Write a self-contained HTML page: results, charts, worst mistakes with spectrograms and audio, settings."""
    from nearfar.detector.store import is_detector
    from nearfar.report.detector_page import report_detector
    from nearfar.report.run_page import report_run
    from nearfar.terminal import progress_bars, show

    with progress_bars() as progress:
        write = report_detector if is_detector(source) else report_run
        write(source, out, data=data, progress=progress)
    show(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
