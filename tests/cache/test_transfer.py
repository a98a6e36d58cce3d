import random

import pytest
import torch

from ditcache_rl.cache import Outlook, TieredCache
from ditcache_rl.cache.transfer import CpuCopier
from ditcache_rl.types import EntryKey, Tier
from tests.cache.faulty import LateCopier

KEYS = [EntryKey(0, 0, site, 0) for site in range(4)]


@pytest.mark.parametrize("seed", range(300))
def test_no_read_is_stale_whenever_copies_end(seed: int) -> None:
    rng = random.Random(seed)
    copier = LateCopier(rng)
    cache = TieredCache(256, 640, copier=copier)
    model: dict[EntryKey, float] = {}
    for now in range(25):
        key = rng.choice(KEYS)
        action = rng.randrange(6)
        if action <= 1:
            value = float(rng.randrange(1, 1000))
            tier = rng.choice([Tier.DEVICE, Tier.HOST])
            if cache.put(key, torch.full((16,), value), tier, Outlook(now, now + 1 + key.site)):
                model[key] = value
        elif action == 2:
            cache.prefetch(rng.sample(KEYS, 2))
        elif action == 3:
            cache.discard(key)
            model.pop(key, None)
        elif action == 4:
            copier.tick()
        found = cache.get(key)
        if found is not None:
            assert found.tolist() == [model[key]] * 16
        else:
            model.pop(key, None)
    cache.close()
    assert cache.used_bytes == 0


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(20))
def test_no_read_is_stale_on_a_gpu(seed: int) -> None:
    rng = random.Random(seed)
    device = torch.device("cuda")
    size = 1 << 20
    cache = TieredCache(8 * size, 24 * size, device=device)
    model: dict[EntryKey, float] = {}
    for now in range(200):
        key = rng.choice(KEYS)
        action = rng.randrange(5)
        if action <= 1:
            value = float(rng.randrange(1, 1000))
            tensor = torch.zeros(size, device=device).add_(value)
            tier = rng.choice([Tier.DEVICE, Tier.HOST])
            if cache.put(key, tensor, tier, Outlook(now, now + 1 + key.site)):
                model[key] = value
            del tensor
        elif action == 2:
            cache.prefetch(rng.sample(KEYS, 2))
        elif action == 3:
            cache.discard(key)
            model.pop(key, None)
        found = cache.get(key)
        if found is not None:
            assert bool((found == model[key]).all())
        else:
            model.pop(key, None)
    cache.close()


def test_on_a_cpu_reading_copies_nothing() -> None:
    source = torch.arange(4, dtype=torch.uint8)

    found, ticket = CpuCopier().to_device(source)

    assert found.data_ptr() == source.data_ptr()
    assert ticket.done()
