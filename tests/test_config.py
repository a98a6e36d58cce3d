import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from ditcache_rl.config import find_policy, load_env, memory_bytes, parse_bytes, shipped_envs
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Tier

TEXT = """
id = "ditcache/test-v0"
steps = [8]

[pipeline]
source = "builtin:shapes"
call = { height = 64 }

[cache]
sites = 2
tiers = ["device", "drop"]
device_bytes = "70%"

[targets]
budgets = [0.25, 1]

[prompts]
train = "train.txt"
select = "select.txt"
test = "more/test.txt"

[seeds]
train = 0
select = 2
test = 10

[agent]
rows = 4
"""


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment file that is in order, with its prompts beside it."""
    (tmp_path / "more").mkdir()
    (tmp_path / "train.txt").write_text("one\n\n  two  \n")
    (tmp_path / "select.txt").write_text("three\n")
    (tmp_path / "more" / "test.txt").write_text("four\nfive\n")
    path = tmp_path / "test.toml"
    path.write_text(TEXT)
    return path


def complaint(path: Path, old: str = "", new: str = "") -> str:
    """Replace a part of the file and return what `load_env` says about it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_env(path)
    return str(caught.value)


def test_a_file_becomes_a_config(env: Path) -> None:
    config = load_env(env)

    assert config.id == "ditcache/test-v0"
    assert config.name == "test"
    assert config.path == env
    assert config.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert config.steps == [8]
    assert config.pipeline.call == {"height": 64}
    assert config.tiers == (Tier.DEVICE, Tier.DROP)
    assert config.targets.budgets == [0.25, 1.0]
    assert all(isinstance(budget, float) for budget in config.targets.budgets)
    assert config.agent.rows == 4


def test_what_a_file_leaves_out_has_defaults(env: Path) -> None:
    env.write_text(TEXT[: TEXT.index("[agent]")])

    config = load_env(str(env))

    assert (config.agent.rows, config.reward.psnr, config.pipeline.device) == (32, 1.0, "auto")


def test_a_world_that_is_not_described_stands_still(env: Path) -> None:
    assert not load_env(env).world.prices_memory


@pytest.mark.parametrize("line", ['transfers = "h100"', "memory_weight = 0.5", "caps = [1, 0.5]"])
def test_a_world_that_says_anything_of_memory_prices_it(env: Path, line: str) -> None:
    env.write_text(f"{TEXT}\n[world]\n{line}\n")

    assert load_env(env).world.prices_memory


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('transfers = "h10"', "[world] transfers must be among"),
        ("memory_weight = -1", "[world] memory_weight must be >= 0"),
        ("caps = [0.5, 1.5]", "[world] caps must lie in [0, 1]"),
        ("dwell_steps = 0.5", "[world] dwell_steps must be >= 1"),
        ("wait_weight = -1", "[world] wait_weight must be >= 0"),
        ("caps = 1", "[world] caps must be"),
        ('loads = ["slw"]', "or files of recorded ones. Did you mean 'slow'?, received 'slw'"),
        ('loads = ["gone.safetensors"]', "[world] loads must be among"),
    ],
)
def test_a_fault_of_the_world_is_named_with_its_rule(env: Path, line: str, rule: str) -> None:
    env.write_text(f"{TEXT}\n[world]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_env(env)

    assert rule in str(caught.value)


def test_a_recorded_load_is_named_beside_the_file(env: Path) -> None:
    (env.parent / "loads").mkdir()
    (env.parent / "loads" / "mine.safetensors").touch()
    env.write_text(f'{TEXT}\n[world]\nloads = ["slow", "loads/mine.safetensors"]\n')

    world = load_env(env).world

    assert (world.home / world.loads[1]).is_file()


def test_prompts_are_read_beside_the_file_and_without_blanks(env: Path) -> None:
    config = load_env(env)

    assert config.read_prompts("train") == ["one", "two"]
    assert config.read_prompts("test") == ["four", "five"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = [8]", "stepps = [8]", ": unknown key 'stepps'. Did you mean 'steps'?"),
        ("sites = 2", "site = 2", "[cache] unknown key 'site'. Did you mean 'sites'?"),
        ("sites = 2", "zebra = 2", "[cache] unknown key 'zebra'."),
        ("[agent]", "[agnet]", ": unknown key 'agnet'. Did you mean 'agent'?"),
        ("[agent]", "[path]", ": unknown key 'path'."),
        ('id = "ditcache/test-v0"', "", ": expected a key 'id', received none"),
        ("budgets = [0.25, 1]", "", "[targets] expected a key 'budgets', received none"),
        ("sites = 2", 'sites = "2"', "[cache] sites must be int, received '2'"),
        ("sites = 2", "sites = 2.0", "[cache] sites must be int, received 2.0"),
        ("sites = 2", "sites = true", "[cache] sites must be int, received True"),
        ("sites = 2", "host_bytes = 3", "[cache] host_bytes must be str, received 3"),
        ("steps = [8]", "steps = 8", "steps must be list[int], received 8"),
        ("steps = [8]", 'steps = ["8"]', "steps must be int, received '8'"),
        ("steps = [8]", "steps = [true]", "steps must be int, received True"),
        ("budgets = [0.25, 1]", "budgets = [true]", "budgets must be float, received True"),
        ("call = { height = 64 }", "call = 64", "[pipeline] call must be dict"),
        ("[agent]\nrows = 4", "agent = 4", "agent"),
        ('source = "builtin:shapes"', "source = 1", "[pipeline] source must be str, received 1"),
    ],
)
def test_a_name_or_type_that_does_not_fit_is_named_with_its_place(
    env: Path, old: str, new: str, expected: str
) -> None:
    message = complaint(env, old, new)

    assert message.startswith(f"{env}:")
    assert expected in message


