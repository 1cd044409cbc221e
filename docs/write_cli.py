"""Writes docs/cli.md, the reference of the command line, from the commands themselves.

python docs/write_cli.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from nearfar.cli import PANELS, app

PAGE = Path(__file__).resolve().parent / "cli.md"


def text() -> str:
    """The page."""
    command: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Every command with its arguments and options, as `nearfar COMMAND --help` prints them. "
        "[reference.md](reference.md) says more about",
        "what they do together. Exit codes: 0 fine; 1 an anomaly or a score below a bar, where asked for; "
        "2 a usage or input error.",
    ]
    panels: dict[str, list[str]] = {}
    for name, entry in command.commands.items():
        panels.setdefault(entry.rich_help_panel, []).append(name)
    for panel in [*PANELS, *(set(panels) - set(PANELS))]:
        lines += ["", f"## {panel}"]
        for name in panels[panel]:
            lines += [*_command(f"nearfar {name}", command.commands[name])]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    yield from ("", f"### `{name}`", "", _plain(command.help or ""))
    for inner in getattr(command, "commands", {}).values():
        yield from _command(f"{name} {inner.name}", inner)
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows and not getattr(command, "commands", None):
        yield from ("", "| | | default |", "|---|---|---|", *rows)


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{_metavar(parameter)}`"
    else:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    is_shown = not parameter.required and default not in (None, False) and not callable(default)
    shown = f"`{default}`" if is_shown else "required" if parameter.required else ""
    return f"| {names} | {_plain(parameter.help or '')} | {shown} |"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _plain(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", "\\|").strip()


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
