"""The model card of an exported detector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.encoders.hub import PUBLISHED, SHORT_NAMES
from nearfar.exported.folder import MODEL, Description, Parity
from nearfar.thresholds import Calibration, Threshold


def model_card(
    of: Description, thresholds: Sequence[Threshold], calibration: Calibration, recipe: Any, size: int
) -> str:
    """The README.md of the folder, in Markdown."""
    groups = len(np.unique(calibration.groups()))
    rows = "\n".join(f"- {_threshold(entry)}" for entry in thresholds) or "- none"
    recordings = len({window.recording for window in of.normal_windows})
    parity = of.parity
    return f"""---
library_name: nearfar
tags: [audio, anomaly-detection, onnx]
---

# {of.name}

A detector of failing machines by their sound, exported by nearfar {of.nearfar} to ONNX (opset \
{of.opset}, {of.precision}). `nearfar score FOLDER FILES` scores recordings with it; `docs/export.md` of nearfar \
describes the files and the graph.

| | |
|---|---|
| machine | {of.machine}, section {of.section} |
| recipe | `{of.recipe}`: {recipe.description} |
| input | {", ".join(of.channels)} at {of.sample_rate_hz} Hz, windows of \
{of.window_samples / of.sample_rate_hz:g} s |
| normal recordings | {recordings}, in {len(of.normal_windows)} windows |
| calibration | {len(calibration.recordings)} scores of {groups} independent recordings or groups, \
{calibration.normals} |
| size | {size / 1e6:.1f} MB |
| licence of the weights | {_licence(recipe)} |

## Thresholds

{rows}

`thresholds.json` and `calibration.json` are inputs of the graph and can be changed without exporting again.

## Check

ONNX Runtime's scores of {parity.windows} windows, of {parity.recordings} normal recordings and of made-up ones, \
differ from the detector's by at most {parity.largest:.2g} of the threshold (mean {parity.mean:.2g}); \
{_decisions(parity)}.{_speed(parity)}{_openvino(parity)}

## Identity

- `{MODEL}`: SHA-256 {of.model_sha256}
- nearfar {of.nearfar}
- recipe:

```json
{json.dumps(recipe.model_dump(mode="json"), indent=1)}
```
"""


def _decisions(parity: Parity) -> str:
    return f"{parity.decisions} decisions differ" if parity.decisions else "all decisions are the same"


def _speed(parity: Parity) -> str:
    return "" if parity.speed is None else f" It is {parity.speed:.2g} times as fast as in float32, on one thread."


def _openvino(parity: Parity) -> str:
    return "" if parity.openvino is None else f" OpenVINO's differ from those by at most {parity.openvino:.2g}."


def _threshold(entry: Threshold) -> str:
    domain = "" if entry.domain is None else f"{entry.domain} domain: "
    if entry.value is None:
        return f"{domain}none, as there are too few normal scores"
    if entry.false_alarm_rate is None:
        return f"{domain}{entry.value:.6g}, given by a person"
    bound = "at most" if entry.guaranteed else "about"
    groups = "" if entry.groups is None else f", {entry.groups} independent groups"
    return (
        f"{domain}{entry.value:.6g}: false alarms for {bound} {entry.false_alarm_rate:.3g} of normal recordings "
        f"({entry.rule}, {entry.recordings} normal scores{groups})"
    )


def _licence(recipe: Any) -> str:
    if not recipe.uses_encoder:
        return "no weights but those fitted on the normal recordings"
    name = SHORT_NAMES.get(recipe.encoder.weights, recipe.encoder.weights)
    if name in PUBLISHED:
        return f"{PUBLISHED[name].licence} ({PUBLISHED[name].source})"
    if name.startswith("random:"):
        return "a random start, trained or not on the normal recordings"
    return "see the model card of the encoder that the recipe names"
