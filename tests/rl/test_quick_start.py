"""The examples of the page on reinforcement learning, one after the other as a reader runs them."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "rl.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
]


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), names)
    names["env"].close()

    assert len(EXAMPLES) == 9
    for name in ("mine", "mine-in-time"):
        assert (tmp_path / "runs" / name / "manifest.json").exists()
    assert len(list((tmp_path / "runs" / "a2c").glob("events*"))) == 1
