"""The studio in a real browser, on the embedded pipeline; and what it refuses without one."""

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ditcache_rl.cli import main
from ditcache_rl.config import load_env
from ditcache_rl.errors import BudgetError, ConfigError, DitcacheError
from ditcache_rl.machine import check_port
from ditcache_rl.mos import Ratings
from ditcache_rl.studio.app import studio_page
from ditcache_rl.studio.draw import MOST_PROMPT, Drawing, Studio
from ditcache_rl.studio.rating import rating_page
from ditcache_rl.studio.serve import serve
from tests.kit.browser import Visit, chromium
from tests.kit.opinions import write_set

PROMPT = "a large plain red star at left on a white background"


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(["shapes"], ["shapes-ppo", "shapes-tiers-ppo"])


def asked(**changes: Any) -> Drawing:
    given: dict[str, Any] = {"prompt": PROMPT, "target": {"speedup": 3.0}, **changes}
    return Drawing("shapes", "shapes-ppo", **given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "  "}, "expected a prompt, received none"),
        ({"prompt": "x" * (MOST_PROMPT + 1)}, "at most 1000 characters"),
        ({"target": {"speedup": 99.0}}, "within reach, received speedup=99.0: the fastest"),
        ({"target": {"min_psnr": -1.0}}, "min_psnr must"),
        ({"seed": -1}, "seed must lie in"),
        ({"memory_mib": -1.0}, "device"),
        ({"memory_mib": float("inf")}, "MiB of device memory, received inf"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(
    changes: dict[str, Any], said: str, studio: Studio
) -> None:
    with pytest.raises(DitcacheError, match=said):
        studio.compare(asked(**changes))


def test_a_policy_of_another_pipeline_is_refused(tiny_env: Path, studio: Studio) -> None:
    other = Drawing(str(tiny_env), "shapes-ppo", {"speedup": 3.0}, PROMPT)

    with pytest.raises(DitcacheError, match="policy of another model"):
        studio.compare(other)


def test_frames_of_a_video_lie_below_each_other(studio: Studio) -> None:
    def film(prompt: str, **_: Any) -> Any:
        return SimpleNamespace(frames=torch.rand(1, 5, 3, 4, 6))  # as Wan returns them

    drawn = studio._draw(film, load_env("shapes"), asked(), lambda *_: None, "reference")

    assert drawn.pixels.shape == (5 * 4, 6, 3)


def test_what_is_foreseen_is_what_is_decided(studio: Studio) -> None:
    heard: list[tuple[int, int, str]] = []

    found = studio.compare(asked(), lambda *step: heard.append(step))

    assert found.modes == studio.foresee(asked())
    assert found.modes != studio.foresee(asked(target={"speedup": 5.0}))
    assert studio.foresee(asked(target={"deadline_s": 0.3})) == "", "only the clock knows"
    assert found.quality["psnr_db"] > 30
    assert found.speedup > 1
    assert {what for _, _, what in heard} >= {"reference", "cached"}
    assert max(step for step, _, _ in heard) == 28
    with pytest.raises(BudgetError, match="fastest schedule"):
        studio.foresee(asked(target={"budget": 0.001}))


def test_requests_take_turns_and_both_are_answered(studio: Studio) -> None:
    answers: list[float] = []
    threads = [
        threading.Thread(
            target=lambda seed=n: answers.append(studio.compare(asked(seed=seed)).speedup)
        )
        for n in (11, 12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 2


def test_a_host_that_cannot_be_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="expected a port that can be listened at"):
        check_port("a..b", free_port())


@pytest.mark.parametrize("command", ["studio", "serve"])
def test_a_port_in_use_is_a_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        assert main([command, "--port", port]) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"received {port} on '127.0.0.1': Address already in use; choose another" in said


def test_no_port_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "70000"]) == 2
    assert main(["studio", "--port", "0"]) == 2

    said = capsys.readouterr().err.splitlines()
    assert said == [
        "error: --port must lie between 0 and 65535, received 70000",
        "error: --port must lie between 1 and 65535, received 0",
    ]


def test_without_gradio_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)

    assert main(["studio"]) == 2

    assert "pip install 'ditcache-rl[studio]'" in capsys.readouterr().err


