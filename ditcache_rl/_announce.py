"""Make the environments known to Gymnasium once it is there, and import nothing for that before.

Gymnasium asks nobody for environments any more, and importing it takes longer than all of this
package: so whoever imports both gets the environments, in either order, and whoever runs a policy
waits for nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_GYMNASIUM = "gymnasium"


def announce() -> None:
    """Register the shipped environments, now or when Gymnasium is imported."""
    if sys.modules.get(_GYMNASIUM) is not None:  # None forbids it
        _register()
    else:
        sys.meta_path.insert(0, _Announcer())


def _register() -> None:
    importlib.import_module("ditcache_rl.rl.register").register_envs()


class _Announcer(MetaPathFinder):
    """Waits for one import, and goes; who only asks whether there is such a module is told so."""

    _asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Have others find the module, and register once it has been run."""
        if fullname != _GYMNASIUM or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            run(module)
            _register()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
