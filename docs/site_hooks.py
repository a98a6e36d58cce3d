"""Makes pages of the checkout fit the site, which has no files beside its own."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Write links that lead out of `docs/` as the paths they lead to."""
    home = posixpath.dirname(page.file.src_uri)

    def told(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", home, link[2]))
        inside = path == "docs" or path.startswith("docs/")
        return link[0] if inside else f"{link[1]} (`{path}`)"

    return _LINK.sub(told, markdown)
