import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import gpu
from benchmarks.costs.real_sizes import examine
from benchmarks.frontier import SCHEDULES, main
from benchmarks.peers import learned, searched, settings
from benchmarks.peers.contender import Contender, Setup
from benchmarks.peers.contenders import (
    CONTENDERS,
    CONVERSIONS,
    CONVERTED_COMPUTES,
    OWN_COMPUTES,
)
from benchmarks.peers.learned import FITTED, FREE
from benchmarks.peers.made import made_of
from benchmarks.peers.searched import (
    read_entry,
    schedules_for,
    with_schedules,
    write_entry,
)
from benchmarks.peers.solvers import SOLVERS
from benchmarks.peers.under_runner import FEWER_BLOCKS, PLAIN
from benchmarks.peers.verified import VERIFIED
from benchmarks.race.frontiers import (
    ALWAYS_DRAWN,
    SPEEDUPS,
    at_quality,
    at_speedup,
    curves,
    ends_above,
    figures_of,
    foremost,
    lines_of,
)
from benchmarks.race.host import Entrant, LocalHost
from benchmarks.race.measure import Log, fast_enough, measure, worth_more
from benchmarks.race.page import write_page
from benchmarks.zoo.published import PublishedModel, fitting_layers
from ditcache_rl.bench import Case
from ditcache_rl.control import FBCache, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.schedules import Schedule, ScheduleTable
from ditcache_rl.types import Mode
from tests.kit.environment import levels_of
from tests.kit.pipelines import BLOCKS, CALL, PROMPTS, assert_close, draw, draw_under

STEPS = 6
CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]


def line(
    contender: str, family: str, speedup: float, psnr: float, *, converted: bool = False
) -> Any:
    spread = {"mean": psnr, "p5": psnr - 5, "ci95": [psnr - 1, psnr + 1]}
    return {
        "contender": contender,
        "family": family,
        "process": "main",
        "knob": "k",
        "value": speedup,
        "n": 2,
        "seconds_per_image": 1 / speedup,
        "speedup": speedup,
        "psnr_db": spread,
        "ssim": {"mean": psnr / 60, "p5": 0.5, "ci95": [0.5, 0.9]},
        "lpips": None,
        "executed_share": 1 / speedup,
        "cache_bytes": 0,
        "converted": converted,
        "error": None,
    }


LINES = [
    line("reference", "reference", 1.0, 60.0),
    line("mine", "static", 2.0, 50.0),
    line("mine", "static", 8.0, 30.0),
    line("theirs", "peer", 2.0, 45.0),
    line("theirs", "peer", 4.0, 35.0),
    line("broken", "peer", 1.0, 0.0) | {"error": "no", "n": 0, "psnr_db": None},
]


def test_frontiers_are_interpolated_in_measured_speed_up() -> None:
    named = curves(LINES)

    # From 2x to 8x is two doublings for 20 dB, to 4x is one for 10 dB.
    assert at_speedup(named["mine"], 4.0) == pytest.approx(40.0)
    assert at_quality(named["mine"], 40.0) == pytest.approx(4.0)
    assert at_speedup(named["theirs"], 4.0) == pytest.approx(35.0)
    assert np.isnan(at_speedup(named["theirs"], 4.5))
    assert at_quality(named["theirs"], 30.0) == pytest.approx(4.0)
    assert np.isnan(at_quality(named["theirs"], 46.0))


@given(st.dictionaries(st.integers(4, 36), st.floats(20, 60), min_size=1), st.floats(20, 60))
def test_speed_at_a_quality_inverts_quality_at_a_speed(
    quality_db: dict[int, float], least_db: float
) -> None:
    lines = [line("one", "peer", quarters / 4, psnr) for quarters, psnr in quality_db.items()]
    (curve,) = curves(lines).values()

    speedup = at_quality(curve, least_db)

    if np.isnan(speedup):
        assert max(quality_db.values()) < least_db
    elif ends_above(curve, least_db):
        assert speedup == curve[-1]["speedup"]
    else:
        assert at_speedup(curve, speedup * (1 - 1e-9)) == pytest.approx(least_db, abs=1e-3)


