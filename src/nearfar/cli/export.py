"""The command that exports detectors and encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nearfar.cli import options
from nearfar.terminal import progress_bars, show


def export(
    detector: Annotated[
        Path,
        Argument(metavar="DETECTOR", help="Folder that nearfar fit wrote; or an encoder, such as eat-base."),
    ],
    out: Annotated[Path, Option("--to", help="Folder to write: new, empty, or an earlier export.")],
    machine: Annotated[str | None, Option(help="The machine, of a detector of several.")] = None,
    precision: Annotated[
        str, Option(help="Of the encoder: fp32, int8 or fp16; differences and speed are measured and stated.")
    ] = "fp32",
    openvino: Annotated[bool, Option("--openvino", help="Also write the graph for OpenVINO.")] = False,
    encoder: Annotated[str | None, Option(help="Path of the detector's encoder, if it has moved.")] = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
) -> None:
    """Write a detector, or an encoder, as an ONNX file that needs no torch; thresholds stay data beside it."""
    from nearfar.detector.detector import Detector
    from nearfar.detector.store import is_detector
    from nearfar.export.write import export_detector
    from nearfar.extras import require_extras

    require_extras("nearfar export", "export", *(["openvino"] if openvino else []))
    if not is_detector(detector):
        _export_encoder(str(detector), out, as_json)
        return
    loaded = Detector.load(detector, encoder=encoder)
    with progress_bars() as progress:
        done = export_detector(loaded, out, machine, precision=precision, openvino=openvino, progress=progress)
    parity = done.description.parity
    if as_json:
        facts = {"folder": str(out), "bytes": done.bytes, **done.description.model_dump(mode="json")}
        print(json.dumps({key: value for key, value in facts.items() if key != "normal_windows"}, indent=1))
        return
    show(
        f"{out}: {done.description.name}, {done.bytes / 1e6:.1f} MB. Scores of {parity.windows} windows differ "
        f"from the detector's by at most {parity.largest:.2g} of the threshold; "
        + (f"{parity.decisions} decisions differ." if parity.decisions else "all decisions are the same.")
        + ("" if parity.speed is None else f" It is {parity.speed:.2g} times as fast as in float32.")
    )
    show(f"Score with it: nearfar score {out} FILES. {out / 'README.md'} is its model card")


def _export_encoder(name: str, out: Path, as_json: bool) -> None:
    from nearfar.export.encoders import export_encoder

    facts = export_encoder(name, out)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    show(f"{out}: the encoder {name}. Tokens differ by at most {facts['largest_difference']:.2g} of their size.")
