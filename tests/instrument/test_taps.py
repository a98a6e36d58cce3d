import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ditcache_rl.instrument.taps import Tap, install, is_compiled, release, taps_of


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
    assert not taps_of(module)


class Inner(Tap):
    depth = 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs) + 1


class Own(Inner):
    pass


@pytest.mark.parametrize("came", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("went", list(itertools.permutations(range(3))))
def test_taps_stand_by_depth_in_whatever_order_they_come_and_go(
    came: tuple[int, ...], went: tuple[int, ...]
) -> None:
    module = nn.Identity()
    module._compiled_call_impl = compiled = lambda x: x + 10
    kinds = [Double, Inner, Own]

    taps = {index: install(module, kinds[index]) for index in came}
    assert module(1) == 2 * (1 + 10 + 1 + 1)
    left = {0, 1, 2}
    for index in went:
        assert is_compiled(module)
        release(taps[index])
        left.remove(index)
        assert module(1) == (2 if 0 in left else 1) * (1 + 10 + len(left - {0}))

    assert module.__dict__["_compiled_call_impl"] is compiled


class Whole(nn.Linear):
    """A module whose author hands everything on to copies."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("compiled", [None, abs])
def test_a_tap_is_copied_as_what_stands_behind_it(
    copied: Callable[[Any], Any], compiled: Any
) -> None:
    module = Whole(2, 2)
    if compiled is not None:
        module._compiled_call_impl = compiled
    install(module, Double)
    install(module, Inner)

    other = copied(module)

    assert vars(other)["_compiled_call_impl"] is compiled
    assert not is_compiled(other) or compiled
