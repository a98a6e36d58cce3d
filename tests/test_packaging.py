"""What is installed: one import name, data included, nothing heavy before it is needed."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ditcache_rl

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "gymnasium", "stable_baselines3", "sb3_contrib")
HELP_WITHOUT_HEAVY = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({HEAVY!r}))  # importing one of them now fails
del sys.argv[0]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""


#: Import names of everything that the extras bring and the package, without them, does not need.
EXTRAS = [
    *("gymnasium", "matplotlib", "pymoo", "sb3_contrib", "stable_baselines3", "tensorboard"),
    *("onnx", "onnxscript", "torchao", "cache_dit", "plotly", "lpips", "accelerate", "peft", "ray"),
    *("fastapi", "gradio", "prometheus_client", "uvicorn", "optuna", "trackio", "wandb"),
]
BASE_INSTALL = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))  # importing one of them now fails
exec(sys.argv.pop(1))
"""


def base_install(code: str, *args: str) -> str:
    """Run code where no extra is installed, and return what it printed."""
    return python("-c", BASE_INSTALL, code, *args)


def python(*args: str, cwd: Path = ROOT, path: Path = ROOT) -> str:
    """Run a fresh interpreter that finds the package in `path`, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it, as a release does."""
    out = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_has_one_import_name_and_all_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    version = ditcache_rl.__version__
    assert {name.split("/")[0] for name in names} == {
        "ditcache_rl",
        f"ditcache_rl-{version}.dist-info",
    }
    for folder, inside in {
        "ditcache_rl": "ditcache_rl",
        "envs": "ditcache_rl/_shipped/envs",
        "policies": "ditcache_rl/_shipped/policies",
    }.items():
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        expected = {
            f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in files
            if path.parent.name != "__pycache__"
        }
        assert expected
        assert expected <= names


def test_wheel_runs_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)

    where = "import ditcache_rl; print(ditcache_rl.__file__)"
    assert python("-c", where, cwd=tmp_path, path=tmp_path).startswith(str(tmp_path))
    assert "usage" in python("-m", "ditcache_rl.cli", "--help", cwd=tmp_path, path=tmp_path)


@pytest.mark.parametrize("entry", ["train.py", "eval.py", "ditcache_rl.cli"])
def test_help_needs_no_heavy_import(entry: str) -> None:
    assert "usage" in python("-c", HELP_WITHOUT_HEAVY, entry, "--help")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ditcache_rl", HEAVY),
        ("ditcache_rl.inference", ("gymnasium", "stable_baselines3", "sb3_contrib")),
    ],
)
def test_import_pulls_in_no_more_than_it_needs(module: str, absent: tuple[str, ...]) -> None:
    loaded = python("-c", f"import {module}, sys; print(*sys.modules, sep='\\n')").split()

    assert not set(absent) & set(loaded)


def test_a_base_install_imports_everything_but_the_learning() -> None:
    code = """
import importlib, pkgutil, ditcache_rl
for found in pkgutil.walk_packages(ditcache_rl.__path__, "ditcache_rl.", onerror=str):
    if not found.name.startswith("ditcache_rl.rl.") and not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except Exception as error:
            print(found.name, type(error).__name__, error)
"""
    assert base_install(code) == (
        "ditcache_rl.rl ConfigError expected gymnasium, stable_baselines3, sb3_contrib, "
        "tensorboard to be installed, found none; pip install 'ditcache-rl[train]'\n"
        "ditcache_rl.serve.deployment ConfigError expected fastapi, prometheus_client, uvicorn "
        "to be installed, found none; pip install 'ditcache-rl[serve]'\n"
        "ditcache_rl.serve.server ConfigError expected fastapi, prometheus_client, uvicorn "
        "to be installed, found none; pip install 'ditcache-rl[serve]'\n"
    )


@pytest.mark.parametrize(
    ("asked", "missing", "extra"),
    [
        (["train"], "gymnasium, stable_baselines3, sb3_contrib, tensorboard", "train"),
        (
            ["train", "--retarget", "shapes-ppo"],
            "gymnasium, stable_baselines3, sb3_contrib, tensorboard",
            "train",
        ),
        (["serve"], "fastapi, prometheus_client, uvicorn", "serve"),
    ],
)
def test_a_base_install_says_in_one_line_what_it_cannot_do(
    asked: list[str], missing: str, extra: str
) -> None:
    code = "sys.stderr = sys.stdout; from ditcache_rl.cli import main; print(main(sys.argv[1:]))"

    said, status = base_install(code, *asked).splitlines()

    assert status == "2"
    assert said.startswith(f"error: expected {missing}")
    assert said.endswith(f"pip install 'ditcache-rl[{extra}]'")


def test_a_base_install_exports_schedules(tmp_path: Path) -> None:
    typed = ["export", "--schedules", str(tmp_path / "schedules.json")]

    base_install("from ditcache_rl.cli import main; sys.exit(main())", *typed)

    assert (tmp_path / "schedules.json").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/README.md"])
def test_readme_and_docs_name_the_extras(page: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = settings["project"]["optional-dependencies"].keys() - {"dev"}

    text = (ROOT / page).read_text()
    assert not {extra for extra in extras if f"`{extra}`" not in text}


def test_all_is_what_can_be_imported() -> None:
    tree = ast.parse(Path(ditcache_rl.__file__).read_text())
    declared = {
        alias.asname or alias.name
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert set(ditcache_rl.__all__) == declared | {"__version__"}
    assert all(hasattr(ditcache_rl, name) for name in ditcache_rl.__all__)
