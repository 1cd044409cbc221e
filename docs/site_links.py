"""Hook of mkdocs: links from pages to files of the repository that are no pages go to the repository."""

from __future__ import annotations

import posixpath
import re
from typing import Any

REPOSITORY = "https://github.com/nearfar/nearfar"
LINK = re.compile(r"\]\(((?!https?:|#|mailto:)[^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links to files outside ``docs/``, and to folders and programs in it, made absolute."""
    folder = posixpath.dirname(page.file.src_uri)

    def absolute(found: re.Match[str]) -> str:
        target, _, anchor = found[1].partition("#")
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        inside = path.startswith("docs/") and path.endswith((".md", ".svg", ".png"))
        if not target or inside:
            return found[0]
        return f"]({REPOSITORY}/blob/main/{path}{'#' + anchor if anchor else ''})"

    return LINK.sub(absolute, markdown)