def test_a_table_that_is_a_number_is_named(env: Path) -> None:
    text = TEXT[: TEXT.index("[agent]")]
    env.write_text(f"agent = 4\n{text}")

    assert "[agent] must be a table, received 4" in complaint(env)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ditcache/test-v0", "test-v0", "id must look like ditcache/name-v0, received test-v0"),
        ("ditcache/test-v0", "ditcache/test", "id must look like"),
        ("steps = [8]", "steps = []", "steps must list counts of 3 or more"),
        ("steps = [8]", "steps = [8, 2]", "steps must list counts of 3 or more"),
        ("sites = 2", "sites = 0", "[cache] sites must lie in [1, 256], received 0"),
        ('["device", "drop"]', '["devise"]', "Did you mean 'device'?"),
        ('["device", "drop"]', "[]", "[cache] tiers must be among"),
        ('["device", "drop"]', '["drop", "device"]', "[cache] tiers must start with"),
        ("0.25, 1]", "0.25, 1.01]", "[targets] budgets must lie in (0, 1]"),
        ("0.25, 1]", "0]", "[targets] budgets must lie in (0, 1]"),
        ("0.25, 1]", "nan]", "the number nan; they must be finite"),
        ("0.25, 1]", "]", "[targets] budgets must lie in (0, 1]"),
        ("[prompts]", "tradeoff_share = 1.5\n[prompts]", "[targets] tradeoff_share must lie"),
        (
            "[agent]",
            "[reward]\nlatency_weights = [2, 1]\n[agent]",
            "[reward] latency_weights must be",
        ),
        ("[agent]", "[reward]\nlatency_weights = [1]\n[agent]", "[reward] latency_weights must be"),
        ("rows = 4", 'algorithm = "plane"', "Did you mean 'plain'?"),
        ("rows = 4", "rows = 0", "[agent] rows must lie in [1, 1000000], received 0"),
        ("rows = 4", "rows = 1000000000", "[agent] rows must lie in [1, 1000000]"),
        ("rows = 4", "batch_size = 3", "[agent] unknown key 'batch_size'"),
        ("train = 0", "train = -1", "[seeds] train must lie in [0, 4294967295], received -1"),
        ("[agent]", "[search]\nprompts = 0\n[agent]", "[search] prompts must lie in [1, 1000000]"),
        ('"builtin:shapes"', '""', "[pipeline] source must name a pipeline, received ''"),
        ("height = 64", "height = -64", "call: height must lie in [1, 16384], received -64"),
        ("height = 64", "width = 1.5", "call: width must lie in [1, 16384], received 1.5"),
        ("height = 64", 'prompt = "a"', "call must leave prompt to the commands, which give it"),
        ("height = 64", "num_inference_steps = 4", "call must leave num_inference_steps to"),
        ("height = 64", "num_images_per_prompt = 2", "call must leave num_images_per_prompt to"),
        ("sites = 2", "sites = 257", "[cache] sites must lie in [1, 256], received 257"),
        ('"70%"', '"most"', "expected bytes as 1048576, '512MiB' or '70%', received 'most'"),
        ('"70%"', '"0"', "it must be above zero"),
        ("sites = 2", 'host_bytes = "x"', "[cache] host_bytes: expected bytes as"),
        ("sites = 2", 'disk_bytes = "1GiB"', "disk_bytes and cache_dir must be given together"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(
    env: Path, old: str, new: str, expected: str
) -> None:
    assert expected in complaint(env, old, new)


@pytest.mark.parametrize(("select", "overlaps"), [(0, True), (1, True), (2, False)])
def test_seed_ranges_may_touch_and_not_overlap(env: Path, select: int, overlaps: bool) -> None:
    env.write_text(TEXT.replace("select = 2", f"select = {select}"))

    if overlaps:
        assert "[seeds] train and select must not overlap" in complaint(env)
    else:
        load_env(env)


def test_a_prompt_in_two_files_is_named(env: Path) -> None:
    (env.parent / "more" / "test.txt").write_text("four\n two\n")

    message = complaint(env)

    assert "[prompts] train and test must be disjoint, received 1 shared: ['two']" in message


def test_a_missing_prompt_file_is_named(env: Path) -> None:
    (env.parent / "select.txt").unlink()

    message = complaint(env)

    assert message.startswith(f"{env}: [prompts] select must name a file")
    assert str(env.parent / "select.txt") in message


def test_an_empty_prompt_file_is_named(env: Path) -> None:
    (env.parent / "select.txt").write_text("\n  \n")

    assert "[prompts] select must name a file with prompts" in complaint(env)


@pytest.mark.parametrize("text", ["id = ", "a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(env: Path, text: str) -> None:
    env.write_text(text)

    assert complaint(env).startswith(f"{env}: expected TOML, received ")


def test_a_file_that_is_no_text_is_named(env: Path) -> None:
    env.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="expected TOML, received 'utf-8' codec"):
        load_env(env)


def test_a_folder_is_not_an_environment_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a path or one of the shipped envs"):
        load_env(tmp_path)


@pytest.mark.parametrize("name", shipped_envs())
def test_every_shipped_environment_loads_by_name(name: str) -> None:
    config = load_env(name)

    assert config.name == name
    assert all(config.read_prompts(part) for part in ("train", "select", "test"))


def test_the_default_environment_is_shapes() -> None:
    assert load_env() == load_env("shapes")


def test_an_unknown_environment_suggests_the_one_that_is_meant() -> None:
    with pytest.raises(ConfigError, match=r"received 'shapse'\. Did you mean 'shapes'\?"):
        load_env("shapse")


def test_an_unknown_policy_is_an_error_that_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"one of the shipped policies .* received 'zebra'"):
        find_policy("zebra")


def test_a_policy_folder_is_found_by_its_path(tmp_path: Path) -> None:
    assert find_policy(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1, 1),
        (1048576, 1048576),
        ("1048576", 1048576),
        ("512b", 512),
        ("512 B", 512),
        ("1kb", 1000),
        ("1KiB", 1024),
        ("512MiB", 512 * 2**20),
        ("2GiB", 2 * 2**30),
        ("1.5gb", 1_500_000_000),
        (" 1.5 GB ", 1_500_000_000),
        (".5 kib", 512),
        ("1TiB", 2**40),
        ("70%", 700),
        ("70 %", 700),
        ("0.5%", 5),
        ("100%", 1000),
    ],
)
def test_bytes_are_read_as_numbers_sizes_and_shares(text: int | str, expected: int) -> None:
    assert parse_bytes(text, total=1000) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(0, -1, "0", "0%", "0GiB", "-1", "-5%", "- 5", "101%", "100.1%", "0.01%"),
        *("", " ", "%", "GiB", "most", "1e9", "1,5GB", "1 2", "1 parsec", "inf", "nan", "70%%"),
    ],
)
def test_bytes_that_mean_nothing_are_refused_and_shown(text: int | str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bytes(text, total=1000)

    assert f"received {text!r}" in str(caught.value)


def test_the_memory_of_the_cpu_is_that_of_the_machine() -> None:
    assert memory_bytes("cpu") > 2**20


def test_reading_environments_does_not_wait_for_torch() -> None:
    code = (
        "import sys, ditcache_rl.config as c; c.load_env();"
        "print(sorted({'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
