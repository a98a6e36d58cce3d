"""Sizes in bytes, as people write them."""

from __future__ import annotations

import os
import re
from typing import Any

from ditcache_rl.errors import ConfigError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(text: int | str, *, total: int) -> int:
    """Read a number of bytes.

    Args:
        text: An integer, a size as "512MiB", "1.5 GB", or a share of `total` as "70%".
        total: What a share is of.

    Raises:
        ConfigError: If it cannot be read or is not above zero.
    """
    shown = f"expected bytes as 1048576, '512MiB' or '70%', received {text!r}"
    if isinstance(text, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|[a-z]*)\s*", text.lower())
        if match is None or match[2] not in {"%", *_UNITS}:
            raise ConfigError(shown)
        share = float(match[1])
        if share == float("inf"):
            raise ConfigError(shown)
        if match[2] == "%" and share > 100:
            raise ConfigError(f"{shown}: more than all of it")
        number = int(share / 100 * total) if match[2] == "%" else int(share * _UNITS[match[2]])
    elif isinstance(text, int) and not isinstance(text, bool):
        number = text
    else:
        raise ConfigError(shown)
    if number <= 0:
        raise ConfigError(f"{shown}: it must be above zero")
    return number


def memory_bytes(device: Any) -> int:
    """Return the memory of a torch device in bytes; for the CPU that of the machine."""
    if getattr(device, "type", str(device)) == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
