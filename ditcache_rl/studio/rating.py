"""Serve a set to be rated, page by page, as blind as it was prepared.

What is rated lies in a file: a page that is loaded again, or in a second tab, goes on where the
rater is. The browser remembers the rater's name, nothing else.
"""

from __future__ import annotations

from typing import Any

from ditcache_rl.errors import DitcacheError
from ditcache_rl.mos import LEVELS, RatedPage, Ratings, RatingSet
from ditcache_rl.mos.ratings import check_rater
from ditcache_rl.page import Html, escaped, picture_uri
from ditcache_rl.studio.serve import QUIET, gradio

_WHOLE = 1 << 26  # bytes: what is rated is shown to the bit
_SMALL_PX = 128
_WELCOME = (
    "<h1>How much worse is it?</h1><p>You see a reference, and beside or below it an image to be "
    "rated. Say how far that is worse. Some pairs are alike. There is no time limit, and what you "
    "said stands; you may stop and go on later under the same name.</p>"
)


def rating_page(rated: RatingSet, ratings: Ratings) -> Any:
    """Lay the test out.

    Args:
        rated: The set.
        ratings: Where ratings go.

    Raises:
        ConfigError: If gradio is not installed.
    """
    gr = gradio()
    levels = {f"{score} {words}": score for score, words in LEVELS.items()}

    def screen(rater: str, trouble: str = "") -> tuple[Any, ...]:
        """Show the next page of a rater: message, start, test, page, pair, choice."""
        warning = f"<p class='dc-refused' role='alert'>{escaped(trouble)}</p>" if trouble else ""
        if not rater:
            first = gr.update(visible=True)
            return _look(_WELCOME + warning), first, gr.update(visible=False), "", "", None
        try:
            done = ratings.pages_of(rater)
            left = [page for page in rated.order(rater) if page.page not in done]
            pair = _pair(rated, left[0]) if left else ""
        except DitcacheError as error:
            return screen("", str(error))
        hidden = gr.update(visible=False)
        if not left:
            text = f"<h1>Thank you</h1><p>All {len(rated.pages)} pages are rated.</p>{warning}"
            return _look(text), hidden, hidden, "", "", None
        place = len(rated.pages) - len(left) + 1
        head = f"<h1>Page {place} of {len(rated.pages)}</h1>{warning}"
        return _look(head), hidden, gr.update(visible=True), left[0].page, pair, None

    def begin(name: str) -> tuple[Any, ...]:
        try:
            check_rater(name or "")
        except DitcacheError as error:
            return "", *screen("", str(error))
        return name.strip(), *screen(name.strip())

    def rate(rater: str, page: str, said: str | None) -> tuple[Any, ...]:
        if said not in levels:
            return screen(rater, "Choose one of the five levels first.")
        try:
            new = ratings.rate(rater, page, levels[said])
        except DitcacheError as error:
            return screen(rater, str(error))
        return screen(rater, "" if new else "That page was rated in another tab already.")

    with gr.Blocks(title="Rate images", analytics_enabled=False) as blocks:
        rater = gr.BrowserState("", storage_key="ditcache-rater", secret=rated.pages[0].page)
        page = gr.State("")
        head = gr.HTML(_look(_WELCOME), elem_id="head")
        with gr.Column(visible=False) as start:
            name = gr.Textbox(label="Your name, or any other", max_length=64, elem_id="name")
            go = gr.Button("Start", variant="primary", elem_id="start")
        with gr.Column(visible=False) as test:
            pair = gr.HTML("", elem_id="pair")
            choice = gr.Radio(list(levels), label="What is different from the reference is")
            following = gr.Button("Next", variant="primary", elem_id="next")
        shown = [head, start, test, page, pair, choice]
        blocks.load(screen, rater, shown, **QUIET)
        gr.on([go.click, name.submit], begin, name, [rater, *shown], **QUIET)
        following.click(rate, [rater, page, choice], shown, **QUIET)
    return blocks


def _pair(rated: RatingSet, page: RatedPage) -> Html:
    figures = ""
    for name, file in (("Reference", page.reference), ("To be rated", page.image)):
        picture = rated.picture(file)
        small = " class='dc-pixels'" if max(picture.shape[:2]) <= _SMALL_PX else ""
        figures += (
            f"<figure><img{small} alt='{name}' src='{picture_uri(picture, _WHOLE)}'>"
            f"<figcaption>{name}</figcaption></figure>"
        )
    return _look(f"<div class='dc-pair'>{figures}</div>")


def _look(markup: Html) -> Html:
    return f"<div class='dc-look'>{markup}</div>"