def test_figures_compare_ours_with_the_best_of_the_others() -> None:
    figures, who = figures_of(LINES)

    assert figures["ahead_db_2x"] == pytest.approx(5.0)
    assert figures["best_peer_db_3x"] == pytest.approx(45 - 10 * np.log2(1.5))
    assert "ahead_db_4_5x" not in figures  # nobody else is that fast
    assert figures["ours_x_35db"] == pytest.approx(2 * 2**1.5)
    assert figures["peer_x_38db"] == pytest.approx(2 * 2**0.7)
    assert (figures["peers_failed_count"], figures["peers_count"]) == (1, 2)
    assert who["db_2x"]["peer"][0] == "theirs"


def test_what_only_the_first_prompts_were_drawn_with_is_no_figure() -> None:
    tried = line("lucky", "peer", 3.0, 59.0) | {"n": 1}

    assert figures_of([*LINES, tried])[0] == figures_of(LINES)[0] | {"peers_count": 3}


def test_a_speed_up_beyond_which_nothing_was_measured_is_at_least_that() -> None:
    figures, who = figures_of(LINES)

    assert "peer_x_35db" not in figures  # its fastest has 35 dB, and may have been driven on
    assert figures["peer_x_35db_at_least"] == pytest.approx(4.0)
    assert figures["ours_x_30db_at_least"] == pytest.approx(8.0)
    assert who["x_38db"]["end_above"] == []
    assert who["x_35db"]["end_above"] == ["theirs"]
    assert who["x_30db"]["end_above"] == ["mine", "theirs"]


def test_converted_models_are_lines_and_no_part_of_the_figures() -> None:
    both = [
        line("mine, bf16", "static", 3.0, 60.0, converted=True),
        line("theirs, bf16", "fewer-steps", 3.0, 60.0, converted=True),
    ]

    figures, who = figures_of([*LINES, *both])

    counts = {"peers_count": 3}
    assert (figures, who) == (figures_of(LINES)[0] | counts, figures_of(LINES)[1])
    assert {"mine, bf16", "theirs, bf16"} < set(curves([*LINES, *both]))


def test_whoever_counts_computed_steps_goes_down_to_as_few_as_ours() -> None:
    counted = [one for one in CONTENDERS if one.knob in ("computed", "steps")]
    fewest = {one.name: min(n for n in one.values if isinstance(n, int)) for one in counted}

    assert fewest.pop("DPCache") == 3, "it always computes its first three"
    assert len(fewest) > 12
    assert set(fewest.values()) == {min(OWN_COMPUTES)}


def test_fewer_steps_are_converted_at_as_many_steps_as_ours_compute() -> None:
    values = {one.name: set(one.values) - {PLAIN} for one in CONTENDERS if one.converted}

    assert set(values) == {
        f"{way}, {kind}" for way in ("fewer steps", "whole denoiser") for kind in CONVERSIONS
    }
    assert all(counts == set(CONVERTED_COMPUTES) for counts in values.values())
    assert set(CONVERTED_COMPUTES) <= set(OWN_COMPUTES), "these are searched"


RESULT = SCHEDULES.with_name("frontier-2cores.json")


def test_the_picture_of_few_lines_has_the_best_of_every_family() -> None:
    every = curves(json.loads(RESULT.read_text())["details"]["rows"])

    few = foremost(every)

    assert len(few) <= 10
    assert set(ALWAYS_DRAWN) & set(every) < set(few)
    for speedup in SPEEDUPS.values():
        for family in {curve[0]["family"] for curve in every.values()}:
            at = {n: at_speedup(c, speedup) for n, c in every.items() if c[0]["family"] == family}
            best = max(at, key=lambda name: -1.0 if np.isnan(at[name]) else at[name])
            assert best in few or np.isnan(at[best])


def test_many_families_make_no_more_than_ten_lines() -> None:
    many = [line(f"c{n}", f"family {n}", 2.0 * x, 50.0) for n in range(14) for x in (1, 4)]

    assert len(foremost(curves([*LINES, *many]))) == 10


def test_an_earlier_result_is_drawn_and_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is measured")

    monkeypatch.setattr("benchmarks.frontier.open_pipeline", measured)

    assert main(["--draw", str(RESULT), "--png", str(tmp_path / "few.png")]) == 0

    with Image.open(tmp_path / "few.png") as few, Image.open(tmp_path / "few-all.png") as many:
        assert few.size != many.size


