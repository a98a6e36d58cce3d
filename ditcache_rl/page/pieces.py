"""Pieces that need no script of their own, so that they work in a file and in the studio."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: A piece of a page.
Html = str
#: What `modes_text` writes, in words.
_WORDS = {"C": "compute", "R": "reuse", "1": "forecast 1", "2": "forecast 2", ".": "no call"}
_SITES = " | "
#: Of a picture, so that a page of fifty is sent by mail.
MOST_PICTURE_BYTES = 150_000
#: Sides that a picture is made smaller to, one after the other, until it is small enough.
_SIDES_PX = (1024, 768, 512, 384, 256, 128)
_QUALITY = 90
#: Pictures below this side are shown in whole pixels.
_SMALL_PX = 128


def escaped(text: object) -> Html:
    """Write a text so that it stands on a page as it is."""
    return html.escape(str(text))


def picture_uri(picture: NDArray[np.uint8], most_bytes: int = MOST_PICTURE_BYTES) -> str:
    """Write a picture into its own address, in no more bytes than it may have.

    Args:
        picture: (H, W, 3).
        most_bytes: What fits is kept to the bit; the rest becomes JPEG, smaller where it must.
    """
    image = Image.fromarray(picture)
    data, kind = _encoded(image, "PNG"), "png"
    for side in _SIDES_PX:
        if len(data) <= most_bytes:
            break
        smaller = image.copy()
        smaller.thumbnail((side, side))
        data, kind = _encoded(smaller, "JPEG"), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, quality=_QUALITY, optimize=True)
    return data.getvalue()


def compare(
    reference: NDArray[np.uint8], other: NDArray[np.uint8], caption: str, *, names: Sequence[str]
) -> Html:
    """Lay a picture over its reference, with a slider between them.

    The slider is a native one, so that it is moved by mouse, finger and keys.

    Args:
        reference: (H, W, 3), shown at left.
        other: (H, W, 3), shown at right.
        caption: As text.
        names: Of the two.
    """
    small = " dc-pixels" if max(reference.shape[:2]) <= _SMALL_PX else ""
    left, right = (escaped(name) for name in names)
    move = "this.parentNode.style.setProperty('--cut', this.value + '%')"
    height, width = reference.shape[:2]
    # A picture is decoded when somebody comes near, so that the page is there at once.
    given = f'width="{width}" height="{height}" loading="lazy" decoding="async"'
    return (
        f'<figure class="dc-compare{small}"><div class="dc-stage">'
        f'<img {given} alt="{right}: {escaped(caption)}" src="{picture_uri(other)}">'
        f'<img {given} class="dc-before" alt="{left}: {escaped(caption)}" '
        f'src="{picture_uri(reference)}">'
        f'<span class="dc-tag dc-left" aria-hidden="true">{left}</span>'
        f'<span class="dc-tag dc-right" aria-hidden="true">{right}</span>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{left} to {right}: '
        f'{escaped(caption)}" oninput="{move}"><span class="dc-bar" aria-hidden="true"></span>'
        '</div><label class="dc-difference"><input type="checkbox"> difference × 8</label>'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def strip(modes: str, *, label: str = "decisions") -> Html:
    """Draw what was decided: a cell per step, a line per site.

    Args:
        modes: As `modes_text` writes them.
        label: What they are of.
    """
    sites = modes.split(_SITES)
    spoken = "; ".join(f"{len(site)} steps, {_spoken(site)}" for site in sites)
    lines = "".join(
        "<div>"
        + "".join(
            f'<i class="dc-{_class(c)}" title="step {n}: {_WORDS[c]}">{c}</i>'
            for n, c in enumerate(site)
        )
        + "</div>"
        for site in sites
    )
    return f'<div class="dc-strip" role="img" aria-label="{escaped(label)}: {spoken}">{lines}</div>'


def legend() -> Html:
    """Say what the letters of a strip mean."""
    return (
        '<p class="dc-legend">'
        + "".join(
            f'<span><i class="dc-{_class(c)}">{c}</i> {word}</span>'
            for c, word in _WORDS.items()
            if c != "."
        )
        + "</p>"
    )


def _class(letter: str) -> str:
    return {"C": "compute", "R": "reuse", ".": "none"}.get(letter, f"forecast{letter}")


def _spoken(site: str) -> str:
    computed = [str(n) for n, c in enumerate(site) if c == "C"]
    return f"computed at {', '.join(computed) or 'none'}"


def table(titles: Sequence[str], lines: Sequence[Sequence[object]], *, label: str) -> Html:
    """Lay out a table; numbers stand at right.

    Args:
        titles: Of the columns.
        lines: Cells as text, or as numbers already formed; the first of a line names it.
        label: What it is a table of.
    """
    head = "".join(f'<th scope="col">{escaped(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{escaped(first)}</th>'
        + "".join(f"<td>{escaped(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in lines
    )
    return (
        f'<div class="dc-scroll" tabindex="0" role="region" aria-label="{escaped(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
