"""What other libraries say is not in what a command says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_command_that_opens_a_pipeline_speaks_alone(tiny_env: Path, tmp_path: Path) -> None:
    typed = ["search", str(tiny_env), "--method", "uniform", "--budgets", "0.5", "--steps", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "ditcache_rl.cli", *typed, "--prompts", "1", "--evaluations", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert all(line.startswith("search 0:") for line in done.stderr.splitlines()), done.stderr