@pytest.fixture
def pipe() -> Any:
    """A pipeline of its own: peers and hosts leave something on it for good."""
    from tests.kit.pipelines import build_tiny_pipe

    return build_tiny_pipe()


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8])
def test_our_first_block_cache_computes_the_steps_that_diffusers_computes(
    pipe: Any, threshold: float
) -> None:
    computed: list[int] = []
    last = pipe.transformer.single_transformer_blocks[-1]
    plain = last.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        computed.append(pipe.scheduler.step_index or 0)
        return plain(*args, **kwargs)

    last.forward = forward
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    try:
        theirs = draw(pipe, steps=12)
    finally:
        pipe.transformer.disable_cache()
        del last.forward

    ours, log = draw_under(pipe, FBCache(threshold), steps=12)

    assert np.flatnonzero(log.modes[:, 0, 0] == Mode.COMPUTE).tolist() == computed
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def entrants(*names: str) -> list[Entrant]:
    return [
        Entrant(contender.process, contender, value)
        for contender in CONTENDERS
        if contender.name in names
        for value in contender.values[-2:]
    ]


def host(pipe: Any) -> LocalHost:
    return LocalHost(Setup(pipe, STEPS, lambda: draw(pipe, steps=STEPS)), CALL)


def run(pipe: Any, log: Log, chosen: list[Entrant]) -> list[str]:
    heard: list[str] = []
    measure({"main": host(pipe)}, chosen, CASES, log, tried=99, lpips=None, on_image=heard.append)
    return heard


def test_every_contender_is_measured_or_a_line_with_its_error(pipe: Any, tmp_path: Path) -> None:
    def fails(setup: Setup, value: Any) -> Any:
        raise ConfigError("not here")

    chosen = [
        *entrants("fewer steps", "FirstBlockCache", "TaylorSeer lite", "EasyCache", "MagCache"),
        Entrant("main", Contender("broken", "peer", "knob", (1,), fails), 1),
    ]
    log = Log(tmp_path, {"a": 1}, resume=False)

    run(pipe, log, chosen)
    lines = lines_of([Entrant("main"), *chosen], log)

    by_name = {one["contender"]: one for one in lines}
    assert by_name["broken"]["error"] == "ConfigError: not here"
    assert by_name["reference"]["psnr_db"]["mean"] == 60  # type: ignore[index]
    assert by_name["reference"]["executed_share"] == 1
    for name in ("fewer steps", "FirstBlockCache", "TaylorSeer lite", "EasyCache", "MagCache"):
        assert by_name[name]["error"] is None, by_name[name]
        assert by_name[name]["n"] == 2
    assert by_name["fewer steps"]["executed_share"] == pytest.approx(2 / STEPS)
    assert by_name["fewer steps"]["cache_bytes"] == 0
    assert by_name["FirstBlockCache"]["cache_bytes"] > 0  # type: ignore[operator]


def test_caches_of_diffusers_run_on_a_model_that_it_gives_none() -> None:
    guided, call = open_pipeline("builtin:shapes-guided"), dict[str, Any](height=64, width=64)
    kind = type(guided.transformer)
    here = LocalHost(Setup(guided, STEPS, lambda: draw(guided, steps=STEPS, **call)), call)
    plain = here.shoot(Entrant("main"), *CASES[0])

    for one in entrants("TaylorSeer", "MagCache", "PAB", "SeaCache, rule"):
        drawn = here.shoot(one, *CASES[0])
        assert drawn.work < plain.work, one.label
        assert (drawn.image - plain.image).abs().max() > 1e-3, one.label
        assert type(guided.transformer) is kind
    torch.testing.assert_close(here.shoot(Entrant("main"), *CASES[0]).image, plain.image)


