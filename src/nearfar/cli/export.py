"""The command that exports detectors and encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nearfar.cli import options
from nearfar.terminal import progress_bars, show


def export(
    detector: Annotated[Path, Argument(metavar="DETECTOR", help="Folder that nearfar fit wrote.")],
    out: Annotated[Path, Option("--to", help="Folder to write: new, empty, or an earlier export.")],
    machine: Annotated[str | None, Option(help="The machine, of a detector of several.")] = None,
    encoder: Annotated[str | None, Option(help="Path of the detector's encoder, if it has moved.")] = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
) -> None:
    """Write a detector as an ONNX file that scores without torch, with its thresholds beside it."""
    from nearfar.detector.detector import Detector
    from nearfar.export.write import export_detector
    from nearfar.extras import require_extras

    require_extras("nearfar export", "export")
    loaded = Detector.load(detector, encoder=encoder)
    with progress_bars() as progress:
        done = export_detector(loaded, out, machine, progress=progress)
    parity = done.description.parity
    if as_json:
        facts = {"folder": str(out), "bytes": done.bytes, **done.description.model_dump(mode="json")}
        print(json.dumps({key: value for key, value in facts.items() if key != "normal_windows"}, indent=1))
        return
    show(
        f"{out}: {done.description.name}, {done.bytes / 1e6:.1f} MB. Scores of {parity.windows} windows differ "
        f"from the detector's by at most {parity.largest:.2g} of the threshold; all decisions are the same."
    )
    show(f"Score with it: nearfar score {out} FILES. {out / 'README.md'} is its model card")
