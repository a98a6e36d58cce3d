import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ditcache_rl as dc
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.errors import ArtifactError, BudgetError, ConfigError, UnsupportedModelError
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.instrument import RequestLog
from ditcache_rl.policy import Policy, save_policy
from ditcache_rl.schedules import CostModel, Schedule, ScheduleTable, Scored
from ditcache_rl.types import HISTORY, Mode
from tests.kit.environment import PROMPTS, untrained_policy


@pytest.fixture
def pipe(tiny_pipe: Any) -> Iterator[Any]:
    """The tiny pipeline; whatever a test does, it must be left as it was."""
    kind, scheduler = type(tiny_pipe), tiny_pipe.scheduler

    yield tiny_pipe

    tiny_pipe.scheduler = scheduler
    assert type(tiny_pipe) is kind
    assert not any("forward" in module.__dict__ for module in tiny_pipe.transformer.modules())


@pytest.fixture
def policy(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    return untrained_policy(tiny_pipe, tiny_call)


def draw(pipe: Any, call: dict[str, Any], *, steps: int = 4, output_type: str = "pt") -> Tensor:
    images: Tensor = pipe(
        PROMPTS["test"][0],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type=output_type,
        **call,
    ).images
    return images


def test_a_policy_folder_speeds_up_a_pipeline_and_leaves_it_as_it_was(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    save_policy(policy, tmp_path / "policy", card="made for a test")
    before = draw(pipe, tiny_call)

    with dc.cached(pipe, str(tmp_path / "policy"), budget=0.5) as run:
        cached = draw(pipe, tiny_call)
        draw(pipe, tiny_call, steps=6)

    assert [log.compute_share.tolist() for log in run.logs] == [[0.5], [0.5]]
    assert not torch.equal(cached, before)
    assert torch.equal(draw(pipe, tiny_call), before)
    assert run.cache.used_bytes == 0


def exploding(policy: Policy) -> Policy:
    """Give every estimate of a policy coefficients that no float can hold the sum of."""
    huge = np.full((4, HISTORY), 3e38)
    table = policy.tables[4]
    lines = [
        one._replace(schedule=Schedule(one.schedule.modes, huge if computes < 4 else None))
        for computes, one in table.items()
    ]
    return replace(policy, tables={4: ScheduleTable.of(table.sigmas, lines)})


@pytest.mark.parametrize("output_type", ["pt", "pil", "latent"])
@pytest.mark.parametrize("at", [0.25, 0.5, 0.75])
def test_an_image_that_is_not_finite_is_an_error(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any], at: float, output_type: str
) -> None:
    plain = draw(pipe, tiny_call)

    with dc.cached(pipe, exploding(policy), budget=at) as run:
        with pytest.raises(ArtifactError, match=r"expected finite latents.* of 4 site"):
            draw(pipe, tiny_call, output_type=output_type)
        assert not run.logs
        assert run.failed == {"ArtifactError": 1}

    with dc.cached(pipe, exploding(policy), budget=1.0):
        assert torch.equal(draw(pipe, tiny_call), plain)


def test_what_the_plain_pipeline_makes_not_finite_is_no_error_of_the_cache(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    latents = torch.full_like(draw(pipe, tiny_call, output_type="latent"), torch.nan)

    with dc.cached(pipe, policy, budget=1.0):
        drawn = draw(pipe, tiny_call | {"latents": latents}, output_type="latent")

    assert drawn.isnan().all()


def test_the_default_target_is_twice_as_fast(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    with dc.cached(pipe, policy) as run:
        draw(pipe, tiny_call)

    # Time is counted in computed sites here.
    assert run.logs[0].compute_share == [0.5]


def test_a_latency_is_kept_by_the_cost_model_of_the_policy(
    pipe: Any, tiny_call: dict[str, Any]
) -> None:
    times = {"fixed_s": 0.1, "step_s": 0.0, "site_s": 0.1, "forecast_s": 0.0}
    cost = CostModel(**times, num_inference_steps=4, sites=1)
    policy = untrained_policy(pipe, tiny_call, cost=cost)

    with dc.cached(pipe, policy, latency_s=0.41) as run:
        draw(pipe, tiny_call)
        draw(pipe, tiny_call, steps=6)

    # 0.1 s + 3 * 0.1 s, whatever the number of steps.
    assert [float(log.compute_share[0]) for log in run.logs] == [3 / 4, 3 / 6]


def test_full_compute_under_a_policy_is_the_plain_pipeline(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    with dc.cached(pipe, policy, speedup=1.0):
        cached = draw(pipe, tiny_call)

    assert torch.equal(cached, draw(pipe, tiny_call))


def test_the_summary_tells_what_was_done(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    with dc.cached(pipe, policy, budget=0.5) as run:
        assert run.summary() == "no request has finished yet"
        draw(pipe, tiny_call)
        draw(pipe, tiny_call)
        requests, steps, tier, modes = run.summary().splitlines()

    assert requests.startswith("requests      2, median 0.")
    assert steps == "site steps    8: 50% compute, 25% reuse, 25% forecast1, 0% forecast2"
    assert tier.startswith("device tier   ")
    assert " 0 misses, 0 rejected, peak 0." in tier
    # The first forecast knows one residual only, so it repeats it.
    assert modes == "last modes    CRC1"


@pytest.mark.parametrize("collapse", [False, True])
def test_a_request_that_failed_is_counted_apart_from_those_that_were_served(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any], collapse: bool
) -> None:
    def fail(*given: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    def decode(*given: Any, **options: Any) -> Any:
        raise RuntimeError("no memory")

    policy = replace(policy, manifest=replace(policy.manifest, blocks="transformer"))
    recorded: list[RequestLog] = []
    with dc.cached(pipe, policy, budget=0.5, collapse=collapse, record=recorded.append) as run:
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, {**tiny_call, "callback_on_step_end": fail})
        assert run.summary().splitlines()[1] == "failed        1: 1 KeyboardInterrupt"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(pipe.vae, "decode", decode)
            with pytest.raises(RuntimeError, match="no memory"):
                draw(pipe, tiny_call)
        with pytest.raises(TypeError):
            draw(pipe, {**tiny_call, "no_such_argument": 1})
        draw(pipe, tiny_call)
        lines = run.summary().splitlines()

    assert len(run.logs) == len(recorded) == 1
    assert run.failed == {"KeyboardInterrupt": 1, "RuntimeError": 1, "TypeError": 1}
    assert lines[0].startswith("requests      1, median 0.")
    assert lines[1] == "failed        3: 1 KeyboardInterrupt, 1 RuntimeError, 1 TypeError"
    assert lines[2].startswith("site steps    4: 50% compute")


def test_a_request_that_whoever_hears_of_it_makes_fail_was_not_served(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    def hear(log: RequestLog) -> None:
        raise OSError("full")

    with dc.cached(pipe, policy, record=hear) as run, pytest.raises(OSError, match="full"):
        draw(pipe, tiny_call)

    assert not run.logs
    assert run.failed == {"OSError": 1}


def test_sites_stand_side_by_side_in_a_summary(pipe: Any, tiny_call: dict[str, Any]) -> None:
    with dc.cached(pipe, EveryK(2), sites=2) as run:
        draw(pipe, tiny_call)

    assert run.summary().splitlines()[-1] == "last modes    CRCR | CRCR"


def test_an_exception_inside_restores_the_pipeline(pipe: Any, policy: Policy) -> None:
    with pytest.raises(KeyError), dc.cached(pipe, policy):
        raise KeyError


def test_attaching_lasts_until_detach(pipe: Any, policy: Policy, tiny_call: dict[str, Any]) -> None:
    before = draw(pipe, tiny_call)
    run = dc.attach(pipe, policy, budget=0.25)
    attached = draw(pipe, tiny_call)

    inner = dc.attach(pipe, policy, budget=1.0)
    full = draw(pipe, tiny_call)
    inner.detach()
    still = draw(pipe, tiny_call)
    run.detach()
    run.detach()

    assert torch.equal(full, before), "the later attachment rules"
    assert torch.equal(attached, still)
    assert not torch.equal(attached, before)
    assert torch.equal(draw(pipe, tiny_call), before)


def test_out_of_reach_is_refused_before_anything_is_touched(pipe: Any, policy: Policy) -> None:
    with pytest.raises(BudgetError, match=r"a speedup of 4\.00x"):
        dc.attach(pipe, policy, speedup=5.0)


def test_a_policy_of_another_model_is_refused(
    pipe: Any, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = pipe.transformer.transformer_blocks[0].attn.to_q
    before = block.weight.detach().clone()
    with torch.no_grad():
        block.weight.mul_(1.1)

    try:
        with pytest.raises(ArtifactError, match="expected transformer weights"):
            dc.attach(pipe, policy)
    finally:
        with torch.no_grad():
            block.weight.copy_(before)

    monkeypatch.setitem(policy.manifest.model, "class", "SD3Transformer2DModel")
    with pytest.raises(ArtifactError, match="class SD3Transformer2DModel, received Flux"):
        dc.attach(pipe, policy)


def test_a_policy_for_another_scheduler_is_refused(pipe: Any, policy: Policy) -> None:
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=3.0)

    with pytest.raises(ArtifactError, match="expected scheduler config_sha256"):
        dc.attach(pipe, policy)


def test_other_steps_get_what_was_made_for_the_known_ones_and_a_note(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    with dc.cached(pipe, policy, budget=0.5) as run:
        draw(pipe, tiny_call)
        assert "carried over" not in run.summary()
        draw(pipe, tiny_call, steps=9)
        draw(pipe, tiny_call, steps=9)

    assert [float(log.compute_share[0]) for log in run.logs] == [2 / 4, 4 / 9, 4 / 9]
    notes = [line for line in run.summary().splitlines() if line.startswith("note")]
    assert len(notes) == 1
    assert "schedules for 9 steps were carried over by noise level from those for 4, 6" in notes[0]


def test_a_request_with_too_few_steps_for_its_target_computes_everything_and_says_so(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    plain = draw(pipe, tiny_call, steps=3)
    with dc.cached(pipe, policy, budget=0.25) as run:
        first = draw(pipe, tiny_call)
        assert "compute everything" not in run.summary()
        assert torch.equal(draw(pipe, tiny_call, steps=3), plain)
        draw(pipe, tiny_call, steps=3)
        again = draw(pipe, tiny_call)

        assert torch.equal(first, again)
        assert run.cache.used_bytes == 0
    assert [float(log.compute_share[0]) for log in run.logs] == [1 / 4, 1.0, 1.0, 1 / 4]
    (note,) = [line for line in run.summary().splitlines() if "compute everything" in line]
    assert "requests of 3 steps compute everything: expected a target within reach" in note
    assert "received budget=0.25" in note
    assert "computes 1 of 3 site steps" in note


@pytest.mark.parametrize("steps", [1, 2])
def test_so_does_one_of_a_bandit(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any], steps: int
) -> None:
    plain = draw(pipe, tiny_call, steps=steps)
    with dc.cached(pipe, policy, speedup=4.0, adapt=dc.Bandit(min_psnr=1.0)) as run:
        assert torch.equal(draw(pipe, tiny_call, steps=steps), plain)

    assert f"requests of {steps} steps compute everything" in run.summary()


def test_a_floor_computes_everything_where_none_was_measured(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    table = policy.tables[4]
    floors = {2: (30.0, 0.9), 4: (60.0, 1.0)}
    table = table.with_lines({n: Scored(*table[n][:3], *floor) for n, floor in floors.items()})
    policy = replace(policy, tables={**policy.tables, 4: table}, safe={4: table})
    plain = draw(pipe, tiny_call, steps=5)
    with dc.cached(pipe, policy, min_psnr=30.0) as run:
        draw(pipe, tiny_call)
        assert torch.equal(draw(pipe, tiny_call, steps=5), plain)

    assert "measured floors for 5 steps" in run.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup": 2.0, "budget": 0.5}, "exactly one"),
        ({"budget": 2.0}, "budget must lie in"),
        ({"sites": 2}, "expected none, received sites=2$"),
        ({"blocks": "transformer"}, "expected none, received blocks='transformer'$"),
        ({"speedpu": 2.0}, "received 'speedpu'. Did you mean 'speedup'?"),
        ({"memory": "70%"}, r"must be as Memory\(device='70%'\), received '70%'"),
        ({"record": "requests.jsonl"}, r"must be as Recorder\(.*, received 'requests.jsonl'"),
        ({"adapt": "bandit"}, r"adapt must be as Bandit\(min_psnr=35\), received 'bandit'"),
        ({"adapt": dc.Bandit}, "adapt must be as Bandit"),
        ({"ranks": 2}, r"ranks must be as Ranks\(\), received 2"),
        ({"speedup": "2"}, "speedup must be a number, received '2'"),
        ({"budget": True}, "budget must be a number, received True"),
        ({"min_psnr": torch.tensor(35.0)}, "min_psnr must be a number, received tensor"),
        ({"speedup": float("nan")}, "speedup must be > 0, received nan"),
        ({"sites": 0}, "sites must be a whole number >= 1, received 0"),
        ({"sites": 1.5}, "sites must be a whole number >= 1, received 1.5"),
        ({"sites": "2"}, "sites must be a whole number >= 1, received '2'"),
        ({"blocks": 3}, "blocks must be a path as 'transformer.my_blocks', received 3"),
    ],
)
def test_arguments_that_contradict_are_refused(
    options: dict[str, Any], message: str, pipe: Any, policy: Policy
) -> None:
    with pytest.raises(ConfigError, match=message):
        dc.attach(pipe, policy, **options)


@pytest.mark.parametrize("option", [{"sites": 0}, {"sites": -1}, {"blocks": ["transformer"]}])
def test_places_that_are_none_are_refused_with_a_controller(
    option: dict[str, Any], pipe: Any
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} must be"):
        dc.attach(pipe, EveryK(2), **option)


@pytest.mark.parametrize("nothing", [None, "shapes", {}, object(), torch.nn.Linear(2, 2)])
def test_what_is_no_pipeline_is_refused(nothing: Any, policy: Policy) -> None:
    with pytest.raises(UnsupportedModelError, match="expected a diffusers pipeline with a sched"):
        dc.attach(nothing, policy)


@pytest.mark.parametrize("nothing", [None, 2.0, EveryK, ["shapes-ppo"], object(), {}])
def test_what_is_no_policy_is_refused(nothing: Any, pipe: Any) -> None:
    with pytest.raises(ConfigError, match="policy must be a policy folder, the name of"):
        dc.attach(pipe, nothing)


def test_policies_by_name_are_offered_by_name(pipe: Any, policy: Policy) -> None:
    with pytest.raises(ConfigError, match="dict; take one of its policies, 'fitted', 'even'"):
        dc.attach(pipe, {"fitted": policy, "even": policy})  # type: ignore[arg-type]


def test_cached_takes_what_attach_takes() -> None:
    cached, attach = inspect.signature(dc.cached), inspect.signature(dc.attach)

    assert cached.parameters == attach.parameters


def test_a_run_that_cannot_begin_leaves_no_cache_behind(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[TieredCache] = []
    monkeypatch.setattr(TieredCache, "close", lambda cache: closed.append(cache))

    with pytest.raises(ConfigError):
        dc.attach(pipe, EveryK(2), sites=10**6)

    assert len(closed) == 1


def test_a_controller_takes_no_target(pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected no target, received speedup=2\.0$"):
        dc.attach(pipe, EveryK(2), speedup=2.0)


@pytest.mark.parametrize(
    ("given", "expected"), [(None, None), (4096, 4096), ("8KiB", 8192), ("1.5 kb", 1500)]
)
def test_a_cap_in_bytes_is_the_cap_of_the_device_tier(
    given: int | str | None, expected: int | None, pipe: Any, policy: Policy
) -> None:
    with dc.cached(pipe, policy, memory=dc.Memory(device=given)) as run:
        assert run.cache.device.cap_bytes == expected


def test_a_cap_in_percent_is_a_share_of_the_memory(pipe: Any, policy: Policy) -> None:
    with dc.cached(pipe, policy, memory=dc.Memory(device="10%")) as tenth:
        pass
    with dc.cached(pipe, policy, memory=dc.Memory(device="20%")) as fifth:
        pass

    caps = np.array([run.cache.device.cap_bytes for run in (tenth, fifth)])
    assert caps[1] == pytest.approx(2 * caps[0], abs=2)
    assert caps[0] > 2**20


@pytest.mark.parametrize("cap", ["1KiB", "20KiB", "40KiB"])
def test_no_cap_is_ever_exceeded(
    cap: str, pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    with dc.cached(pipe, policy, budget=0.5, memory=dc.Memory(device=cap)) as run:
        image = draw(pipe, tiny_call)

    # A residual has 64 image and 12 text tokens of 32 float32 numbers: 9.5 KiB.
    assert run.logs[0].peak_bytes <= int(cap.removesuffix("KiB")) * 1024
    assert torch.isfinite(image).all()
    if cap == "1KiB":
        assert torch.equal(image, draw(pipe, tiny_call))


def test_a_policy_for_the_whole_transformer_caches_what_it_returns(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    whole = replace(policy, manifest=replace(policy.manifest, blocks="transformer"))
    runs: list[int] = []
    handle = pipe.transformer.proj_out.register_forward_hook(lambda *_: runs.append(1))
    try:
        with dc.cached(pipe, whole, budget=0.5) as run:
            draw(pipe, tiny_call)
    finally:
        handle.remove()

    assert len(runs) == (run.logs[0].modes == Mode.COMPUTE).sum() == 2


def test_a_target_reaches_the_network(pipe: Any, tiny_call: dict[str, Any]) -> None:
    policy = untrained_policy(pipe, tiny_call, adaptive={"4": [2]})

    with dc.cached(pipe, policy, budget=0.5) as run:
        adaptive = draw(pipe, tiny_call)
    with dc.cached(pipe, PolicyController(policy, Target(budget=0.5), adaptive=False)):
        static = draw(pipe, tiny_call)

    # A network that has learned nothing does what the schedule does.
    assert run.logs[0].compute_share == [0.5]
    assert torch.equal(adaptive, static)
