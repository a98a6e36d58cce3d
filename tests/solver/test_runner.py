from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
)
from torch import Tensor, nn

import ditcache_rl as dc
from benchmarks.zoo.pipelines import build, pipeline_unit
from ditcache_rl.control import Controller, EveryK, StaticSchedule, TeaCache
from ditcache_rl.errors import ArtifactError, ConfigError, StateError, UnsupportedModelError
from ditcache_rl.instrument.taps import taps_of
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Mode
from tests.kit.doubles import build_double_pipe, fitted_schedule
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import CALL, GUIDANCE, PROMPTS, draw
from tests.kit.unet import CALL as UNET_CALL
from tests.kit.unet import save_unet_pipe

STEPS, PATH = 12, (0, 2, 5, 9)
FITTED = StaticSchedule(fitted_schedule(STEPS, PATH))
CONTROLLERS: dict[str, Controller] = {
    "fitted": FITTED,
    "few": StaticSchedule(fitted_schedule(STEPS, (0, 7))),
    "newton": StaticSchedule(Schedule.on_path(PATH, STEPS)),
    "mixed": StaticSchedule(Schedule.from_text("CRRC1CRC21C2")),
    "all": StaticSchedule(Schedule.on_path(tuple(range(STEPS)), STEPS)),
    "every": EveryK(3, order=1),
}


@pytest.fixture(scope="module")
def double_pipe() -> Any:
    return build_double_pipe()


@pytest.fixture
def pipe(tiny_pipe: Any) -> Iterator[Any]:
    """The tiny pipeline; whatever a test does, it must be left as it was."""
    names, scheduler, kind = set(vars(tiny_pipe)), tiny_pipe.scheduler, type(tiny_pipe)

    yield tiny_pipe

    assert tiny_pipe.scheduler is scheduler
    assert type(tiny_pipe) is kind
    # Arguments of a call stay on a pipeline of diffusers.
    assert {name for name in set(vars(tiny_pipe)) - names if "ditcache" in name} == set()


def both(pipe: Any, controller: Controller, **call: Any) -> tuple[Tensor, Tensor]:
    """Draw under a controller with every step, and collapsed."""
    found = []
    for collapse in (False, True):
        with dc.cached(pipe, controller, blocks="transformer", collapse=collapse):
            found.append(draw(pipe, steps=STEPS, **call))
    return found[0], found[1]


@pytest.mark.parametrize("call", [{}, GUIDANCE], ids=["plain", "guided"])
@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_collapsed_schedule_draws_what_its_single_steps_draw(
    double_pipe: Any, name: str, call: dict[str, Any]
) -> None:
    stepped, collapsed = both(double_pipe, CONTROLLERS[name], **call)

    assert stepped.dtype == torch.float64
    # A dozen sums of order 1 in another order.
    assert (stepped - collapsed).abs().max() < 1e-12


@pytest.mark.parametrize("call", [{}, GUIDANCE], ids=["plain", "guided"])
def test_in_single_precision_they_differ_by_rounding(pipe: Any, call: dict[str, Any]) -> None:
    stepped, collapsed = both(pipe, FITTED, **call)

    # Latents of order 1, rounded a dozen times, through a model that turns them.
    torch.testing.assert_close(stepped, collapsed, rtol=1e-5, atol=1e-5)


def test_every_row_of_a_batch_is_drawn_as_alone(double_pipe: Any) -> None:
    _, batch = both(double_pipe, FITTED, prompts=PROMPTS, seeds=(0, 1))
    alone = [both(double_pipe, FITTED, prompts=p, seeds=(s,))[1] for s, p in enumerate(PROMPTS)]

    assert (batch - torch.cat(alone)).abs().max() < 1e-12


def test_samplers_that_scale_their_latents_collapse_as_well(tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(save_unet_pipe(tmp_path), dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    found = []
    for collapse in (False, True):
        with dc.cached(pipe, FITTED, blocks="unet", collapse=collapse):
            generator = torch.Generator().manual_seed(0)
            options = {"generator": generator, "output_type": "latent", "eta": 0.0}
            found.append(pipe(PROMPTS[0], num_inference_steps=STEPS, **options, **UNET_CALL).images)

    # DDIM takes its factors from float32, and the U-Net its timestep.
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("BriaPipeline", "transformer"),  # looks at the very class of its scheduler
        ("CogView4Pipeline", "transformer"),
        ("SanaPipeline", "transformer"),
        ("StableDiffusionXLPipeline", "unet"),  # scales what its U-Net is given
        ("WanPipeline", "transformer"),
    ],
)
def test_pipelines_of_other_families_draw_what_their_single_steps_draw(
    name: str, blocks: str
) -> None:
    pipe = build(name)
    unit, found = pipeline_unit(name, pipe), list[Tensor]()
    for collapse in (False, True):
        with dc.cached(pipe, EveryK(2, order=1), blocks=blocks, collapse=collapse):
            found.append(unit.draw([1], False))

    scale = float(found[0].abs().max())
    torch.testing.assert_close(found[0] / scale, found[1] / scale, rtol=1e-5, atol=1e-5)


