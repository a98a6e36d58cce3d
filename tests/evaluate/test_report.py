import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ditcache_rl.errors import ConfigError, StateError
from ditcache_rl.evaluate import (
    Method,
    Results,
    build_report,
    plot_frontier,
    plot_grid,
    render_deadlines,
    render_table,
)
from ditcache_rl.evaluate.curves import place_labels
from ditcache_rl.evaluate.methods import REFERENCE
from ditcache_rl.machine import machine_facts, version_facts

PROMPTS = tuple(
    f"a small plain red disc at left on a white background, number {i}" for i in range(8)
)
FEWER = (
    Method("fewer steps", "fewer-steps", "14 steps"),
    Method("fewer steps", "fewer-steps", "7 steps"),
)
LEARNED = (Method("ppo", "learned", "2.0x"), Method("ppo", "learned", "4.0x"))


def results_of(
    methods: Sequence[Method],
    seconds: Sequence[float],
    psnr_db: Sequence[float],
    *,
    scatter_db: float = 0.0,
) -> Results:
    """Measurements of 8 prompts, with one time and a PSNR that the scatter moves up and down."""
    waves = scatter_db * np.where(np.arange(len(PROMPTS)) % 2, 1.0, -1.0)
    psnr = np.array(psnr_db)[:, None] + waves
    generator = np.random.default_rng(0)
    pictures = {
        index: [generator.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(6)]
        for index, method in enumerate(methods)
        if method.family in ("reference", "learned")
    }
    return Results(
        methods=tuple(methods),
        prompts=PROMPTS,
        seeds=(0,),
        num_inference_steps=28,
        seconds=np.repeat(np.array(seconds)[:, None], len(PROMPTS), axis=1),
        quality={"psnr_db": psnr, "ssim": np.full(psnr.shape, 0.75)},
        compute_share=np.repeat(np.array(seconds)[:, None] / 4, len(PROMPTS), axis=1),
        pictures=pictures,
    )


RESULTS = results_of(
    (REFERENCE, *FEWER, *LEARNED), [4.0, 2.0, 1.0, 2**0.5, 0.5], [60.0, 30.0, 20.0, 28.0, 15.0]
)


def test_a_row_says_what_was_measured() -> None:
    row = build_report(RESULTS, env="shapes")["rows"][1]

    assert row == {
        "method": "fewer steps",
        "family": "fewer-steps",
        "target": "14 steps",
        "compute_share": 0.5,
        "seconds_per_image": 2.0,
        "speedup": 2.0,
        "psnr_db": {"mean": 30.0, "p5": 30.0, "p95": 30.0},
        "ssim": {"mean": 0.75, "p5": 0.75, "p95": 0.75},
        "lpips": None,
        "n": 8,
    }


def test_every_metric_is_in_the_report_under_its_name() -> None:
    more = {**RESULTS.quality, "lpips": RESULTS.psnr_db * 0, "sharpness": RESULTS.psnr_db / 2}

    report = build_report(replace(RESULTS, quality=more), env="shapes")

    row = dict(report["rows"][1])
    assert row["sharpness"] == {"mean": 15.0, "p5": 15.0, "p95": 15.0}
    assert row["lpips"] == {"mean": 0.0, "p5": 0.0, "p95": 0.0}


def test_a_policy_is_compared_at_equal_time() -> None:
    paired = build_report(RESULTS, env="shapes")["paired"][0]

    # Half way between 1 s and 2 s in the logarithm, fewer steps reach 25 dB; the policy has 28 dB.
    assert (paired["method"], paired["target"], paired["against"]) == ("ppo", "2.0x", "fewer-steps")
    assert paired["budget"] == pytest.approx(2**0.5 / 4)
    assert paired["gain_db"] == pytest.approx(3.0)
    assert paired["ci95"] == pytest.approx([3.0, 3.0])
    assert paired["n"] == 8


def test_a_gain_is_paired_image_by_image() -> None:
    scattered = results_of(
        (REFERENCE, *FEWER, LEARNED[0]),
        [4.0, 2.0, 1.0, 2.0],
        [60.0, 30.0, 20.0, 31.0],
        scatter_db=9.0,
    )

    (paired,) = build_report(scattered, env="shapes")["paired"]

    # Prompts differ by 18 dB, method and baseline on one prompt always by 1 dB.
    assert paired["ci95"] == pytest.approx([1.0, 1.0])


def test_a_baseline_that_is_not_as_fast_has_no_gain() -> None:
    paired = build_report(RESULTS, env="shapes")["paired"][1]

    assert paired["target"] == "4.0x"
    assert (paired["gain_db"], paired["ci95"], paired["n"]) == (None, None, 0)


def test_only_a_policy_is_compared_with_static_schedules() -> None:
    methods = (REFERENCE, Method("search", "static", "2.0x"), LEARNED[0], Method("dbcache", "peer"))

    report = build_report(results_of(methods, [4.0, 2, 2, 2], [60.0, 30, 31, 29]), env="shapes")

    assert [(p["method"], p["against"]) for p in report["paired"]] == [
        ("search", "peer"),
        ("ppo", "peer"),
        ("ppo", "static"),
    ]


