"""Learn when a diffusion transformer may reuse its block outputs, and where to keep them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ditcache_rl._announce import announce
from ditcache_rl._version import __version__

if TYPE_CHECKING:
    from ditcache_rl.cache import Memory
    from ditcache_rl.control import Guard
    from ditcache_rl.inference import Run, attach, cached, session, target
    from ditcache_rl.serve import Bandit, Recorder
else:
    _HOME = {
        "Bandit": "serve",
        "Guard": "control",
        "Memory": "cache",
        "Recorder": "serve",
        "Run": "inference",
        "attach": "inference",
        "cached": "inference",
        "session": "inference",
        "target": "inference",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "Bandit",
    "Guard",
    "Memory",
    "Recorder",
    "Run",
    "__version__",
    "attach",
    "cached",
    "session",
    "target",
]

announce()