def test_nothing_is_called_for_a_step_that_is_left_out(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, heard, counts = list[Any](), list[int](), list[int]()

    def listen(one: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        heard.append(step)
        counts.append(one.num_timesteps)
        assert not any(taps_of(module) for module in one.transformer.modules())
        return {}

    hook = pipe.transformer.register_forward_hook(lambda *given: calls.append(given))
    try:
        with dc.cached(pipe, FITTED, blocks="transformer", collapse=True):
            draw(pipe, steps=STEPS)  # the first one finds out what the sampler does
            calls.clear()
            monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", None)
            draw(pipe, steps=STEPS, callback_on_step_end=listen)
    finally:
        hook.remove()

    assert len(calls) == len(PATH)
    assert heard == list(range(len(PATH)))
    assert set(counts) == {len(PATH)}


def test_a_callback_may_change_the_latents(double_pipe: Any) -> None:
    def double(one: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": 2 * tensors["latents"]} if step == len(PATH) - 1 else {}

    with dc.cached(double_pipe, FITTED, blocks="transformer", collapse=True):
        plain = draw(double_pipe, steps=STEPS)
        doubled = draw(double_pipe, steps=STEPS, callback_on_step_end=double)

    assert torch.equal(doubled, 2 * plain)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_pipeline_is_left_as_it_was_after_an_error(
    pipe: Any, error: type[BaseException]
) -> None:
    def fail(*given: Any) -> dict[str, Any]:
        raise error("in the middle")

    plain = draw(pipe, steps=STEPS)
    before, state = pipe.scheduler, dict(vars(pipe.scheduler))
    with dc.cached(pipe, FITTED, blocks="transformer", collapse=True) as run:
        with pytest.raises(error, match="in the middle"):
            draw(pipe, steps=STEPS, callback_on_step_end=fail)
        assert pipe.scheduler is before
        assert vars(before) == state

    assert (len(run.logs), run.failed) == (0, {error.__name__: 1})
    assert torch.equal(draw(pipe, steps=STEPS), plain)


def test_a_step_that_is_wrapped_on_the_scheduler_is_left_to_the_user(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = both(pipe, FITTED)
    steps, plain = list[int](), pipe.scheduler.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return plain(*args, **kwargs)

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    with dc.cached(pipe, FITTED, blocks="transformer", collapse=True):
        collapsed = draw(pipe, steps=STEPS)
    assert not steps, "a solver takes its own"
    draw(pipe, steps=STEPS)

    assert torch.equal(collapsed, expected)
    assert len(steps) == STEPS, "and the wrapped one is the user's again"


def test_a_call_that_is_told_to_stop_does(pipe: Any) -> None:
    def stop(one: Any, *given: Any) -> dict[str, Any]:
        one._interrupt = True
        return {}

    with dc.cached(pipe, FITTED, blocks="transformer", collapse=True) as run:
        draw(pipe, steps=STEPS, callback_on_step_end=stop)

    assert (run.logs[0].modes == Mode.COMPUTE).sum() == 1


def test_sessions_in_threads_draw_what_they_draw_alone(pipe: Any) -> None:
    with dc.cached(pipe, FITTED, blocks="transformer", collapse=True) as run:
        alone = [draw(pipe, steps=STEPS, seeds=(seed,)) for seed in range(4)]
        sessions = [dc.session(pipe) for _ in alone]
        with ThreadPoolExecutor(4) as pool:
            found = list(
                pool.map(
                    lambda seed: draw(sessions[seed], steps=STEPS, seeds=(seed,)), range(len(alone))
                )
            )

    assert all(map(torch.equal, found, alone))
    assert len(run.logs) == 8


@pytest.fixture
def attached(pipe: Any) -> Iterator[Any]:
    run = dc.attach(pipe, FITTED, blocks="transformer", collapse=True)
    try:
        yield pipe
    finally:
        run.detach()


def at_first_step(do: Callable[[Any], Any]) -> Callable[..., dict[str, Any]]:
    """Make a callback of a pipeline that does something once."""

    def call(pipe: Any, step: int, *given: Any) -> dict[str, Any]:
        if not step:
            do(pipe)
        return {}

    return call


def test_a_call_from_another_thread_during_one_is_refused_and_leaves_it_alone(
    attached: Any,
) -> None:
    before, alone = attached.scheduler, draw(attached, steps=STEPS)
    refused = list[Any]()

    with ThreadPoolExecutor(1) as pool:

        def call(pipe: Any) -> None:
            refused.append(pool.submit(draw, pipe, steps=STEPS, seeds=(1,)).exception())

        found = draw(attached, steps=STEPS, callback_on_step_end=at_first_step(call))

    assert attached.scheduler is before
    assert torch.equal(found, alone)
    assert isinstance(refused[0], StateError)
    assert "give each a dc.session(pipe)" in str(refused[0])
    assert torch.equal(draw(attached, steps=STEPS), alone)


def test_calls_that_overlap_leave_the_scheduler_of_the_user(attached: Any) -> None:
    before, inside, over = attached.scheduler, Event(), Event()

    def wait(pipe: Any) -> None:
        inside.set()
        assert over.wait(30)

    def end(pipe: Any) -> None:
        over.set()
        first.result()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(draw, attached, steps=STEPS, callback_on_step_end=at_first_step(wait))
        assert inside.wait(30)
        with pytest.raises(StateError):
            draw(attached, steps=STEPS, callback_on_step_end=at_first_step(end))
        over.set()
        first.result()

    assert attached.scheduler is before


def test_a_call_inside_of_a_call_is_drawn_as_alone(attached: Any) -> None:
    alone, inner = draw(attached, steps=STEPS, seeds=(1,)), list[Tensor]()

    def call(pipe: Any) -> None:
        inner.append(draw(pipe, steps=STEPS, seeds=(1,)))

    draw(attached, steps=STEPS, callback_on_step_end=at_first_step(call))

    assert torch.equal(inner[0], alone)


def test_a_session_that_is_made_during_a_call_serves_other_threads(attached: Any) -> None:
    alone, made = draw(attached, steps=STEPS, seeds=(1,)), list[Any]()

    def call(pipe: Any) -> None:
        made.append(dc.session(pipe))

    draw(attached, steps=STEPS, callback_on_step_end=at_first_step(call))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(draw, made[0], steps=STEPS, seeds=(1,)).result()

    assert torch.equal(found, alone)


def test_a_compiled_transformer_is_called_at_computed_steps_alone(pipe: Any) -> None:
    stepped, _ = both(pipe, FITTED)
    plain, compiled = pipe.transformer, list[int]()

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    pipe.transformer = torch.compile(plain, backend=backend, fullgraph=True)
    try:
        with dc.cached(pipe, FITTED, blocks="transformer", collapse=True) as run:
            found = draw(pipe, steps=STEPS)
            assert len(compiled) == 1
    finally:
        pipe.transformer = plain
        torch._dynamo.reset()

    assert run.logs[0].compute_share == [len(PATH) / STEPS]
    torch.testing.assert_close(found, stepped, rtol=1e-5, atol=1e-5)


@pytest.fixture
def policy(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    made = untrained_policy(tiny_pipe, tiny_call)
    return replace(made, manifest=replace(made.manifest, blocks="transformer"))


def test_a_policy_is_followed_at_all_step_counts_and_says_what_it_computed(
    pipe: Any, policy: Policy
) -> None:
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    for collapse, drawn in found.items():
        with dc.cached(pipe, policy, budget=0.5, collapse=collapse) as run:
            drawn += [draw(pipe, steps=steps) for steps in (4, 6, 1)]
            lines = run.summary().splitlines()
            modes = [log.modes[:, 0, 0].tolist() for log in run.logs]
            summaries = [line for line in lines if line.split()[0] in ("site", "last", "note")]
        found.setdefault(collapse, drawn)
        if not collapse:
            expected = modes, summaries

    for stepped, collapsed in zip(*found.values(), strict=True):
        torch.testing.assert_close(stepped, collapsed, rtol=1e-5, atol=1e-5)
    assert (modes, summaries) == expected


def test_what_is_not_finite_is_an_error(pipe: Any) -> None:
    schedule = FITTED.schedules[0]
    assert schedule.coefficients is not None
    huge = StaticSchedule(Schedule(schedule.modes, 1e38 * schedule.coefficients))

    with (
        dc.cached(pipe, huge, blocks="transformer", collapse=True),
        pytest.raises(ArtifactError, match=r"expected finite latents.* 4 of 12 site"),
    ):
        draw(pipe, steps=STEPS)


REFUSED: dict[str, tuple[Controller, dict[str, Any], str]] = {
    "sites": (
        StaticSchedule(Schedule.from_text("CR | CR")),
        {"sites": 2},
        "2 sites of transformer",
    ),
    "blocks": (FITTED, {"blocks": None}, "1 site of the blocks"),
    "online": (TeaCache(0.1), {}, "TeaCache, which decides as it goes"),
    "rows": (
        StaticSchedule(*(Schedule.on_path(path, STEPS) for path in ((0, 1), (0, 2)))),
        {},
        "row by row",
    ),
    "memory": (FITTED, {"memory": dc.Memory(device="1GiB")}, "received memory="),
    "ranks": (FITTED, {"ranks": object}, "ranks must be"),
    "kind": (FITTED, {"collapse": 1}, "collapse must be True or False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_collapsed_is_refused_with_the_reason(pipe: Any, name: str) -> None:
    controller, other, why = REFUSED[name]
    options: dict[str, Any] = {"blocks": "transformer", "collapse": True} | other

    with pytest.raises(ConfigError, match=why):
        dc.attach(pipe, controller, **options)


def test_a_policy_that_decides_as_it_goes_is_refused(
    pipe: Any, tiny_call: dict[str, Any], policy: Policy
) -> None:
    online = untrained_policy(pipe, tiny_call, adaptive={"4": [2]})

    with pytest.raises(ConfigError, match=r"budget=0\.5, under which this policy decides as it"):
        dc.attach(pipe, online, budget=0.5, collapse=True)
    with pytest.raises(ConfigError, match=r"no memory, adapt, ranks or guard beside collapse"):
        dc.attach(pipe, policy, collapse=True, adapt=dc.Bandit(min_psnr=30))


def test_a_sampler_that_draws_noise_is_refused(pipe: Any) -> None:
    plain = pipe.scheduler
    pipe.scheduler = type(plain).from_config(plain.config, stochastic_sampling=True)
    try:
        with pytest.raises(ConfigError, match="one that draws noise"):
            dc.attach(pipe, FITTED, blocks="transformer", collapse=True)
    finally:
        pipe.scheduler = plain


def test_noise_that_is_asked_for_at_a_call_is_refused(tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(save_unet_pipe(tmp_path))
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.scheduler, DDIMScheduler)

    with (
        dc.cached(pipe, FITTED, blocks="unet", collapse=True),
        pytest.raises(ConfigError, match=r"received eta=0\.5"),
    ):
        pipe(PROMPTS[0], num_inference_steps=STEPS, eta=0.5, **UNET_CALL)


def test_another_step_count_than_that_of_a_schedule_is_refused(pipe: Any) -> None:
    with (
        dc.cached(pipe, FITTED, blocks="transformer", collapse=True),
        pytest.raises(ConfigError, match=r"= \(12, 1, 1\) as in the schedule, received \(8, 1, 1"),
    ):
        draw(pipe, steps=8)


def test_a_run_that_begins_inside_is_refused_and_a_whole_one_is_not(pipe: Any) -> None:
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    parts = {name: getattr(pipe, name) for name in (*names, "transformer")}
    other = FluxImg2ImgPipeline(**parts)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"image": image, "num_inference_steps": STEPS, **CALL}

    with dc.cached(other, FITTED, blocks="transformer", collapse=True) as run:
        # Of few computed steps a tenth is none: what is left out would be drawn after all.
        for strength in (0.5, 0.95):
            with pytest.raises(ConfigError, match=rf"a run from its first .* strength={strength}"):
                other(PROMPTS[0], strength=strength, **call)
        with pytest.raises(ConfigError, match=r"received strength=0\.6"):
            other(PROMPTS[0], **call)
        other(PROMPTS[0], strength=1.0, **call)

    assert run.logs[-1].compute_share == [len(PATH) / STEPS]


def test_a_run_that_ends_inside_is_refused(pipe: Any) -> None:
    with (
        dc.cached(pipe, FITTED, blocks="transformer", collapse=True),
        pytest.raises(ConfigError, match=r"received denoising_end=0\.8"),
    ):
        draw(pipe, steps=STEPS, denoising_end=0.8)  # of SDXL, whose refiner goes on there


def test_a_pipeline_of_several_denoisers_is_refused(pipe: Any) -> None:
    pipe.transformer_2 = nn.Linear(1, 1)
    try:
        with pytest.raises(UnsupportedModelError, match=r"one denoiser .* transformer_2"):
            dc.attach(pipe, FITTED, blocks="transformer", collapse=True)
    finally:
        del pipe.transformer_2


def _attach(pipe: Any, collapse: bool) -> Callable[[], None]:
    return dc.attach(pipe, FITTED, blocks="transformer", collapse=collapse).detach


@pytest.mark.parametrize("last", [True, False])
def test_of_two_that_are_attached_the_last_one_rules(pipe: Any, last: bool) -> None:
    stepped, collapsed = both(pipe, FITTED)

    ends = [_attach(pipe, not last), _attach(pipe, last)]
    found = draw(pipe, steps=STEPS)
    for end in ends:
        end()

    assert torch.equal(found, collapsed if last else stepped)
