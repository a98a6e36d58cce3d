import numpy as np
import pytest
import torch
from torch import Tensor

import ditcache_rl as dc
from benchmarks.precision.generator import StyleGenerator
from ditcache_rl.errors import ConfigError
from ditcache_rl.extras.gan import LatentWalk, StyleReuse, WalkSampler
from ditcache_rl.sensitivity import gradient_sensitivity, injection_sensitivity, rank_correlation
from ditcache_rl.types import Mode

LAYERS, ROWS = 4, 2


@pytest.fixture(scope="module")
def generator() -> StyleGenerator:
    return StyleGenerator(style_size=16, channels=(16, 16, 12, 8, 8))


def mixed(generator: StyleGenerator, crossovers: list[int], rows: int = ROWS) -> Tensor:
    """Replace the styles of a walk's first edit from one layer on, by others at each edit."""
    noise = torch.Generator().manual_seed(1)
    latents = torch.randn(len(crossovers) * rows, 16, generator=noise)
    others = generator.styles(latents).reshape(len(crossovers), rows, LAYERS, 16)
    walk = others[:1].repeat(len(crossovers), 1, 1, 1)
    for edit, layer in enumerate(crossovers):
        walk[edit, :, layer:] = others[edit, :, layer:]
    return walk


def test_layers_whose_styles_are_equal_are_reused_bit_for_bit(generator: StyleGenerator) -> None:
    walk, styles = LatentWalk(generator.synthesis), mixed(generator, [0, 3, 3, 2, 4, 4])
    plain = walk(styles)

    with dc.cached(walk, StyleReuse(), sites=LAYERS) as run:
        images = walk(styles)

    assert torch.equal(images, plain)
    changed = np.array([0, 3, 3, 2, 2, 4])  # the first layer that differs from the edit before
    expected = np.where(np.arange(LAYERS) >= changed[:, None], Mode.COMPUTE, Mode.REUSE)
    np.testing.assert_array_equal(run.logs[0].modes, np.repeat(expected[:, None], ROWS, axis=1))


def test_a_layer_behind_a_changed_one_is_computed_although_its_style_is_equal(
    generator: StyleGenerator,
) -> None:
    walk, styles = LatentWalk(generator.synthesis), mixed(generator, [0, 4])
    styles[1, :, 1] += 1
    plain = walk(styles)

    with dc.cached(walk, StyleReuse(), sites=LAYERS) as run:
        assert torch.equal(walk(styles), plain)
    assert (run.logs[0].modes[1] == [Mode.REUSE, *[Mode.COMPUTE] * 3]).all()


def test_rows_are_edited_each_for_itself(generator: StyleGenerator) -> None:
    walk, styles = LatentWalk(generator.synthesis), mixed(generator, [0, 4, 4])
    styles[1:, 0, 2] += 1
    plain = walk(styles)

    with dc.cached(walk, StyleReuse(), sites=LAYERS) as run:
        images = walk(styles)

    assert torch.equal(images[:, 1], plain[:, 1])
    torch.testing.assert_close(images, plain, atol=1e-5, rtol=0)  # a batch of one rounds otherwise
    assert (run.logs[0].modes[1, 0] == [Mode.REUSE] * 2 + [Mode.COMPUTE] * 2).all()
    assert (run.logs[0].modes[1, 1] == Mode.REUSE).all()


def test_a_walk_without_changes_computes_nothing_and_the_next_one_starts_anew(
    generator: StyleGenerator,
) -> None:
    walk = LatentWalk(generator.synthesis)
    with dc.cached(walk, StyleReuse(), sites=LAYERS) as run:
        walk(mixed(generator, [4, 4, 4]))
        other = mixed(generator, [0, 0])[1:]
        images = walk(other)

    assert (run.logs[0].modes[1:] == Mode.REUSE).all()
    assert (run.logs[1].modes == Mode.COMPUTE).all()
    assert torch.equal(images, walk(other))


def test_the_analysis_finds_what_an_edit_changes(generator: StyleGenerator) -> None:
    edits = mixed(generator, [0, 3, 2, 1], rows=2)
    sampler = WalkSampler(LatentWalk(generator.synthesis), steps=4, sites=LAYERS)
    cases = [edits[:, row] for row in range(2)]

    made = injection_sensitivity(sampler, cases)
    foretold = gradient_sensitivity(sampler, cases, probes=16)

    # The layers before the crossover; a batch of another size rounds otherwise.
    assert (made[:, 1, :3] < 1e-12).all()
    assert (foretold[:, 1, :3] < 1e-12).all()
    assert (made[:, 1, 3] > 1e-9).all()
    assert rank_correlation(foretold, made) > 0.9


@pytest.mark.parametrize("shape", [(2, LAYERS, 16), (0, 1, LAYERS, 16)])
def test_styles_without_edits_are_refused(
    generator: StyleGenerator, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match="edits, rows, layers, D"):
        LatentWalk(generator.synthesis)(torch.zeros(shape))


def test_sites_that_are_no_layers_are_refused(generator: StyleGenerator) -> None:
    walk = LatentWalk(generator.synthesis)
    with (
        dc.cached(walk, StyleReuse(), sites=2),
        pytest.raises(ConfigError, match="one site per layer"),
    ):
        walk(mixed(generator, [0, 1]))
