import torch

from ditcache_rl.cache.transfer import CpuCopier


def test_on_a_cpu_reading_copies_nothing() -> None:
    source = torch.arange(4, dtype=torch.uint8)

    found, ticket = CpuCopier().to_device(source)

    assert found.data_ptr() == source.data_ptr()
    assert ticket.done()
