from pathlib import Path

import pytest
from safetensors import safe_open

from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.extras import train_upscaler
from ditcache_rl.extras.train_upscaler import draw_pairs, gain_db, main
from ditcache_rl.extras.upscaler import load_upscaler
from ditcache_rl.shapes import UPSCALER, load_pipeline


def test_the_shipped_one_is_above_bilinear_on_prompts_that_it_has_not_seen() -> None:
    config, pipe = load_env("shapes"), load_pipeline()
    pipe.set_progress_bar_config(disable=True)

    pairs = draw_pairs(pipe, config.pipeline.call, cases_of(config, "select")[:8])

    assert pairs.coarse.shape == (40, 4, 8, 8)
    assert pairs.full.shape == (40, 4, 16, 16)
    assert gain_db(load_upscaler(UPSCALER), pairs) > 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["nowhere"], "one of the shipped envs (shapes, shapes-guided, shapes-tiers"),
        (["--draws", "1"], "--draws must lie in [2, 1000000], received 1"),
        (["--steps", "0"], "--steps must lie in [1, 1000000], received 0"),
        (["--seed", "-1"], "--seed must lie in [0, 4294967295], received -1"),
        (["--out", f"{__file__}/x"], "expected a file that can be written"),
    ],
)
def test_a_mistake_is_a_sentence_before_work(
    asked: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_upscaler, "open_configured", None)

    with pytest.raises(SystemExit):
        main(["--out", "x.safetensors", *asked])

    assert said in capsys.readouterr().err


def test_the_command_writes_what_can_be_loaded(tiny_env: Path, tmp_path: Path) -> None:
    file = tmp_path / "upscaler.safetensors"

    main([str(tiny_env), "--out", str(file), "--draws", "4", "--steps", "2"])

    assert load_upscaler(file).channels == 4
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["env"] == load_env(tiny_env).id
