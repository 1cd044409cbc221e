"""The documentation site: it builds strictly, and its generated pages are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs import docstrings, write_cli, write_design
from mkdocs.commands.build import build
from mkdocs.config import load_config
from tests.documentation import ROOT, page


def test_the_page_on_the_command_line_is_that_of_the_commands() -> None:
    assert write_cli.text() == page("docs/cli.md"), "run make reference"


def test_the_map_of_packages_is_that_of_the_layers() -> None:
    assert write_design.picture() == page("docs/design.svg"), "run make reference"
    packages = {path.stem for path in (ROOT / "src" / "nearfar").iterdir() if not path.name.startswith("_")}
    missing = packages - set(write_design.layers()) - {"recipes", "py"}
    assert not missing


def test_a_package_that_is_not_in_the_map_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(write_design.FLOORS, "people", ("cli", "web", "terminal"))
    with pytest.raises(ValueError, match="not the layers"):
        write_design.picture()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; links to what is not there are errors."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        build(config)
    return folder


@pytest.mark.filterwarnings("default")
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*src="(https?://[^"]+)', text)
        loaded += re.findall(r'<link[^>]*href="(https?://[^"]+)', text)
        assert not loaded, path.name


def test_links_out_of_the_pages_are_to_files_that_are_there() -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(((?!https?:|#)[^)#\s]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_links_of_the_pages_about_the_project_are_to_files_that_are_there() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"):
        for target in re.findall(r"\]\(((?!https?:|#)[^)#\s]+)", page(name)):
            assert (ROOT / target).exists(), f"{name}: {target}"


def test_the_readme_names_no_number_that_results_do_not_show() -> None:
    results = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "results").glob("*.md"))
    numbers = set(re.findall(r"\b\d+\.\d{2}\b", re.sub(r"```.*?```", "", page("README.md"), flags=re.DOTALL)))
    assert numbers
    assert not [number for number in sorted(numbers) if number not in results]


def test_results_in_the_readme_are_those_of_the_page_on_the_demonstration() -> None:
    section = page("README.md").split("\n## Results of the demo\n")[1].split("\n## ")[0]
    shown = set(re.findall(r"\b\d+(?:\.\d+)?\b", section))
    assert len(shown) > 25
    assert shown <= set(re.findall(r"\b\d+(?:\.\d+)?\b", page("docs/results/demo.md")))


def test_pictures_load_nothing_from_elsewhere() -> None:
    pictures = list((ROOT / "docs").rglob("*.svg"))
    assert len(pictures) >= 2
    for picture in pictures:
        assert not re.findall(r"""(?:url\(|href=|@import)\s*["']?https?:""", picture.read_text(encoding="utf-8"))


def test_every_picture_is_small_and_shown_somewhere() -> None:
    text = page("README.md") + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    for picture in (*(ROOT / "docs").rglob("*.svg"), *(ROOT / "docs").rglob("*.png")):
        assert picture.name in text
        assert picture.stat().st_size < 200_000


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda path: path.stem)
def test_a_page_of_results_names_data_date_and_command(path: Path) -> None:
    if path.stem == "index":
        return
    text = path.read_text(encoding="utf-8")
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", text), "no date"
    assert re.search(r"simulated|surrogate|made[- ]up|ESC-10|real scores", text, re.IGNORECASE), (
        "no label of the data"
    )
    assert re.search(r"```|`[^`\n]*(nearfar|make|python) ", text), "no command"
    assert f"({path.name})" in page("docs/results/index.md"), "not in the table of results"


def test_docstrings_are_shown_without_marks_of_restructured_text(site: Path) -> None:
    text = (site / "python.html").read_text(encoding="utf-8")
    assert "Scores recordings of one or several machines" in text
    assert not re.findall(r":(?:class|func|meth|mod|data|attr):<|&gt;&gt;&gt;|<blockquote", text)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Made by :meth:`fit` of :class:`~a.B`.", "Made by `fit` of `a.B`."),
        ("One:\n\n>>> a = 1\n>>> a\n", "One:\n\n```python\na = 1\na\n```\n"),
        ("Names::\n\n    a_b\n\n    c\n\nMore.", "Names:\n\n```text\na_b\n\nc\n```\n\nMore."),
        ("Nothing: ``a[:2]``.", "Nothing: ``a[:2]``."),
    ],
)
def test_restructured_text_becomes_markdown(written: str, shown: str) -> None:
    assert docstrings.markdown(written) == shown


def test_labels_of_the_map_do_not_reach_the_boxes() -> None:
    widest = (write_design.LABEL - 10) / 8  # bold sans-serif of 14 px: at most 8 px a letter on average
    assert all(len(name) <= widest for name in write_design.FLOORS)
