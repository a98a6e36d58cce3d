"""A pipeline that nobody has seen becomes an environment, without its weights."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from diffusers import FluxPipeline

from benchmarks.zoo.pipelines import PIPELINES, build
from ditcache_rl.cli import main
from ditcache_rl.config import general_prompts, load_env
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.pipelines import open_configured
from ditcache_rl.pipelines.look import look_at
from tests.benchmarks.test_zoo import third
from tests.kit.unet import CALL, save_unet_pipe


@pytest.fixture
def unweighted(tiny_folder: Path, tmp_path: Path) -> Path:
    """The folder of the tiny pipeline without its weights."""
    for file in tiny_folder.rglob("*.json"):
        copy = tmp_path / "My Model" / file.relative_to(tiny_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return tmp_path / "My Model"


def test_what_init_writes_is_an_environment_of_the_pipeline(
    unweighted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["init", "My Model", "--steps", "12", "--call", "height=64", "width=64"]) == 0

    config = load_env("my-model.toml")
    assert config.id == "ditcache/my-model-v0"
    assert config.pipeline.source == str(unweighted)
    assert config.steps == [12]
    assert config.pipeline.call == {"height": 64, "width": 64}
    assert (config.cache.blocks, config.cache.sites) == ("transformer", 1)
    assert min(config.targets.budgets) * 12 >= 3
    for part, file in general_prompts().items():
        assert config.read_prompts(part) == file.read_text().splitlines()
    said = capsys.readouterr().out
    assert "FluxPipeline: FluxTransformer2DModel of 0.1 million parameters" in said
    assert "2 in transformer.transformer_blocks, 3 in transformer.single_transformer_blocks" in said
    assert "passed every check" in said
    assert "train my-model.toml --estimate\n" in said


def test_what_a_call_names_is_what_an_environment_reads(unweighted: Path, tmp_path: Path) -> None:
    given = [
        "negative_prompt=🦀 ü",
        "when=1979-05-27",
        "size={a=1}",
        "layers=[1, 2]",
        "on=true",
        "at=inf",
    ]

    out = str(tmp_path / "env.toml")
    assert main(["init", str(unweighted), "--out", out, "--call", *given]) == 0

    named = load_env(out).pipeline.call
    assert named["negative_prompt"] == "🦀 ü"
    assert (named["when"], named["size"], named["at"]) == ("1979-05-27", "{a=1}", "inf")
    assert (named["layers"], named["on"]) == ([1, 2], True)


def test_a_unet_is_cached_as_a_whole_at_its_own_size(tmp_path: Path) -> None:
    folder, out = save_unet_pipe(tmp_path), tmp_path / "env" / "unet.toml"

    assert main(["init", str(folder), "--out", str(out)]) == 0

    config = load_env(out)
    pipe: Any = open_configured(config.pipeline)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    assert config.pipeline.call == {"height": side, "width": side}
    assert config.cache.blocks == "unet"
    assert set(CALL) - {"guidance_scale"} == set(config.pipeline.call)


def test_the_embedded_pipeline_is_seen_like_any_other() -> None:
    seen = look_at("builtin:shapes", call={"height": 64, "width": 64})

    assert seen.pipeline == "FluxPipeline"
    assert seen.steps == 28
    assert seen.pixels == 64 * 64
    assert seen.stacks == {
        "transformer.transformer_blocks": 3,
        "transformer.single_transformer_blocks": 6,
    }


def test_steps_that_a_pipeline_does_not_know_must_be_told(
    unweighted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = FluxPipeline.__call__
    known = inspect.signature(call).parameters
    unknown = known["num_inference_steps"].replace(default=None)
    monkeypatch.setattr(
        call,
        "__signature__",
        inspect.Signature([*(known | {"num_inference_steps": unknown}).values()]),
        raising=False,
    )
    out = tmp_path / "env.toml"

    assert main(["init", str(unweighted), "--out", str(out)]) == 2
    assert "expected --steps, as a FluxPipeline has no number of its own" in capsys.readouterr().err
    assert not out.exists()
    assert main(["init", str(unweighted), "--out", str(out), "--steps", "9"]) == 0

    assert load_env(out).steps == [9]


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
@pytest.mark.parametrize("name", third(name for name in PIPELINES if "(" not in name))
def test_a_pipeline_is_seen_without_any_weights(name: str, tmp_path: Path) -> None:
    pipe = build(name)
    for part, component in pipe.components.items():
        if hasattr(component, "save_config"):
            component.save_config(tmp_path / part)
    pipe.save_config(tmp_path)

    if "prompt" not in inspect.signature(type(pipe).__call__).parameters:
        with pytest.raises(ConfigError, match="called with a prompt and a number of steps"):
            look_at(str(tmp_path))
        return
    seen = look_at(str(tmp_path))

    denoisers = denoisers_of(pipe)
    assert dict(seen.denoisers) == {part: type(one).__name__ for part, one in denoisers.items()}
    assert seen.parameters == sum(p.numel() for one in denoisers.values() for p in one.parameters())
    assert seen.pipeline == type(pipe).__name__
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["nowhere/at-all"], "expected a pipeline folder or a Hub id, received 'nowhere/at-all'"),
        (["{folder}", "--call", "height"], "--call must have NAME=VALUE as height=512, received"),
        (["{folder}", "--steps", "1"], "--steps must lie in [3, 1024], received 1"),
        (["{folder}", "--out", "{there}"], "is there already; choose another --out"),
    ],
)
def test_what_cannot_be_begun_is_one_line_and_writes_nothing(
    typed: list[str],
    why: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = tmp_path / "there.toml"
    there.write_text("mine")
    monkeypatch.chdir(tmp_path)

    names = {"folder": tiny_folder, "there": there}
    assert main(["init", *(text.format(**names) for text in typed)]) == 2

    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.toml"]
    assert there.read_text() == "mine"


def test_prompts_of_ones_own_are_never_replaced(unweighted: Path, tmp_path: Path) -> None:
    mine = tmp_path / "prompts" / "general-train.txt"
    mine.parent.mkdir()
    mine.write_text("a prompt of mine\nanother one\n")

    for _ in range(2):
        typed = ["init", str(unweighted), "--out", str(tmp_path / "env.toml"), "--force"]
        assert main(typed) == 0

    assert load_env(tmp_path / "env.toml").read_prompts("train") == [
        "a prompt of mine",
        "another one",
    ]
