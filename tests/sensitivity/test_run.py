import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ditcache_rl.cli.tables import agreement, render_map
from ditcache_rl.config import load_env
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.sensitivity import run
from ditcache_rl.sensitivity.run import AnalyzeOptions, analyze
from tests.kit.pipelines import BLOCKS
from tests.kit.progress import Heard


def options(**changes: Any) -> AnalyzeOptions:
    settings = AnalyzeOptions(
        sites=None,
        sublayers=False,
        steps=None,
        prompts=2,
        injection_prompts=1,
        images=2,
        probes=1,
    )
    return replace(settings, **changes)


def test_an_analysis_measures_every_site_at_every_step(tiny_env: Path) -> None:
    heard = Heard()

    found = analyze(load_env(tiny_env), options(), progress=heard)

    assert list(found.measures) == ["gradient", "attention", "injection"]
    assert {table.shape for table in found.measures.values()} == {(4, BLOCKS)}
    assert heard.doing == list(found.measures)
    assert heard.done == heard.total
    console = Console(file=io.StringIO(), width=120)
    console.print(render_map(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "sensitivity per site, by gradient" in shown
    assert {"high", "medium", "low"} <= set(shown.split())
    assert agreement(found).count("with") == 3


def test_sublayers_are_two_sites_of_every_block(tiny_env: Path) -> None:
    settings = options(sublayers=True, injection_prompts=0)
    found = analyze(load_env(tiny_env), settings)

    assert {table.shape for table in found.measures.values()} == {(4, 2 * BLOCKS)}
    assert "one measure only" in agreement(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompts", 0),
        ("injection_prompts", -1),
        ("images", 0),
        ("probes", 0),
        ("steps", 1),
        ("steps", 0),
        ("sites", 0),
        ("prompts", 10**6),
    ],
)
def test_numbers_out_of_range_are_refused_before_work(
    name: str, value: int, tiny_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "open_configured", None)
    wrong = options(**{name: value})

    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must lie in"):
        analyze(load_env(tiny_env), wrong)


def test_what_quantized_weights_forbid_is_left_out_and_the_rest_decides(tiny_env: Path) -> None:
    config = load_env(tiny_env)
    quantized = replace(config, pipeline=replace(config.pipeline, quantize="int8"))
    heard = Heard()

    found = analyze(quantized, options(), progress=heard)

    assert list(found.measures) == ["attention", "injection"]
    assert found.measure == "injection"
    (note,) = heard.notes
    assert note.startswith("left out gradient: expected plain")
    assert heard.done == heard.total


def test_an_analysis_that_can_measure_nothing_says_what_to_ask_for(tiny_env: Path) -> None:
    config = load_env(tiny_env)
    quantized = replace(config, pipeline=replace(config.pipeline, quantize="int8"))
    settings = options(sublayers=True, injection_prompts=0)

    with pytest.raises(UnsupportedModelError, match="--injection-prompts 2"):
        analyze(quantized, settings)