def test_a_policy_that_is_not_there_is_refused_before_anything_is_served(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["studio", "--policy", "shapes-pp"]) == 2

    assert "Did you mean 'shapes-ppo'?" in capsys.readouterr().err


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve pages until the test ends, and fail if the server asks another machine."""
    pytest.importorskip("gradio")
    strangers: list[Any] = []
    connect = socket.socket.connect

    def heard(own: socket.socket, address: Any) -> None:
        if own.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            strangers.append(address)
        connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", heard)
    pages: list[Any] = []

    def begin(page: Any) -> str:
        pages.append(page)
        return serve(page, port=free_port(), blocking=False)

    yield begin
    for page in pages:
        page.close()
    assert not strangers, strangers


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_an_image_is_drawn_compared_and_decided_anew(studio: Studio, served: Any) -> None:
    with chromium() as browser:
        visit = Visit(browser.new_page())
        page = visit.page
        other = Visit(browser.new_page())
        address = served(studio_page(studio))
        for one in (page, other.page):
            one.goto(address)
        with studio._drawing:  # the first is being drawn, for as long as this takes
            page.get_by_role("button", name="Generate").click()
            page.wait_for_selector("#shown .progress-text, #shown .progress-level, #shown .wrap")
            other.page.wait_for_selector("#foreseen .dc-strip")
            before = other.page.locator("#foreseen .dc-strip").inner_text()
            _target(other.page, "4")
            other.page.wait_for_function(
                "old => document.querySelector('#foreseen .dc-strip')?.innerText !== old",
                arg=before,
            )
            other.page.get_by_role("button", name="Generate").click()
        for one in (other.page, page):
            one.wait_for_selector("#shown .dc-strip")
        other.page.close()
        page.locator("#shown .dc-stage input").focus()
        page.keyboard.press("Home")
        cut = "document.querySelector('#shown .dc-stage').style.getPropertyValue('--cut')"
        assert page.evaluate(cut) == "0%"
        assert "PSNR" in page.locator("#shown table").inner_text()
        first = page.locator("#shown .dc-strip").inner_text()
        _target(page, "5")
        page.wait_for_selector("#foreseen .dc-strip")
        page.get_by_role("button", name="Generate").click()
        page.wait_for_function(
            "before => document.querySelector('#shown .dc-strip')?.innerText !== before", arg=first
        )
        _target(page, "99")
        page.wait_for_selector("#foreseen [role=alert]")
        assert "the fastest schedule" in page.locator("#foreseen").inner_text()
        _target(page, "3")
        page.locator("#prompt textarea").fill("")
        page.get_by_role("button", name="Generate").click()
        page.wait_for_selector("#shown [role=alert]")
        assert "expected a prompt" in page.locator("#shown").inner_text()
        visit.check()
        page.get_by_role("tab", name="Compare policies").click()
        page.get_by_role("button", name="Compare").click()
        page.wait_for_selector("#compared [role=alert]")  # of one policy: the other is there
        assert "shapes-tiers-ppo: expected" in page.locator("#compared").inner_text()
        assert "shapes-ppo" in page.locator("#compared table").inner_text()
        assert visit.fits(390)
        visit.check()


def _target(page: Any, value: str) -> None:
    page.locator("#value input").fill(value)
    page.keyboard.press("Tab")


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_a_test_survives_a_reload_and_two_tabs(tmp_path: Path, served: Any) -> None:
    rated = write_set(tmp_path / "set", prompts=1)
    ratings = Ratings.of(tmp_path / "set")
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 390, "height": 800})
        visit = Visit(context.new_page())
        page = visit.page
        address = served(rating_page(rated, ratings))
        page.goto(address)
        page.locator("#name input, #name textarea").fill("rater one")
        page.get_by_role("button", name="Start").click()
        for number in range(1, 5):
            page.wait_for_selector(f"text=Page {number} of 4")
            if number == 1:
                visit.check()
                assert visit.fits(390)
            if number == 2:
                page.reload()
                page.wait_for_selector("text=Page 2 of 4")
            if number == 3:
                other = Visit(context.new_page())
                other.page.goto(address)
                other.page.wait_for_selector("text=Page 3 of 4")
                _rate(other.page, 3)
                other.page.wait_for_selector("text=Page 4 of 4")
                _rate(page, 3)  # the same page, once more
                page.wait_for_selector("text=rated in another tab")
                continue
            _rate(page, number)
        page.wait_for_selector("text=Thank you")
        visit.check()
    every = ratings.every()
    assert {one.rater for one in every} == {"rater one"}
    assert {one.page for one in every} == {one.page for one in rated.pages}
    assert len(every) == 4


def _rate(page: Any, number: int) -> None:
    page.get_by_role("radio").nth(number % 5).check()
    page.get_by_role("button", name="Next").click()
