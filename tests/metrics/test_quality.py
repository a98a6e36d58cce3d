import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditcache_rl.errors import ShapeError
from ditcache_rl.metrics import (
    Images,
    Metric,
    load_lpips,
    metrics_at_hand,
    psnr_db,
    ssim,
    unrounded_psnr_db,
)


def uniform(*values: float, side: int = 8) -> Tensor:
    """One image of one grey per value: (B, 3, side, side)."""
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None].expand(-1, 3, side, side)


def noise(count: int = 2, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_psnr_is_that_of_the_mean_squared_error_of_each_image() -> None:
    decibels = psnr_db(uniform(0.5, 0.5), uniform(0.6, 0.51))

    # Errors of 0.1 and 0.01: -20 log10 of each.
    np.testing.assert_allclose(decibels, [20.0, 40.0])
    assert decibels.dtype == np.float64


def test_psnr_is_capped_at_60_db() -> None:
    decibels = psnr_db(uniform(0.5, 0.5), uniform(0.5, 0.5005))

    np.testing.assert_array_equal(decibels, [60.0, 60.0])


@pytest.mark.parametrize("off", [0.0, 0.03, 0.003, 0.001])
def test_an_image_of_8_bits_counts_what_it_was_before_it_was_rounded(off: float) -> None:
    """Rounded as its reference, those of the last two lose 1 and 5 dB, and equal ones nothing."""
    whole = noise(4, 64) * 0.8 + 0.1
    drawn = whole + off * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    rounded = (drawn * 255).round() / 255

    decibels = unrounded_psnr_db(rounded, whole)

    np.testing.assert_allclose(decibels, psnr_db(drawn, whole), atol=0.25)


def test_ssim_of_equal_images_is_1() -> None:
    np.testing.assert_allclose(ssim(noise(), noise()), [1.0, 1.0])


def test_ssim_of_two_greys_is_their_luminance_term() -> None:
    # Without variance, SSIM is (2ab + c) / (a^2 + b^2 + c) with c = 0.01^2 (Wang et al., 2004).
    expected = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)

    np.testing.assert_allclose(ssim(uniform(0.2), uniform(0.4)), [expected])


def test_ssim_works_from_7_pixels_on() -> None:
    assert ssim(uniform(0.2, side=7), uniform(0.2, side=7)).shape == (1,)
    with pytest.raises(ShapeError, match=r"at least 7 x 7 pixels .* received 6 x 6"):
        ssim(uniform(0.2, side=6), uniform(0.2, side=6))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_that_is_not_finite_is_as_wrong_as_can_be_and_spoils_no_other(
    value: float,
) -> None:
    images, references = uniform(0.25, 0.5, 1.0).clone(), uniform(0.0, 0.5, 1.0)
    images[[0, 2]] = value

    # Black where it should be white, or the reverse, is a mean squared error of 1.
    np.testing.assert_allclose(psnr_db(images, references), [0.0, 60.0, 0.0])
    scores = ssim(images, references)
    assert scores[1] == 1
    assert (scores[[0, 2]] < 0.01).all()


@pytest.mark.parametrize("metric", [psnr_db, ssim])
def test_tensors_and_arrays_of_any_float_type_give_the_same(metric: Metric) -> None:
    ours = noise().half()
    theirs = noise().flip(0).half()

    wide = metric(ours.numpy().astype(np.float64), theirs.numpy().astype(np.float32))

    np.testing.assert_array_equal(metric(ours, theirs), wide)


@pytest.mark.parametrize("metric", [psnr_db, ssim])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(1), r"one shape, received \(1, 3, 16, 16\) and \(2, 3, 16, 16\)"),
        (noise().permute(0, 2, 3, 1), r"received shape \(2, 16, 16, 3\)"),
        (noise()[0], r"received shape \(3, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "of torch.uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(metric: Metric, images: Images, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        metric(images, noise())


class Distance(nn.Module):
    """Stands in for the network: the mean difference in the range that it works in."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        assert (net, verbose) == ("alex", False)

    def forward(self, ours: Tensor, theirs: Tensor, normalize: bool) -> Tensor:
        assert normalize
        return 2 * (ours - theirs).abs().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def lpips_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pretend that package and torchvision are there; return where weights would lie."""
    url = "https://example.invalid/alexnet-1.pth"
    weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=url))
    contents: dict[str, dict[str, object]] = {"lpips": {"LPIPS": Distance}, "torchvision": {}}
    contents["torchvision.models"] = {"AlexNet_Weights": weights}
    for name, members in contents.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / "alexnet-1.pth"


def test_lpips_is_none_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert load_lpips() is None


def test_lpips_is_none_without_weights_and_nothing_is_fetched(lpips_installed: Path) -> None:
    assert not lpips_installed.exists()

    assert load_lpips() is None
    assert list(metrics_at_hand()) == ["psnr_db", "ssim"]


def test_lpips_gives_a_distance_per_image(lpips_installed: Path) -> None:
    lpips_installed.touch()
    lpips = load_lpips()

    assert lpips is not None
    assert list(metrics_at_hand()) == ["psnr_db", "ssim", "lpips"]
    # 2 * 0.25, in the float32 of the network.
    np.testing.assert_allclose(lpips(uniform(0.5, 0.5), uniform(0.5, 0.75)), [0.0, 0.5], atol=1e-6)
