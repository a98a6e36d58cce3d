"""The documentation site builds without a warning, and what its guide shows works."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Pages whose examples run one after the other, on the embedded pipeline.
RUN = ("start.md", "targets.md", "extending.md")


def test_every_page_has_a_place_in_the_navigation_and_in_the_table() -> None:
    docs = ROOT / "docs"
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    navigation, table = (ROOT / "mkdocs.yml").read_text(), (docs / "README.md").read_text()

    assert set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)) == pages
    assert set(re.findall(r"^\| \[[^]]+\]\((\S+\.md)\)", table, re.MULTILINE)) == {
        page for page in pages if page != "README.md" and not page.startswith("diary/")
    }


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "Run every call of a pipeline under a policy" in (tmp_path / "api.html").read_text()
    settings = (tmp_path / "environment-file.html").read_text()
    assert "Shares of full compute, each in (0, 1]" in settings
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not loaded, page


@pytest.mark.parametrize("page", RUN)
def test_examples_of_a_page_run_in_their_order(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": page}

    for number, example in enumerate(examples):
        exec(compile(example, f"{page}, example {number}", "exec"), names)

    assert examples
