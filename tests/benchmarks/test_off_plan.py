from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.worlds.off_plan import fitted_coefficients, replanned_paths
from tests.kit.pacers import tiny_pacer

STEPS = 12


def test_paths_of_the_replanner_are_those_that_no_plan_had() -> None:
    pacer = tiny_pacer(np.linspace(1, 0, STEPS + 1))

    found = replanned_paths(pacer)

    plans = {pacer.placement.path(most) for most in range(1, STEPS + 1)}
    assert found
    assert not plans & set(found)
    for path in found:
        assert path[0] == 0
        assert list(path) == sorted(set(path))


def test_what_was_fitted_to_a_path_is_not_fitted_again(tmp_path: Path) -> None:
    file, nothing = tmp_path / "kept.safetensors", Any
    rows = np.array([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.0, 0.0, 0.0]])
    save_file({"0 2": rows, "0 1": rows}, file)

    found = fitted_coefficients(nothing, nothing, [(0, 2)], file)  # type: ignore[arg-type]

    assert list(found) == [(0, 2)]
    wanted = [[np.nan] * 3, [0.9, 0.0, 0.0], [np.nan] * 3]
    np.testing.assert_array_equal(found[0, 2], wanted)
