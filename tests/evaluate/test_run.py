import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from ditcache_rl.cache import Caps
from ditcache_rl.control import AllCompute, EveryK, FBCache, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import (
    Method,
    Results,
    build_report,
    default_baselines,
    evaluate,
)
from ditcache_rl.files import write_json
from ditcache_rl.shapes import CALL
from ditcache_rl.shapes.recipe.components import (
    build_autoencoder,
    build_clip,
    build_scheduler,
    build_t5,
    build_tokenizer,
    build_transformer,
)
from tests.kit.progress import Heard

PROMPTS = (
    "a small plain red disc at left on a white background",
    "a large striped blue star at right on a black background",
)
TABLE = np.array([[0, 0], [2, 2], [0, 1], [0, 0]], dtype=np.int8)
METHODS = (
    Method("all", "heuristic", controller=AllCompute()),
    Method("every-k reuse", "heuristic", "k = 2", EveryK(2)),
    Method("fbcache", "heuristic", "threshold 0", FBCache(0.0)),
    Method("fewer steps", "fewer-steps", "2 steps", num_inference_steps=2),
    Method("table", "static", "1.6x", StaticSchedule.of(TABLE), sites=2),
)


@pytest.fixture(scope="module")
def pipe() -> FluxPipeline:
    """The embedded pipeline with random weights: what is cached changes its images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxPipeline(
            scheduler=build_scheduler(),
            vae=build_autoencoder().eval(),
            text_encoder=build_clip().eval(),
            tokenizer=build_tokenizer(),
            text_encoder_2=build_t5().eval(),
            tokenizer_2=build_tokenizer(),
            transformer=build_transformer().eval(),
        )


@pytest.fixture(scope="module")
def results(pipe: FluxPipeline) -> Results:
    return evaluate(pipe, METHODS, PROMPTS, seeds=[7, 8], steps=4, call=CALL)


def test_what_is_applied_to_the_pipeline_is_measured_and_taken_off(pipe: FluxPipeline) -> None:
    applied: list[str] = []

    @contextmanager
    def two_steps_less(target: Any) -> Iterator[None]:
        applied.append("on")
        plain = target.scheduler
        target.scheduler = build_scheduler()
        try:
            yield
        finally:
            target.scheduler = plain
            applied.append("off")

    method = Method("peer", "peer", applied=two_steps_less, num_inference_steps=2)
    results = evaluate(pipe, [method], PROMPTS[:1], seeds=[7], steps=4, call=CALL)

    assert applied == ["on", "off"] * 2  # the warm-up, and the image that counts
    assert results.compute_share[1, 0] == 0.5
    assert results.psnr_db[1, 0] < 60


class Stub:
    """Remembers the calls that a pipeline would get; draws one grey per number of steps."""

    device = torch.device("cpu")

    def __init__(self, on_call: Callable[[int], None] = lambda calls: None) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.bar: dict[str, object] = {}
        self._on_call = on_call

    def set_progress_bar_config(self, **config: object) -> None:
        self.bar = config

    def __call__(
        self,
        prompt: str,
        *,
        num_inference_steps: int,
        generator: torch.Generator,
        output_type: str,
        **call: Any,
    ) -> SimpleNamespace:
        self.calls.append((prompt, num_inference_steps, generator.initial_seed()))
        self._on_call(len(self.calls))
        assert output_type == "pt"
        return SimpleNamespace(images=torch.full((1, 3, 8, 8), num_inference_steps / 10))


STUB_METHODS = [
    Method("fewer steps", "fewer-steps", f"{n} steps", num_inference_steps=n) for n in (3, 2)
]


def stop_at(call: int) -> Callable[[int], None]:
    def on_call(calls: int) -> None:
        if calls == call:
            raise KeyboardInterrupt

    return on_call


def test_reference_and_all_compute_give_the_same_image(results: Results) -> None:
    np.testing.assert_array_equal(results.psnr_db[:2], np.full((2, 2), 60.0))
    np.testing.assert_array_equal(results.compute_share[:2], np.ones((2, 2)))
    np.testing.assert_allclose(results.quality["ssim"][:2], np.ones((2, 2)))


def test_what_computes_less_differs_and_says_how_much_it_computed(results: Results) -> None:
    names = [method.name for method in results.methods]
    share = {name: results.compute_share[i] for i, name in enumerate(names)}

    np.testing.assert_allclose(share["every-k reuse"], 0.5)
    np.testing.assert_allclose(share["fewer steps"], 0.5)
    np.testing.assert_allclose(share["table"], 5 / 8)
    np.testing.assert_allclose(share["fbcache"], 1.0)
    assert (results.psnr_db[[2, 4, 5]] < 60).all()


def test_tiers_change_no_image(pipe: FluxPipeline, results: Results, tmp_path: Path) -> None:
    caps = Caps(1 << 16, 1 << 17, 1 << 20, tmp_path / "cache")

    tiered = evaluate(pipe, METHODS, PROMPTS, seeds=[7, 8], steps=4, call=CALL, caps=caps)

    np.testing.assert_array_equal(tiered.psnr_db, results.psnr_db)
    np.testing.assert_array_equal(tiered.compute_share, results.compute_share)


def test_times_are_measured_for_every_image(results: Results) -> None:
    assert results.seconds.shape == (6, 2)
    assert (results.seconds > 0).all()
    assert results.speedup[0] == 1.0


def test_pictures_are_kept_of_the_reference_and_of_what_is_ours(results: Results) -> None:
    assert set(results.pictures) == {0, 5}
    assert [picture.shape for picture in results.pictures[5]] == [(64, 64, 3)] * 2


def test_the_pipeline_is_left_as_it_was(pipe: FluxPipeline, results: Results) -> None:
    assert type(pipe) is FluxPipeline
    assert "forward" not in pipe.transformer.__dict__
    assert not any("forward" in m.__dict__ for m in pipe.transformer.modules())
    assert getattr(pipe, "_progress_bar_config", {}) == {}


def test_the_report_holds_every_key_of_the_format(results: Results, tmp_path: Path) -> None:
    report = build_report(results, env="shapes")

    write_json(tmp_path / "new" / "report.json", report)

    read = json.loads((tmp_path / "new" / "report.json").read_text())
    assert read == report
    assert {"env", "machine", "versions", "prompts", "seeds", "reference", "rows", "paired"} <= set(
        read
    )
    assert read["reference"]["seconds_per_image"] == np.median(results.seconds[0])
    assert [row["method"] for row in read["rows"]] == [m.name for m in results.methods]
    assert {pair["against"] for pair in read["paired"]} == {"fewer-steps", "heuristic"}
    assert {pair["method"] for pair in read["paired"]} == {"table"}


def test_the_order_of_the_methods_rotates_from_image_to_image() -> None:
    stub = Stub()

    prompts = [*PROMPTS, "another"]

    evaluate(stub, STUB_METHODS, prompts, seeds=[5, 6, 7], steps=4)

    counts = [steps for _, steps, _ in stub.calls]
    assert counts[:3] == [4, 3, 2]  # warm-up
    assert counts[3:] == [4, 3, 2, 3, 2, 4, 2, 4, 3]
    seen = [(prompt, seed) for prompt, _, seed in stub.calls[3::3]]
    assert seen == list(zip(prompts, [5, 6, 7], strict=True))


def test_every_image_is_compared_with_the_reference_of_its_round() -> None:
    results = evaluate(Stub(), STUB_METHODS, PROMPTS, seeds=[5, 6], steps=4)

    # Greys 0.1 and 0.2 away from the reference, wherever in the order they were drawn.
    np.testing.assert_allclose(results.psnr_db[1], 20.0, atol=1e-5)
    np.testing.assert_allclose(results.psnr_db[2], 20 * np.log10(5), atol=1e-5)
    expected = np.array([[1, 1], [0.75, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(results.compute_share, expected)


def test_an_interrupt_keeps_whole_prompts() -> None:
    # 3 warm-ups, 2 prompts of 3 methods, then in the third prompt after its first method.
    stub = Stub(stop_at(3 + 6 + 2))

    results = evaluate(stub, STUB_METHODS, [*PROMPTS, "another"], seeds=[5, 6, 7], steps=4)

    assert (results.prompts, results.seeds) == (PROMPTS, (5, 6))
    assert results.psnr_db.shape == (3, 2)
    assert results.notes == ("interrupted after 2 of 3 prompts",)
    assert build_report(results, env="stub")["rows"][0]["n"] == 2


@pytest.mark.parametrize("call", [2, 5])
def test_an_interrupt_before_the_first_prompt_is_complete_is_passed_on(call: int) -> None:
    stub = Stub(stop_at(call))

    with pytest.raises(KeyboardInterrupt):
        evaluate(stub, STUB_METHODS, PROMPTS, seeds=[5, 6], steps=4)

    assert not stub.bar


def test_a_method_that_cannot_run_on_the_pipeline_is_left_out_with_a_note() -> None:
    methods = [Method("all", "heuristic", controller=AllCompute()), *STUB_METHODS]

    results = evaluate(Stub(), methods, PROMPTS, seeds=[5, 6], steps=4)

    assert [m.label for m in results.methods[1:]] == ["fewer steps 3 steps", "fewer steps 2 steps"]
    (note,) = results.notes
    assert note.startswith("all left out: expected a diffusers pipeline with a scheduler")


def test_whoever_watches_hears_of_every_image() -> None:
    heard = Heard()

    evaluate(Stub(), STUB_METHODS, PROMPTS, seeds=[5, 6], steps=4, progress=heard)

    assert (heard.done, heard.total) == (9, 9)
    assert heard.doing[:3] == ["warm-up: reference", *(f"warm-up: {m.label}" for m in STUB_METHODS)]
    assert heard.doing[3:6] == ["reference", *(m.label for m in STUB_METHODS)]


@pytest.mark.parametrize(
    ("methods", "prompts", "call", "message"),
    [
        (STUB_METHODS, [], {}, "at least one prompt"),
        (STUB_METHODS * 2, PROMPTS, {}, "fewer steps 2 steps, fewer steps 3 steps twice"),
        (STUB_METHODS, PROMPTS, {"generator": None}, "received generator; remove"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    methods: list[Method], prompts: list[str], call: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(Stub(), methods, prompts, seeds=range(5, 5 + len(prompts)), steps=4, call=call)


def test_a_prompt_without_a_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="received 2 prompts and 1 seeds"):
        evaluate(Stub(), STUB_METHODS, PROMPTS, seeds=[5], steps=4)


def test_an_unknown_family_is_refused_with_the_close_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'learned'"):
        Method("ppo", "learnt")  # type: ignore[arg-type]


def test_baselines_cover_every_known_rule_at_several_settings() -> None:
    methods = default_baselines(28)

    names = [method.name for method in methods]
    assert len({method.label for method in methods}) == len(methods)
    rules = ("fewer steps", "every-k reuse", "every-k forecast", "teacache", "fbcache", "easycache")
    assert set(names) == set(rules)
    # A frontier needs points on both sides of what it is compared with.
    assert all(names.count(rule) >= 3 for rule in rules)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_baselines_of_few_steps_leave_out_what_makes_no_sense(steps: int) -> None:
    counts = [m.num_inference_steps for m in default_baselines(steps) if m.family == "fewer-steps"]

    assert all(count is not None and 1 <= count < steps for count in counts)
    assert len(set(counts)) == len(counts)
