import pytest
import torch

from benchmarks.mishaps.outcome import same_bits
from ditcache_rl.cache.integrity import array_of, array_over, bytes_of, tensor_over

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 5)], ids=str)
def test_a_tensor_comes_back_from_its_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)

    memory = bytes_of(array_of(tensor)).copy()
    found = tensor_over(array_over(memory, tensor.shape, dtype), dtype)

    assert memory.nbytes == tensor.nbytes
    assert same_bits(found, tensor)


def test_an_array_is_a_view_of_its_tensor() -> None:
    tensor = torch.zeros(3, dtype=torch.bfloat16)

    bytes_of(array_of(tensor))[:] = 0xFF

    assert bool(tensor.isnan().all())
