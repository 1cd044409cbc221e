"""Writes docs/design.svg, the map of the packages, from the layers that pyproject.toml checks.

python docs/write_design.py
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PICTURE = FOLDER / "design.svg"

FLOORS: dict[str, tuple[str, ...]] = {
    "people": ("cli", "terminal", "web"),
    "uses of a detector": ("watch", "report", "export", "detector"),
    "experiments": ("benchmark", "ablation", "challenge"),
    "from files to scores": ("pipeline",),
    "training": ("distillation", "pretraining", "training", "models"),
    "results": ("charts", "evaluation"),
    "configuration": ("config",),
    "the method": (
        *("features", "explain", "scoring", "exported", "thresholds", "losses", "encoders", "pooling"),
        *("frontends", "views", "cancellation"),
    ),
    "recordings and metrics": ("scores", "data", "metrics"),
    "foundations": (
        *("rendering", "checkpoint", "tensorfiles", "executors", "registry", "settings", "environment"),
        *("devices", "progress", "threads", "files", "extras", "errors"),
    ),
}
"""The layers, from the highest to the lowest, in groups with a name; a package imports only from below."""

WIDTH, ROW, BOX, GAP, MARGIN, LABEL = 880, 46, 118, 8, 12, 190


def layers() -> list[str]:
    """The layers of pyproject.toml, from the highest."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[str] = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [name.removeprefix("nearfar.") for name in found]


def picture() -> str:
    """The picture as SVG.

    Raises:
        ValueError: if the groups are not the layers, in their order.
    """
    if (listed := [name for names in FLOORS.values() for name in names]) != layers():
        raise ValueError(f"the groups are not the layers of pyproject.toml: {set(listed) ^ set(layers())}")
    per_row = (WIDTH - LABEL - 2 * MARGIN) // (BOX + GAP)
    parts, y = [], MARGIN
    for floor, names in FLOORS.items():
        rows = -(-len(names) // per_row)
        height = rows * ROW + 8
        parts.append(f'<rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="{height}" class="floor"/>')
        parts.append(f'<text x="{MARGIN + 10}" y="{y + height / 2 + 5}" class="label">{escape(floor)}</text>')
        for index, name in enumerate(names):
            x = LABEL + MARGIN + (index % per_row) * (BOX + GAP)
            top = y + 8 + (index // per_row) * ROW
            parts.append(f'<rect x="{x}" y="{top}" width="{BOX}" height="{ROW - 8}" rx="5" class="box"/>')
            parts.append(f'<text x="{x + BOX / 2}" y="{top + 24}" class="name">{escape(name)}</text>')
        y += height + GAP
    style = (
        ".floor{fill:#eef2f7;stroke:#c3cedb}.box{fill:#fff;stroke:#4a6a8a}"
        "text{font-family:sans-serif;fill:#1c2b3a}.label{font-size:14px;font-weight:bold}"
        ".name{font-size:13px;text-anchor:middle}"
    )
    title = "<title>The packages of nearfar, from commands at the top to foundations at the bottom</title>"
    size = f'width="{WIDTH}" height="{y + MARGIN - GAP}" viewBox="0 0 {WIDTH} {y + MARGIN - GAP}"'
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{title}<style>{style}</style>'
    return f"{head}\n{body}\n</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
