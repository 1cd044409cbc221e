"""The commands that pages, recipes and notebooks show exist, with their options, and Python in pages compiles."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tests.documentation import ROOT, python_blocks

from nearfar.cli import app

GENERATED = {"docs/cli.md"}
PAGES = sorted(
    {str(file.relative_to(ROOT)) for file in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))} - GENERATED
)
RECIPES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "src/nearfar/recipes").rglob("*.toml"))


def shown_commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a code block, without comments, after ``nearfar``."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in ("", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from commands_of(line)


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of a command line, for each command of nearfar in it; what follows ``>`` is left out."""
    if not re.match(r"(\$ |\S+ -m )?nearfar \S+(?<!:)( |$)|for |while ", line.strip()):
        return  # not a command, or a message that begins with one
    tokens = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="();<>|&")
    tokens.whitespace_split = True
    words: list[str] = []
    for token in [*tokens, ";"]:
        if not set(token) <= set("();<>|&"):
            words.append(token)
            continue
        if "nearfar" in words[:4]:
            yield words[words.index("nearfar") + 1 :]
        words = [] if token != ">" else ["file"]


def unknown(words: list[str]) -> str | None:
    """What is wrong with the words after ``nearfar``: a command or an option that does not exist."""
    command: Any = typer.main.get_command(app)
    names = [word for word in words if word != "..."]
    while hasattr(command, "commands") and names and not names[0].startswith("-"):
        if names[0].isupper():
            return None  # a placeholder
        if names[0] not in command.commands:
            return f"no command {names[0]}"
        command = command.commands[names.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in names:
        option = word.partition("=")[0].strip("[]")
        if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in known | {"--help"}:
            return f"no option {option} of {command.name}"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_a_page_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for words in shown_commands(text):
        assert unknown(words) is None, f"{name}: nearfar {' '.join(words)}: {unknown(words)}"


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_exists(name: str) -> None:
    header = (ROOT / name).read_text(encoding="utf-8").partition("name =")[0]
    found = [words for start in re.finditer(r"\bnearfar .*", header) for words in commands_of(start[0])]
    assert found, f"{name} begins without a command"
    assert not [unknown(words) for words in found if unknown(words)]


def test_many_commands_are_looked_at() -> None:
    found = [words for name in PAGES for words in shown_commands((ROOT / name).read_text(encoding="utf-8"))]
    assert len(found) > 60
    assert {"fit", "score", "watch", "run", "export"} <= {words[0] for words in found if words}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("nearfar fit x --out y  # --nothing", None),
        ("nearfar fitt x", "no command fitt"),
        ("nearfar score x --treshold 1 > file", "no option --treshold of score"),
        ("nearfar score x --csv | sort --reverse", None),
        ("nearfar download dcase dev", "no command dcase"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, wrong: str | None) -> None:
    (words,) = commands_of(line)
    assert unknown(words) == wrong


@pytest.mark.parametrize("name", PAGES)
def test_python_of_a_page_compiles(name: str) -> None:
    for heading, code in python_blocks(name):
        compile(code, f"{name}, {heading}", "exec")


def test_the_pages_are_those_of_the_repository() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/tutorial.md", "docs/results/auto.md"} <= set(PAGES)
    assert Path(ROOT / "docs/cli.md").is_file()
