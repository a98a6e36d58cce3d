from typing import Any

import torch
from torch import nn

from ditcache_rl.instrument.taps import Tap, install, release, tap_of


class Double(Tap):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * self.plain(*args, **kwargs)


def test_a_module_is_tapped_once_and_restored_by_the_last_use() -> None:
    module, x = nn.Linear(2, 2), torch.ones(1, 2)
    plain, before = module(x), dict(vars(module))

    first, second = install(module, Double), install(module, Double)
    assert first is second
    assert torch.equal(module(x), 2 * plain)
    release(first)
    assert torch.equal(module(x), 2 * plain)
    release(second)

    assert torch.equal(module(x), plain)
    assert vars(module) == before


def test_a_forward_that_is_replaced_behind_a_tap_is_used() -> None:
    module = nn.Identity()
    tap = install(module, Double)

    module.forward = lambda x: x + 1  # type: ignore[method-assign, assignment]

    assert module(1) == 4
    release(tap)
    assert module(1) == 2


def test_what_was_compiled_before_stays_and_what_is_compiled_after_too() -> None:
    module = nn.Identity()
    module._compiled_call_impl = compiled = lambda x: x + 10

    tap = install(module, Double)
    assert module(1) == 22
    release(tap)
    assert module.__dict__["_compiled_call_impl"] is compiled

    tap = install(module, Double)
    module._compiled_call_impl = later = lambda x: x + 100
    release(tap)
    assert module.__dict__["_compiled_call_impl"] is later
    assert tap_of(module) is None
