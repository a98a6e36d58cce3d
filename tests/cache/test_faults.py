from pathlib import Path

import pytest
import torch

from ditcache_rl.cache import TieredCache, resolve_caps
from ditcache_rl.errors import ConfigError


@pytest.mark.parametrize("name", ["zero\0byte", "n" * 300])
def test_a_name_that_no_directory_can_have_is_refused_clearly(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name

    with pytest.raises(ConfigError, match="cache_dir"):
        TieredCache(None, None, 4096, cache_dir=folder)
    with pytest.raises(ConfigError, match="cache_dir"):
        resolve_caps(torch.device("cpu"), disk_bytes=4096, cache_dir=folder)
