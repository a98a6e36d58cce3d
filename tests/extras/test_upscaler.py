from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ditcache_rl.errors import ArtifactError
from ditcache_rl.extras.upscaler import Upscaler, bilinear, load_upscaler, save_upscaler

COARSE = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)


def test_untrained_it_is_bilinear() -> None:
    assert torch.equal(Upscaler(4)(COARSE, SIGMA), bilinear(COARSE))


def test_a_file_gives_back_what_was_saved_in_half_precision(tmp_path: Path) -> None:
    net, file = Upscaler(4), tmp_path / "upscaler.safetensors"
    torch.nn.init.normal_(net.last.weight, generator=torch.Generator().manual_seed(1))

    save_upscaler(net, file, metadata={"env": "ditcache/shapes-v0"})
    read = load_upscaler(file)(COARSE, SIGMA)

    with torch.no_grad():
        expected = net.half().float()(COARSE, SIGMA)
    assert torch.equal(read, expected)
    assert not torch.equal(read, bilinear(COARSE))


@pytest.mark.parametrize("content", ["none", "text", "other weights"])
def test_what_is_no_upscaler_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "upscaler.safetensors"
    if content == "text":
        file.write_text("hello")
    if content == "other weights":
        save_file({"weight": torch.zeros(3)}, file)

    with pytest.raises(ArtifactError, match="expected the weights of an upscaler"):
        load_upscaler(file)


@pytest.mark.parametrize("shape", [(64,), (64, 0, 3, 3), (64, 1 << 40, 0, 3), (0,)])
def test_an_upscaler_of_no_sane_shape_is_refused_before_it_is_made(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    file = tmp_path / "upscaler.safetensors"
    save_file({"first.weight": torch.zeros(shape)}, file)

    with pytest.raises(ArtifactError, match=r"upscaler\.safetensors: expected the weights of an"):
        load_upscaler(file)
