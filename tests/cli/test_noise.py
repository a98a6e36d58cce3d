"""What other libraries say is not in what a command says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_command_that_opens_a_pipeline_speaks_alone(tiny_env: Path, tmp_path: Path) -> None:
    typed = ["analyze", str(tiny_env), "--prompts", "1", "--images", "1", "--probes", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "ditcache_rl.cli", *typed, "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert all(line.startswith("analyze 0:") for line in done.stderr.splitlines()), done.stderr
