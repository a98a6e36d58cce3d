"""Every model of the zoo passes every check; a third in each run, the others with `-m sweep`."""

from typing import Any

import pytest

from benchmarks.zoo.checks import denoiser_unit, examine
from benchmarks.zoo.denoisers import DENOISERS
from benchmarks.zoo.loop import DenoiserLoop
from benchmarks.zoo.pipelines import PIPELINES, build, pipeline_unit

#: The rest of a sweep of five minutes is left to `make test ARGS="-m sweep"`.
EVERY = 3


def third(names: Any) -> list[Any]:
    """Mark all but every third name as part of the sweep."""
    return [
        pytest.param(name, marks=[] if index % EVERY == 0 else [pytest.mark.sweep])
        for index, name in enumerate(names)
    ]


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
@pytest.mark.parametrize("name", third(DENOISERS))
def test_a_denoiser_passes_every_check(name: str) -> None:
    found = examine(denoiser_unit(DenoiserLoop(name)), seed=len(name))

    assert found.checks == dict.fromkeys(found.checks, True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", third(PIPELINES))
def test_a_pipeline_passes_every_check(name: str) -> None:
    found = examine(pipeline_unit(name, build(name)), seed=len(name))

    assert found.checks == dict.fromkeys(found.checks, True)
