"""Learn when a diffusion transformer may reuse its block outputs, and where to keep them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ditcache_rl.gan import LatentWalk, StyleReuse
    from ditcache_rl.inference import Bandit, Run, attach, cached, session
else:
    _HOME = {
        "Bandit": "inference",
        "LatentWalk": "gan",
        "Run": "inference",
        "StyleReuse": "gan",
        "attach": "inference",
        "cached": "inference",
        "session": "inference",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "Bandit",
    "LatentWalk",
    "Run",
    "StyleReuse",
    "__version__",
    "attach",
    "cached",
    "session",
]
