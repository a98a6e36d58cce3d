"""The report as a page, in a real browser."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.evaluate import Method, Report, Results, build_report, write_page
from ditcache_rl.evaluate.by_prompt import MOST_SETTINGS
from ditcache_rl.evaluate.drawings import computed_share, gains_plot
from ditcache_rl.evaluate.methods import REFERENCE
from ditcache_rl.evaluate.results import Trace
from ditcache_rl.page import MOST_PICTURE_BYTES
from tests.kit.browser import Visit, chromium

PROMPTS = tuple(f"a scene, number {i}" for i in range(5))
MEMORY = {
    "peak_bytes": 3.0 * (1 << 20),
    **dict.fromkeys(("device_hits", "host_hits", "disk_hits", "misses"), 2.0),
    **{f"{tier}_hit_bytes": n * 2**20 for n, tier in enumerate(("device", "host", "disk"), 5)},
    "bytes_written": 0.0,
}
#: dB over the heuristic: the best prompt is the third, the median the first, the worst the fifth.
GAINS = (1.0, 2.0, 4.0, 0.5, -3.0)


def measured() -> Results:
    """A schedule, an online policy and a heuristic of the same time, on five prompts."""
    methods = (
        REFERENCE,
        Method("policy", "static", "budget 0.5"),
        Method("policy", "learned", "budget 0.6"),
        Method("every-k forecast", "heuristic", "k = 2"),
    )
    psnr = np.full((4, 5), 30.0)
    psnr[0], psnr[1] = 60.0, 30.0 + np.array(GAINS)
    generator = np.random.default_rng(0)
    fixed = np.array([[0], [1], [0], [1]], dtype=np.int8)
    moved = [fixed.copy() for _ in PROMPTS]
    moved[1][1] = 0
    return Results(
        methods=methods,
        prompts=PROMPTS,
        seeds=tuple(range(5)),
        num_inference_steps=4,
        seconds=np.repeat(np.array([[4.0], [2.0], [2.0], [2.0]]), 5, axis=1),
        quality={"psnr_db": psnr, "ssim": np.full(psnr.shape, 0.75)},
        compute_share=np.full(psnr.shape, 0.5),
        pictures={
            index: [generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in PROMPTS]
            for index in (0, 1, 2)
        },
        traces={
            1: [Trace(fixed, MEMORY)] * 5,
            2: [Trace(one, MEMORY) for one in moved],
            3: [Trace(fixed, MEMORY)] * 5,
        },
        profile={"fixed_s": 0.1, "step_s": 0.001, "site_s": 0.02},
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(measured(), env="ditcache/tiny-v0", command="python eval.py --report DIR")


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "new" / "report.html"
    write_page(page, report, measured().albums)
    return page


def test_a_report_says_what_was_decided_and_held(report: Report) -> None:
    static, online, _ = report["traces"]

    assert static["modes"] == ["CRCR"]
    assert online["modes"] == ["CRCR", "CCCR", "CRCR", "CRCR", "CRCR"]
    assert computed_share(online) == [1.0, 0.2, 1.0, 0.0]
    assert static["memory"]["peak_bytes"] == 3.0 * (1 << 20)
    assert report["profile"] == {"fixed_s": 0.1, "step_s": 0.001, "site_s": 0.02}
    json.dumps(report, allow_nan=False)


def test_gains_are_listed_by_prompt(report: Report) -> None:
    (pair,) = [
        p for p in report["paired"] if p["against"] == "heuristic" and p["target"][-1] == "5"
    ]

    assert pair["gains_db"] == pytest.approx(GAINS)


def test_the_page_is_one_small_file_with_all_parts(written: Path, report: Report) -> None:
    text = written.read_text()

    assert written.stat().st_size < 15_000_000
    assert not re.search(r"<(script|img)[^>]* src=['\"](?!data:)|<link", text)
    for part in ("frontier", "decisions", "gains", "memory", "profile", "origin"):
        assert f"id='{part}'" in text
    for fact in (report["command"], str(report["versions"]["torch"]), "3.00", PROMPTS[4]):
        assert fact in text
    assert "1 of 3 settings " in text
    for served in ("2.0, 5.00 MiB", "2.0, 6.00 MiB", "2.0, 7.00 MiB"):
        assert text.count(f"<td>{served}</td>") == 3


def test_pages_of_the_largest_pictures_stay_small() -> None:
    pictures = 3 * 2 * MOST_SETTINGS  # best, median and worst, with a reference each

    # In base64, which takes a third more; plotly is 4.6 MB.
    assert pictures * MOST_PICTURE_BYTES * 4 / 3 + 5_000_000 < 15_000_000


def test_a_prompt_is_text_where_it_is_pointed_at(report: Report) -> None:
    (pair, *_) = [one for one in report["paired"] if one["n"]]

    markup = gains_plot(pair, ["<a href='x'>bold & \"new\"</a>"] * 5, name="x")

    shown = json.loads(re.findall(r"json\" [^>]*>(.*)</script>", markup)[0])["data"][0]["text"]
    assert shown == ["&lt;a href='x'&gt;bold &amp; \"new\"&lt;/a&gt;"] * 5


def test_best_median_and_worst_are_those_of_the_gains(written: Path) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", written.read_text())[:3]

    assert captions == [
        f"best, +4.0 dB: {PROMPTS[2]}",
        f"median, +1.0 dB: {PROMPTS[0]}",
        f"worst, -3.0 dB: {PROMPTS[4]}",
    ]


def test_a_report_of_the_reference_alone_has_a_page(tmp_path: Path) -> None:
    alone = measured()
    few = Results(
        methods=alone.methods[:1],
        prompts=PROMPTS,
        seeds=alone.seeds,
        num_inference_steps=4,
        seconds=alone.seconds[:1],
        quality={name: values[:1] for name, values in alone.quality.items()},
        compute_share=alone.compute_share[:1],
    )

    write_page(tmp_path / "report.html", build_report(few, env="tiny"), few.albums)

    assert "id='frontier'" in (tmp_path / "report.html").read_text()


@pytest.mark.browser
def test_the_page_is_used_by_keys_on_any_width_in_light_and_dark(written: Path) -> None:
    with chromium() as browser:
        for scheme in ("light", "dark"):
            visit = Visit(browser.new_page(color_scheme=scheme))
            visit.page.goto(written.as_uri())
            for name in ("frontier-plot", "decisions-plot", "gains-0"):
                visit.page.locator(f"#{name}").scroll_into_view_if_needed()
                visit.page.wait_for_selector(f"#{name} .main-svg")
            visit.check()
        page = visit.page
        ticks = "getComputedStyle(document.querySelector('.xtick text')).fill"
        assert page.evaluate(ticks) == "rgb(233, 235, 239)", "plots are as dark as their page"
        cut = "document.querySelector('.dc-stage').style.getPropertyValue('--cut')"
        page.locator(".dc-stage input").first.focus()
        page.keyboard.press("Home")
        assert page.evaluate(cut) == "0%"
        page.keyboard.press("ArrowRight")
        assert page.evaluate(cut) == "1%"
        _choose(page)
        assert visit.fits(390)
        assert visit.fits(1280)
        visit.check()


def _choose(page: Any) -> None:
    """Choose another setting; its panel takes the place of the first, and is drawn."""
    page.select_option("#setting", index=1)
    page.wait_for_selector("#gains-1 .main-svg")
    assert not page.locator("#gains-0").is_visible()
