import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "scipy", "stable_baselines3", "sb3_contrib", "matplotlib")


def python(code: str) -> str:
    """Run a fresh interpreter, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import gymnasium, ditcache_rl",
        "import ditcache_rl, gymnasium",
        "import ditcache_rl.rl, gymnasium",
        "from ditcache_rl.rl import register_envs; register_envs(); import gymnasium",
        "import ditcache_rl; from gymnasium.envs.registration import registry; import gymnasium",
    ],
)
def test_environments_are_known_after_both_imports_in_any_order_without_torch(imports: str) -> None:
    loaded = python(f"""
{imports}
import sys
assert gymnasium.spec("ditcache/shapes-v0").kwargs == {{"config": "shapes"}}
print(*sys.modules, sep="\\n")
""").split()

    assert not set(HEAVY) & set(loaded)


def test_gymnasium_alone_finds_them_by_the_name_of_the_package(tiny_env: Path) -> None:
    made = python(f"""
import gymnasium, sys
env = gymnasium.make("ditcache_rl:ditcache/shapes-v0", config={str(tiny_env)!r})
assert "stable_baselines3" not in sys.modules
print(env.spec.id)
""")

    assert made.split() == ["ditcache/shapes-v0"]


def test_the_package_can_be_imported_where_gymnasium_is_missing() -> None:
    said = python("""
import sys
sys.path = [path for path in sys.path if "site-packages" not in path]
import ditcache_rl
try:
    import gymnasium
except ModuleNotFoundError as error:
    print(error)
""")

    assert said == "No module named 'gymnasium'\n"
