from pathlib import Path
from typing import Any

from benchmarks.zoo.denoisers import DENOISERS
from benchmarks.zoo.docs import page_of
from benchmarks.zoo.pipelines import PIPELINES
from ditcache_rl.cli import main
from ditcache_rl.pipelines.supported import supported_pipelines

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"


def test_the_shipped_table_is_that_of_the_zoo_and_of_the_page() -> None:
    rows = supported_pipelines()

    classes = {name.split()[0] for name in DENOISERS}
    assert classes == {row["denoiser"] for row in rows}
    assert set(PIPELINES) == {name for row in rows for name in row["pipelines"]}
    assert PAGE.read_text(encoding="utf-8") == page_of(rows)


def test_the_table_is_printed(capsys: Any) -> None:
    assert main(["list", "pipelines"]) == 0

    assert "UNet2DConditionModel" in capsys.readouterr().out
