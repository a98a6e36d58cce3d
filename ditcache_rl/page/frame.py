"""The frame of a page: one document that brings its own style and asks nobody for anything."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

#: Colours, type and pieces, in light and in dark.
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def document(title: str, parts: Sequence[str]) -> str:
    """Put a page together.

    Args:
        title: As text.
        parts: What stands in its `main`, as HTML.
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            '<body class="dc-page"><main>',
            *parts,
            "</main></body></html>",
        ]
    )
