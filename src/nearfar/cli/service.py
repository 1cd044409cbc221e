"""Commands for operating a watch: check the computer and its microphones, and make access tokens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from nearfar.cli import options
from nearfar.cli.messages import USAGE_ERROR
from nearfar.extras import require_extras
from nearfar.terminal import show


def doctor(
    config: Annotated[
        Path | None, Argument(metavar="CONFIG.toml", help="The configuration whose machines are checked as well.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check disk, clock and sound cards, and the detectors, channels and levels of a configuration's machines.

    Exits with 2 if there is a problem; warnings do not count.
    """
    require_extras("nearfar doctor", "watch")
    from nearfar.watch.config import load_config
    from nearfar.watch.doctor import State, examine

    loaded, base = (None, Path.cwd()) if config is None else (load_config(config), config.absolute().parent)
    checks = []
    for check in examine(loaded, base):
        checks.append(check)
        if not as_json:
            show(f"{check.state.value:<8} {check.subject}: {check.text}")
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False))
    if any(check.state is State.PROBLEM for check in checks):
        raise Exit(USAGE_ERROR)


def token(
    name: Annotated[str, Argument(metavar="NAME", help="Of the person or program that gets the token.")],
    role: Annotated[str, Option(help="view, operate or configure.")] = "view",
) -> None:
    """Make a token for the pages and the API of a watch, and print it with the lines for the configuration."""
    require_extras("nearfar token", "watch")
    from nearfar.web.access import Role, new_token, token_sha256

    text, allowed = new_token(), Role.of(role)
    show(f"The token of {name}, which is shown only now:\n\n    {text}\n\nLines for the configuration:\n")
    print(f"[page.tokens.{json.dumps(name, ensure_ascii=False)}]")
    print(f'role = "{allowed}"\nsha256 = "{token_sha256(text)}"')