def test_a_value_that_is_no_number_becomes_null() -> None:
    broken = results_of((REFERENCE, FEWER[0]), [4.0, 2.0], [60.0, float("nan")])

    report = build_report(broken, env="shapes")

    assert report["rows"][1]["psnr_db"] == {"mean": None, "p5": None, "p95": None}
    json.dumps(report, allow_nan=False)


def test_the_table_names_every_setting() -> None:
    console = Console(width=120, record=True, file=io.StringIO())

    console.print(render_table(build_report(RESULTS, env="shapes")))

    text = console.export_text()
    for expected in ("reference", "14 steps", "7 steps", "2.0x", "2.83", "28.00"):
        assert expected in text


def test_quality_under_a_deadline_is_that_of_the_images_in_time() -> None:
    half, none = (Method("policy", "deadline", f"{s} s", deadline_s=s) for s in (2.0, 0.5))
    measured = results_of((REFERENCE, half, none), [4.0, 2.0, 1.0], [60.0, 40.0, 30.0])
    measured.seconds[1, 2:4] = 2.5
    measured.psnr_db[1, 2:4] = 90.0

    report = build_report(measured, env="shapes")

    kept, late = report["deadlines"]
    assert kept == {
        "method": "policy",
        "deadline_s": 2.0,
        "kept_share": 0.75,
        "psnr_db": {"mean": 40.0, "p5": 40.0, "p95": 40.0},
        "late_as_zero_db": 30.0,
        "seconds_per_image": 2.0,
        "n": 8,
    }
    assert (late["kept_share"], late["psnr_db"], late["late_as_zero_db"]) == (0.0, None, 0.0)
    assert [row["method"] for row in report["rows"]] == ["reference"], "equal time means nothing"
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_deadlines(report))
    text = console.export_text()
    for expected in ("75%", "40.00", "30.00", "2.000", "0.5 s"):
        assert expected in text


def check_png(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image))) > 1


def test_the_frontier_is_drawn(tmp_path: Path) -> None:
    plot_frontier(build_report(RESULTS, env="shapes"), tmp_path / "new" / "frontier.png")

    check_png(tmp_path / "new" / "frontier.png")


def test_a_name_stands_beside_its_own_line_and_on_nothing_else() -> None:
    # A line down, a line up, and one that runs just above the first.
    down = np.array([[100.0, 400.0], [300.0, 250.0], [500.0, 60.0]])
    tracks = [down, np.array([[100.0, 80.0], [500.0, 380.0]]), down + np.array([0.0, 12.0])]
    sizes = [(90.0, 14.0), (60.0, 14.0), (120.0, 14.0)]

    middles = place_labels(tracks, sizes, np.array([0.0, 0.0, 600.0, 450.0]))

    boxes = [
        (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        for (x, y), (width, height) in zip(middles, sizes, strict=True)
    ]
    for own, (left, bottom, right, top) in enumerate(boxes):
        assert 0 <= left < right <= 600
        assert 0 <= bottom < top <= 450
        for x0, y0, x1, y1 in boxes[:own]:
            assert x1 <= left or right <= x0 or y1 <= bottom or top <= y0
        far = []
        for (x, y), *rest in (track.tolist() for track in tracks):
            near = np.inf
            for to_x, to_y in rest:  # every pixel of the line
                share = np.linspace(0, 1, 1000)
                across = x + (to_x - x) * share
                up = y + (to_y - y) * share
                apart = np.hypot(
                    np.maximum(np.maximum(left - across, across - right), 0),
                    np.maximum(np.maximum(bottom - up, up - top), 0),
                )
                near, x, y = min(near, float(apart.min())), to_x, to_y
            far.append(near)
        assert min(far) > 0
        assert int(np.argmin(far)) == own


def test_the_picture_grid_is_drawn(tmp_path: Path) -> None:
    plot_grid(RESULTS, tmp_path / "grid.png")

    check_png(tmp_path / "grid.png")


def test_a_grid_of_the_reference_alone_is_refused(tmp_path: Path) -> None:
    alone = results_of((REFERENCE,), [4.0], [60.0])

    with pytest.raises(StateError, match="images of at least one method"):
        plot_grid(alone, tmp_path / "grid.png")


def test_a_grid_shows_the_first_prompts_alone(tmp_path: Path) -> None:
    every = {index: [*own, own[0], own[1]] for index, own in RESULTS.pictures.items()}

    plot_grid(RESULTS, tmp_path / "six.png")
    plot_grid(replace(RESULTS, pictures=every), tmp_path / "eight.png")

    six, eight = ((tmp_path / f"{name}.png").read_bytes() for name in ("six", "eight"))
    assert Image.open(io.BytesIO(six)).size == Image.open(io.BytesIO(eight)).size


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ConfigError, match=r"pip install 'ditcache-rl\[train\]'"):
        plot_frontier(build_report(RESULTS, env="shapes"), tmp_path / "out.png")
    with pytest.raises(ConfigError, match=r"pip install 'ditcache-rl\[train\]'"):
        plot_grid(RESULTS, tmp_path / "out.png")


def test_facts_of_machine_and_software_are_told() -> None:
    machine, versions = machine_facts(), version_facts()

    assert isinstance(machine["cores"], int)
    assert machine["threads"] == 1
    assert versions["torch"]
    assert versions["ditcache_rl"]
    json.dumps([machine, versions], allow_nan=False)
