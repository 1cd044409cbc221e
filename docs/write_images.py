"""Writes docs/images/terminal.svg and docs/images/page.png, as the program shows them, of simulated recordings.

python docs/write_images.py     # needs Chromium and its driver; not on Windows
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FOLDER = Path(__file__).resolve().parent / "images"
COLUMNS = 100
PAGE_SIZE = (1176, 1480)
"""Width and height of the picture of a page in pixels."""

SIMULATE = (
    "simulate factory --machines pump --train-source 60 --train-target 10 --test 12 --severity 0.8,1 --seed 2"
)
FIT = "fit recordings --out pump7 --group-by recording"


def run(folder: Path, command: str) -> None:
    """Run a command of nearfar in a folder."""
    subprocess.run(
        [sys.executable, "-m", "nearfar", *command.split()], cwd=folder, check=True, capture_output=True
    )


def shown(folder: Path, command: str) -> str:
    """What a command of nearfar prints in a terminal, with its control sequences."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color"}
    words = [sys.executable, "-m", "nearfar", *command.split()]
    with subprocess.Popen(words, cwd=folder, stdout=writer, stderr=subprocess.DEVNULL, env=environment):
        os.close(writer)
        printed = b""
        while part := _read(reader):
            printed += part
    os.close(reader)
    return printed.decode().replace("\r\n", "\n")


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 4096)
    except OSError:  # Linux: the other end is closed
        return b""


def terminal(command: str, printed: str) -> str:
    """A picture of a terminal as SVG, which loads no fonts."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ nearfar {command}", style="bold"), highlight=False)
    console.print(Text.from_ansi(printed.strip("\n")), highlight=False)
    picture = console.export_svg(title="nearfar", theme=DIMMED_MONOKAI, unique_id="terminal")
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)


def photograph(page: Path, out: Path) -> None:
    """The upper part of an HTML page as a PNG."""
    options = webdriver.ChromeOptions()
    for argument in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"window-size={_size()}"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.get(page.as_uri())
        browser.save_screenshot(str(out))
        with Image.open(out) as picture:
            picture.convert("RGB").save(out, optimize=True)
    finally:
        browser.quit()


def _size() -> str:
    return ",".join(map(str, PAGE_SIZE))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, SIMULATE)
        shutil.copytree(folder / "factory/pump/train", folder / "recordings/pump 7")
        run(folder, FIT)
        (folder / "monday").mkdir()
        tests = sorted((folder / "factory/pump/test").glob("*_source_*"))
        for number, file in enumerate([*tests[12:14], *tests[2:4]]):
            shutil.copy(file, folder / "monday" / f"{number:04d}.wav")
        (FOLDER / "terminal.svg").write_text(terminal("score pump7 monday", shown(folder, "score pump7 monday")))
        run(folder, "report pump7 --score monday --out page.html")
        photograph(folder / "page.html", FOLDER / "page.png")
