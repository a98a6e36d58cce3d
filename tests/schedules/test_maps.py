import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules.collapse import updated
from ditcache_rl.schedules.maps import PatchMaps, guidance_of, joined, patches, side_of

#: Latents of each layout: tokens, images, video.
LAYOUTS = [(2, 6, 5), (2, 3, 4, 6), (2, 3, 2, 4, 6)]
GUIDANCE = np.array([-3.5, 4.5])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.sampled_from(LAYOUTS), st.sampled_from([1, 2]))
def test_patches_joined_are_the_latents(shape: tuple[int, ...], side: int) -> None:
    latents = drawn(*shape)

    rows = patches(latents, side)

    assert torch.equal(joined(rows, side), latents)
    assert rows.numel() == latents.numel()
    assert rows.shape[-1] == (shape[2] if len(shape) == 3 else shape[1] * side**2)


def test_a_patch_is_what_lies_side_by_side() -> None:
    pixels = torch.arange(16.0).reshape(1, 1, 4, 4)

    assert patches(pixels, 2)[0, 0, 1].tolist() == [2, 3, 6, 7]
    assert side_of(pixels) == 2
    assert side_of(pixels[..., :3]) == 1, "what can't be divided has patches of one"
    assert side_of(pixels[0]) == 1, "tokens are patches already"


@pytest.mark.parametrize("shape", LAYOUTS, ids=["tokens", "image", "video"])
@pytest.mark.parametrize("by_branch", [False, True])
def test_matrices_with_one_number_each_are_coefficients(
    shape: tuple[int, ...], by_branch: bool
) -> None:
    latents, factors = drawn(*shape), np.array([0.7, -0.2])
    side = side_of(latents)
    channels = patches(latents, side).shape[-1]
    branches = [drawn(2, *shape, seed=seed) for seed in (1, 2)]
    guided = [torch.tensordot(torch.tensor(GUIDANCE), one, dims=1) for one in branches]
    numbers = np.append(0.9, np.kron(factors, GUIDANCE) if by_branch else factors)
    matrix = np.kron(numbers[:, None], np.eye(channels))
    maps = PatchMaps(side, (matrix,), GUIDANCE if by_branch else None)

    found = maps.advance(0, latents, branches if by_branch else guided)

    torch.testing.assert_close(found, updated(latents, guided, keep=0.9, factors=factors))


@given(st.floats(-8, 8), st.integers(0, 99))
def test_guidance_is_told_by_what_it_does(scale: float, seed: int) -> None:
    branches = drawn(2, 3, 4, 5, seed=seed)
    guided = branches[0] + scale * (branches[1] - branches[0])

    found = guidance_of(guided, branches)

    assert found is not None
    np.testing.assert_allclose(found, [1 - scale, scale], atol=1e-9)


def test_what_is_no_sum_of_branches_has_no_guidance() -> None:
    branches = drawn(2, 3, 4, 5)

    assert guidance_of(branches[0].abs(), branches) is None
    assert guidance_of(branches[0], branches[:1]) is None, "one branch alone is not guided"
    assert guidance_of(branches[0], None) is None


@pytest.mark.parametrize(
    ("scale", "count", "why"),
    [
        (4.5, 3, "expected a step of 2 guidance branches, as in the fit, received 3"),
        (4.5, 0, "received outputs of another shape than the latents"),
        (7.0, 2, "added up as [-3.5, 4.5] times them, received an output that is"),
    ],
)
def test_other_guidance_than_in_the_fit_is_refused(scale: float, count: int, why: str) -> None:
    maps = PatchMaps(1, (np.eye(5),), GUIDANCE)
    branches = drawn(3, 3, 4, 5)
    guided = branches[0] + scale * (branches[1] - branches[0])
    received = branches[:count] if count else None

    with pytest.raises(ConfigError, match=re.escape(why)):
        maps.check_guidance(guided, received, begins=True)


def test_guidance_is_looked_at_when_a_run_begins() -> None:
    maps = PatchMaps(1, (np.eye(5),), GUIDANCE)
    branches = drawn(2, 3, 4, 5)
    guided = torch.tensordot(torch.tensor(GUIDANCE), branches, dims=1)

    assert maps.check_guidance(guided, branches, begins=True) is branches
    assert maps.check_guidance(guided + 1, branches, begins=False) is branches


def test_a_size_without_whole_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 2, as in the fit"):
        patches(drawn(1, 3, 4, 5), 2)


def test_latents_of_another_model_are_refused() -> None:
    maps = PatchMaps(1, (np.ones((8, 4)),))

    with pytest.raises(ConfigError, match="patches of 4 channels, as in the fit, received 5"):
        maps.advance(0, drawn(1, 3, 5), [drawn(1, 3, 5)])


@pytest.mark.parametrize("guidance", [None, GUIDANCE])
def test_what_is_written_is_read_again(guidance: Any) -> None:
    branches = 1 if guidance is None else len(guidance)
    shapes = [(2 * (1 + branches * known), 2) for known in (1, 2, 3, 3)]
    matrices = tuple(drawn(*shape).float().double().numpy() for shape in shapes)
    maps = PatchMaps(2, matrices, guidance)

    read = PatchMaps.read(maps.write())

    assert read.side == 2
    for one, other in zip(read.matrices, maps.matrices, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (read.guidance is None) == (guidance is None)
    assert read.guidance is None or read.guidance.tolist() == guidance.tolist()


@pytest.mark.parametrize(
    ("matrices", "change"),
    [
        ([np.ones((1, 2))], {}),
        ([np.ones((3, 2))], {}),
        ([np.full((4, 2), np.nan)], {}),
        ([np.ones((4, 2)), np.ones((4, 2))], {}),  # the second step has two outputs
        ([np.ones((4, 2))], {"guidance": [0.5, 0.5]}),
        ([np.ones((4, 2))], {"guidance": 3.0}),
        ([np.ones((4, 2))], {"side": 0}),
    ],
)
def test_matrices_that_do_not_fit_each_other_are_refused(
    matrices: list[Any], change: dict[str, Any]
) -> None:
    written = PatchMaps(2, tuple(matrices)).write()

    with pytest.raises(ValueError, match="do not fit each other"):
        PatchMaps.read(written | change)


@pytest.mark.parametrize("packed", [(3, "AACAPwAAgD8="), (4, "?"), (4, "AAA=")])
def test_damaged_numbers_are_refused(packed: tuple[int, str]) -> None:
    written = PatchMaps(2, (np.ones((4, 2)),)).write()
    rows, text = packed

    with pytest.raises(ValueError, match=r"reshape|base64|padding|multiple"):
        PatchMaps.read(written | {"matrices": [{"rows": rows, "float32": text}]})