# What other solvers do with lists of tensors, under numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_another_scheduler_keeps_is_counted_and_converted_weights_are_not(pipe: Any) -> None:
    here, case = host(pipe), CASES[0]
    base = here.warm_up(Entrant("main"), *case)
    latents = draw(pipe, steps=STEPS)

    kept = {}
    for name, value in (("DPM-Solver++ 2M", 3), ("whole denoiser, int8-dynamic", PLAIN)):
        (contender,) = (one for one in CONTENDERS if one.name == name)
        kept[name] = here.warm_up(Entrant("main", contender, value), *case) - base

    # Of second order: the output before the last is kept too, and no more than a few.
    one = latents[0].numel() * latents.element_size()
    assert one <= kept["DPM-Solver++ 2M"] <= 4 * one
    weights = sum(p.numel() * p.element_size() for p in pipe.transformer.parameters())
    assert kept["whole denoiser, int8-dynamic"] < weights / 8


@contextmanager
def counted(pipe: Any, calls: list[int]) -> Iterator[None]:
    """Count calls of the transformer."""
    handle = pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    try:
        yield
    finally:
        handle.remove()


# What other solvers do with lists of tensors, under numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_is_searched_is_kept_and_forecasts_of_the_whole_denoiser_are_fitted(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"FREE_COMPUTES": (3,), "_HISTORY": 2, "_ROUNDS": 1, "_TURNS": 1}
    few |= {"FITTED_COMPUTES": (3,)}
    for name, value in few.items():
        monkeypatch.setattr(learned, name, value)
    one = {"lower_order_final": (True, False)}
    few = {
        "SOLVERS": {name: (kind, fixed, one) for name, (kind, fixed, _) in SOLVERS.items()},
        "SOLVER_STEPS": (3,),
        "_THRESHOLDS": (0.1, 1.0),
    }
    for name, value in few.items():
        monkeypatch.setattr(settings, name, value)
    said: list[str] = []
    schedules = [Schedule.on_path((0, 2, 4), STEPS), Schedule.on_path(tuple(range(STEPS)), STEPS)]
    table = ScheduleTable.of(levels_of(pipe, CALL, STEPS), schedules)
    search: dict[str, Any] = {
        "steps": STEPS,
        "call": CALL,
        "cases": CASES,
        "learn": CASES,
        "select": CASES[:1],
        "fit": CASES,
        "judge": CASES,
        "table": table,
        "evaluations": 4,
        "file": tmp_path / "schedules.json",
        "say": said.append,
    }

    found = schedules_for(pipe, **search)

    count = len(said)
    assert schedules_for(pipe, **search) == found
    assert len(said) == count  # nothing was searched again
    assert set(found["schedules"]) == {
        "DPCache",
        "MeanCache-like",
        "LeMiCa",
        "BudCache",
        "whole denoiser",
    }
    assert all(entry["weights"] for entry in found["schedules"]["whole denoiser"].values())
    setup = with_schedules(Setup(pipe, STEPS, lambda: None), found, table)
    for by_computes in setup.schedules.values():
        for computes, schedule in by_computes.items():
            assert schedule.computes == computes
    assert set(found["settings"]) == {*SOLVERS, VERIFIED, FEWER_BLOCKS}
    assert not found["failed"]
    for name in ("L2P", *FREE, FITTED, *SOLVERS):
        (contender,) = (one for one in CONTENDERS if one.name == name)
        made, calls = contender.make(setup, 3), list[int]()
        with made["applied"](pipe), counted(pipe, calls):
            drawn = draw(pipe, steps=made.get("num_inference_steps", STEPS))
        assert len(calls) == 3, name
        assert torch.isfinite(drawn).all(), name

    assert FEWER_BLOCKS in found["settings"]
    (contender,) = (one for one in CONTENDERS if one.name == FEWER_BLOCKS)
    assert contender.method(setup, 2).sites == BLOCKS

    del found["settings"][VERIFIED], found["solvers"]["L2P"]  # of a run before there was such a one
    search["file"].write_text(json.dumps([found]))
    again, heard = schedules_for(pipe, **search), said[count:]
    assert heard == ["searching L2P", f"searching {VERIFIED}"]
    assert set(again["solvers"]) == {"L2P", *FREE}


