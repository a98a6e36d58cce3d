"""Files in `benchmarks/` are scripts, folders hold what they share, and nothing needs the tests."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.harness.report import Benchmark, parser

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if path.name != "__init__.py")
SHARED = sorted(BENCHMARKS.glob("*/**/*.py"))


def imported(path: Path) -> set[str]:
    """List the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def public_classes(folder: Path) -> list[str]:
    """List the classes that modules of a folder define at their top, private ones left out."""
    return [
        node.name
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


@pytest.mark.parametrize("path", [*SCRIPTS, *SHARED], ids=lambda path: path.stem)
def test_nothing_reaches_the_tests_or_plays_with_the_path(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "tests"}
    assert "sys.path" not in path.read_text()
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_what_scripts_share_imports_no_script(path: Path) -> None:
    assert not imported(path) & {f"benchmarks.{script.stem}" for script in SCRIPTS}


def test_a_class_has_a_name_of_its_own() -> None:
    counts = Counter(public_classes(BENCHMARKS))

    assert [name for name, count in counts.items() if count > 1] == []
    assert sorted(set(counts) & set(public_classes(ROOT / "ditcache_rl"))) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_a_line_in_the_readme(path: Path) -> None:
    lines = (BENCHMARKS / "README.md").read_text().splitlines()

    (line,) = [line for line in lines if line.startswith(f"| [{path.name}]({path.name}) ")]
    assert all(cell.strip() for cell in line.strip("|").split("|"))


def test_make_runs_every_script_and_nothing_else() -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    (listed,) = re.findall(r"for script in (.*?);", recipe)
    assert sorted(listed.split()) == [str(path.relative_to(ROOT)) for path in SCRIPTS]


def test_a_script_answers_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "tiers.py"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.stdout.startswith("usage: tiers.py"), done.stderr


def test_a_result_that_cannot_be_written_is_refused_before_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser(None).parse_args(["--json", str(tmp_path)])

    assert f"{tmp_path} is a folder; choose another" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["tiers.py", "worlds/serving.py"])
def test_a_result_says_which_script_made_it(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / script), "--quick"])

    Benchmark().finish({}, None, tmp_path / "result.json")

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"] == f"python benchmarks/{script} --quick"
