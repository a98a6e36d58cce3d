"""A headless chromium that hears what a page says and whom it asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

_LOCAL = ("127.0.0.1", "localhost")
#: A machine that is busy with other things is no fault of a page.
_PATIENCE_MS = 60_000.0
_SOON_MS = 10_000.0
#: Nothing fades in or out, or waits for what is asked of the server: colours are what they will be.
_AT_REST = """() => !document.querySelector('.pending, .generating') && document
  .getAnimations()
  .every(({playState, effect}) => playState !== 'running'
    || effect.getComputedTiming().iterations === Infinity)"""


class Visit:
    """A page of the browser, and what came of it."""

    def __init__(self, page: Any) -> None:
        self.page, self.complaints, self.strangers = page, list[str](), list[str]()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in _LOCAL:
            self.strangers.append(request.url)

    def check(self) -> None:
        """Fail where the page complained, asked another machine, or keeps something from some."""
        from axe_playwright_python.sync_playwright import Axe

        self.page.wait_for_function(_AT_REST)
        found = Axe().run(self.page).response["violations"]
        grave = [
            (one["id"], [node["html"][:160] for node in one["nodes"]][:3])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not grave, grave
        assert not self.complaints, self.complaints
        assert not self.strangers, self.strangers

    def fits(self, width_px: int) -> bool:
        """Tell whether nothing stands out at the side of a window of so many pixels."""
        self.page.set_viewport_size({"width": width_px, "height": 800})
        try:  # plots are drawn again a moment later
            self.page.wait_for_function(
                "document.documentElement.scrollWidth <= innerWidth", timeout=_SOON_MS
            )
        except Exception:  # playwright's own, which is not imported without a browser
            return False
        return True


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a browser, or skip the test where there is none."""
    known = map(shutil.which, ("chromium", "google-chrome"))
    path = os.environ.get("CHROMIUM") or next(filter(None, known), None)
    if path is None:
        pytest.skip("no chromium on this machine; apt-get install chromium, or name one: CHROMIUM=")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # A sandbox needs rights that containers don't have; what is opened is our own.
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=_PATIENCE_MS
        )
        yield browser
        browser.close()