@pytest.fixture
def search(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of a search that finds nothing, at once."""
    monkeypatch.setattr(searched, "learned", lambda name, **_: {})
    monkeypatch.setattr(searched, "fitted", lambda *_: {})
    monkeypatch.setattr(searched, "settings_of", lambda name, **_: {})
    monkeypatch.setattr(searched, "_order", lambda *_: [1, 0])
    ways = {"DPCache": dict[str, Any], "whole denoiser": dict[str, Any]}
    monkeypatch.setattr(searched.ScheduleSearch, "ways", lambda self: ways)
    return {
        "pipe": pipe,
        "steps": STEPS,
        "call": CALL,
        "cases": CASES,
        "learn": CASES,
        "select": CASES,
        "fit": CASES,
        "judge": CASES,
        "table": None,
        "evaluations": 4,
        "file": tmp_path / "schedules.json",
        "say": lambda text: None,
    }


def test_what_was_searched_by_less_is_not_taken(search: dict[str, Any]) -> None:
    said: list[str] = []
    search |= {"say": said.append}
    old = {name: one for name, one in schedules_for(**search).items() if name != "select"}
    search["file"].write_text(json.dumps([old]))  # as files once were
    amounts: list[dict[str, Any]] = [
        {},
        {"evaluations": 5},
        *({name: CASES[:1]} for name in ("cases", "learn", "select", "fit", "judge")),
    ]

    for less in amounts:
        said.clear()
        schedules_for(**search | less)
        assert "searching DPCache" in said
        said.clear()
        schedules_for(**search | less)
        assert not said

    assert len(json.loads(search["file"].read_text())) == len(amounts), "each of its own"


def test_a_search_that_fails_is_said_and_costs_nothing_of_the_others(
    search: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    there: list[bool] = []

    def settings_of(name: str, **_: Any) -> dict[str, Any]:
        there.append("L2P" in json.loads(search["file"].read_text())[0]["solvers"])
        if name == VERIFIED:
            raise RuntimeError("not here")
        return {}

    monkeypatch.setattr(searched, "settings_of", settings_of)
    found = schedules_for(**search | {"say": said.append})

    assert all(there), "what was found is kept at once"
    assert f"without {VERIFIED}: RuntimeError: not here" in said
    assert found["failed"] == {VERIFIED: "RuntimeError: not here"}
    assert set(found["settings"]) == {*SOLVERS, FEWER_BLOCKS}
    (kept,) = json.loads(search["file"].read_text())
    assert "failed" not in kept, "it is tried again"
    setup = with_schedules(Setup(search["pipe"], STEPS, lambda: None), found, None)
    (contender,) = (one for one in CONTENDERS if one.name == VERIFIED)
    with pytest.raises(ConfigError, match="RuntimeError: not here"):
        contender.method(setup, 0.1)


def test_the_schedules_that_are_kept_are_read_and_written_as_they_are() -> None:
    schedules = [kept["schedules"] for kept in json.loads(SCHEDULES.read_text())]
    entries = [one for kept in schedules for found in kept.values() for one in found.values()]

    assert any(entry["weights"] for entry in entries)
    for entry in entries:
        assert write_entry(read_entry(entry)) == entry


def test_a_contender_follows_the_schedule_of_its_computes(pipe: Any) -> None:
    kept, *_ = json.loads(SCHEDULES.read_text())
    setup = with_schedules(Setup(pipe, kept["steps"], lambda: None), kept, None)
    (contender,) = (one for one in CONTENDERS if one.name == "whole denoiser")

    for computes in contender.values:
        controller = contender.method(setup, computes).controller
        assert isinstance(controller, StaticSchedule)
        (followed,) = controller.schedules
        assert (followed.steps, followed.computes) == (kept["steps"], computes)
        assert followed.coefficients is not None


def test_a_collapsed_contender_draws_what_the_searched_schedule_draws(pipe: Any) -> None:
    setup = Setup(pipe, STEPS, lambda: None, {"whole denoiser": {3: Schedule.from_text("C1C1C1")}})
    here = LocalHost(setup, CALL)
    (collapsed,) = (one for one in CONTENDERS if one.name == "whole denoiser, collapsed")
    assert here.warm_up(Entrant("main", collapsed, 3), *CASES[0]) > 0
    drawn, calls = list[Any](), list[Any]()
    hook = pipe.transformer.register_forward_hook(lambda *given: calls.append(given))
    for name in ("whole denoiser", "whole denoiser, collapsed"):
        (contender,) = (one for one in CONTENDERS if one.name == name)
        method = contender.method(setup, 3)
        calls.clear()
        if method.applied is None:
            assert method.controller is not None
            drawn.append(draw_under(pipe, method.controller, blocks=method.blocks)[0])
            continue
        for _ in range(2):
            with method.applied(pipe):
                drawn.append(draw(pipe))
    hook.remove()

    assert len(calls) == 2 * 3, "nothing is called for steps that are left out"
    assert_close(drawn[1], drawn[0])
    assert torch.equal(drawn[2], drawn[1])


@pytest.mark.parametrize("kind", ["bf16", "int8-dynamic"])
def test_converted_models_take_the_place_of_the_plain_ones_for_a_call(pipe: Any, kind: str) -> None:
    plain, few = draw(pipe), draw(pipe, steps=3)
    named = {one.name: one for one in CONTENDERS}
    found = {"whole denoiser": {3: Schedule.from_text("CRCRCR")}}
    setup = Setup(pipe, STEPS, lambda: None, found)
    before, drawn = dict(pipe.components), []
    for way, value in (("whole denoiser", PLAIN), ("whole denoiser", 3), ("fewer steps", 3)):
        method = named[f"{way}, {kind}"].method(setup, value)
        assert method.applied is not None
        with method.applied(pipe):
            drawn.append(draw(pipe, steps=method.num_inference_steps or STEPS).float())

    assert all(pipe.components[name] is part for name, part in before.items())
    assert torch.equal(draw(pipe), plain)
    error, cached = ((one - plain).norm() / plain.norm() for one in drawn[:2])
    assert 1e-5 < error < 0.1, "other numbers, the same picture"
    assert cached > error
    assert 1e-5 < (drawn[2] - few).norm() / few.norm() < 0.1


def test_a_run_that_was_cut_off_draws_only_what_is_missing(pipe: Any, tmp_path: Path) -> None:
    chosen = entrants("FirstBlockCache")
    run(pipe, Log(tmp_path, {"a": 1}, resume=False), chosen)
    file = tmp_path / "measurements.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:10])  # killed while writing the last line

    log = Log(tmp_path, {"a": 1}, resume=True)
    missing = [s.label for s in chosen if len(log.points[s.label]) == 1]
    heard = run(pipe, log, chosen)

    assert len(missing) == 1
    drawn = [text for text in heard if not text.startswith("warm-up")]
    assert sorted(drawn) == sorted([Entrant("main").label, *missing])
    assert all(len(log.points[s.label]) == 2 for s in chosen)
    with pytest.raises(ConfigError, match="without --resume"):
        Log(tmp_path, {"a": 2}, resume=True)


def test_a_run_goes_on_without_what_entrants_were_that_are_made_of_something_else_now(
    pipe: Any, tmp_path: Path
) -> None:
    chosen = entrants("FirstBlockCache")
    old, same = chosen[0].label, [one.label for one in chosen[1:]]
    run(pipe, Log(tmp_path, {}, resume=False, made={old: "before"}), chosen)

    log = Log(tmp_path, {}, resume=True, made={old: "after"})
    assert old not in log.points
    assert old not in log.peak_bytes
    heard = run(pipe, log, chosen)

    drawn = [text for text in heard if not text.startswith("warm-up")]
    assert sorted(drawn) == sorted([Entrant("main").label, old] * len(CASES))
    assert all(len(log.points[label]) == len(CASES) for label in (old, *same))
    line = lines_of([chosen[0]], log)[0]
    turns = log.points[old].values()
    base, own = (
        float(np.median([p[name] for p in turns])) for name in ("reference_seconds", "seconds")
    )
    assert line["speedup"] == base / own, "timed against the plain pipeline of the same turn"
    again = Log(tmp_path, {}, resume=True, made={old: "after"})
    assert again.points == log.points


def test_contenders_are_made_of_what_was_searched_for_them_or_the_policy(tmp_path: Path) -> None:
    entry: dict[str, Any] = {
        "schedules": {"whole denoiser": {"2": "C1"}, "DPCache": {"3": "CC"}},
        "solvers": {"L2P": {"2": [1.0]}},
        "schedulers": {},
    }
    (tmp_path / "manifest.json").write_text("{}")
    names = ("whole denoiser", "whole denoiser, collapsed", "DPCache", "L2P", "policy", "FORA")

    def digests() -> dict[str, str]:
        return {name: made_of(name, entry, tmp_path, None) for name in names}

    first = digests()
    assert digests() == first
    entry["schedules"]["whole denoiser"]["2"] = "C0"
    second = digests()
    (tmp_path / "manifest.json").write_text('{"minutes": 2}')
    third = digests()
    assert {name for name in names if second[name] != first[name]} == {
        "whole denoiser",
        "whole denoiser, collapsed",
    }
    assert {name for name in names if third[name] != second[name]} == {"policy"}


def test_only_what_may_matter_goes_on_after_the_first_prompts(tmp_path: Path) -> None:
    def contender(name: str) -> Entrant:
        method = Contender(
            name,
            "static" if "ours" in name else "heuristic",
            "k",
            (1,),
            lambda setup, value: {},
            converted=name.startswith("converted"),
        )
        return Entrant("main", method, 1)

    log = Log(tmp_path, {}, resume=False)
    measured = {
        "good": (0.5, 50.0),
        "near": (0.5, 45.5),
        "ours": (0.5, 58.0),
        "converted": (0.5, 51.5),
        "far": (0.5, 42.0),
        "worse of ours": (0.5, 50.0),
        "converted and far": (0.5, 50.0),
        "slow": (0.9, 59.0),
    }
    for number in range(4):
        for label, (seconds, psnr) in {"reference, main": (1.0, 60.0), **measured}.items():
            label = label if "," in label else f"{label}, k 1"
            base = 1.0 + number  # a machine that gets slower
            log.note(
                label,
                prompt=number,
                seconds=seconds * base,
                reference_seconds=base,
                psnr_db=psnr,
            )

    fast = fast_enough([Entrant("main"), *map(contender, measured)], log, 4)
    kept = worth_more(fast, log, 4)

    assert [s.label for s in fast] == [
        "reference, main",
        *[f"{name}, k 1" for name in measured][:-1],
    ]
    assert kept == fast[:5], "each side is held to its own best"


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    pictures = {"reference, main": image, "mine, k 2.0": image, "theirs, k 2.0": image}
    details = {"pipeline": "x", "steps": 6, "prompts": ["a <prompt>"], "threads": 1}

    write_page(tmp_path / "page.html", LINES, {"a_db": 1.0}, details, [pictures])

    text = (tmp_path / "page.html").read_text()
    assert "<script src=" not in text
    assert "<link" not in text
    assert "a &lt;prompt&gt;" in text
    assert text.count("data:image/png") >= 6


def test_the_log_is_lines_of_json(tmp_path: Path) -> None:
    log = Log(tmp_path, {"a": 1}, resume=False)
    log.note("x", prompt=0, seconds=1.0)

    lines = (tmp_path / "measurements.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"a": 1},
        {"setting": "x", "made": "", "prompt": 0, "seconds": 1.0},
    ]


TINY = PublishedModel(
    "FluxTransformer2DModel",
    {
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    },
    ("num_layers", "num_single_layers"),
    (16, 64),
    {"encoder_hidden_states": (4, 32), "pooled_projections": (32,), "guidance": ()},
    {"img_ids": (16, 3), "txt_ids": (4, 3)},
    scale=1000.0,
)


def test_a_shape_is_examined_on_any_device() -> None:
    figures, details = examine(TINY, {}, "cpu", torch.float32, compiled=False)

    assert figures["step_s"] > 0
    assert figures["peak_device_bytes"] > 0
    assert details["entry_bytes"] == 4 * (16 + 4) * 32
    assert [line["sites"] for line in details["pays"]] == [1, 4]


def test_as_many_blocks_are_built_as_fit() -> None:
    whole = fitting_layers(TINY, 1 << 30, 2)

    assert whole == {"num_layers": 2, "num_single_layers": 2}
    assert fitting_layers(TINY, 0, 2) == {"num_layers": 1, "num_single_layers": 1}


def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    import sys

    arguments, sys.argv = sys.argv, ["gpu.py"]
    try:
        assert gpu.main() == 0
    finally:
        sys.argv = arguments
