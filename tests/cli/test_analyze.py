import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ditcache_rl.cli.analyze import AnalyzeOptions, agreement, analyze, render_map
from ditcache_rl.config import load_env
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.sensitivity import load_map
from tests.kit.pipelines import BLOCKS


def options(folder: Path, **changes: Any) -> AnalyzeOptions:
    settings = AnalyzeOptions(
        out=folder,
        sites=None,
        sublayers=False,
        steps=None,
        prompts=2,
        injection_prompts=1,
        images=2,
        probes=1,
    )
    return replace(settings, **changes)


def test_an_analysis_leaves_a_map_and_a_picture(tiny_env: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    found = analyze(load_env(tiny_env), options(tmp_path), console=console)

    assert list(found.measures) == ["gradient", "attention", "injection"]
    assert {table.shape for table in found.measures.values()} == {(4, BLOCKS)}
    np.testing.assert_array_equal(load_map(tmp_path / "sensitivity.json").grades(), found.grades())
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    console.print(render_map(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "sensitivity per site, by gradient" in shown
    assert {"high", "medium", "low"} <= set(shown.split())
    assert agreement(found).count("with") == 3


def test_sublayers_are_two_sites_of_every_block(tiny_env: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    settings = options(tmp_path, sublayers=True, injection_prompts=0)
    found = analyze(load_env(tiny_env), settings, console=console)

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
        ("prompts", 10**6),
    ],
)
def test_numbers_out_of_range_are_refused_before_work(
    name: str, value: int, tiny_env: Path, tmp_path: Path
) -> None:
    wrong = options(tmp_path / "out", **{name: value})

    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must lie in"):
        analyze(load_env(tiny_env), wrong, console=Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()


def test_what_quantized_weights_forbid_is_left_out_and_the_rest_decides(
    tiny_env: Path, tmp_path: Path
) -> None:
    config = load_env(tiny_env)
    quantized = replace(config, pipeline=replace(config.pipeline, quantize="int8"))
    console = Console(file=io.StringIO(), width=300)

    found = analyze(quantized, options(tmp_path), console=console)

    assert list(found.measures) == ["attention", "injection"]
    assert found.measure == "injection"
    assert "left out gradient: expected plain" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_analysis_that_can_measure_nothing_says_what_to_ask_for(
    tiny_env: Path, tmp_path: Path
) -> None:
    config = load_env(tiny_env)
    quantized = replace(config, pipeline=replace(config.pipeline, quantize="int8"))
    settings = options(tmp_path / "out", sublayers=True, injection_prompts=0)

    with pytest.raises(UnsupportedModelError, match="--injection-prompts 2"):
        analyze(quantized, settings, console=Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()
