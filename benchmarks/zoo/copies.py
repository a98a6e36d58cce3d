"""A copy of an attached pipeline is plain, whichever way it is made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.rows import PerRow, Unit
from ditcache_rl.cache import TieredCache
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.taps import taps_of


def copies_plain(unit: Unit, schedule: tuple[int, ...], seeds: list[int], plain: Tensor) -> bool:
    """Tell whether copies of an attached pipeline are plain and draw as it did before.

    Args:
        unit: Is attached meanwhile.
        schedule: Modes of the steps.
        seeds: Of the rows.
        plain: What they look like.
    """
    pipe, ways = unit.pipe, [way for way in (copy.copy, copy.deepcopy, _pickled) if _can(way, unit)]
    kind, attributes = type(pipe), set(vars(pipe))
    with BlockRunner(pipe, PerRow([schedule]), TieredCache()):
        copies = [way(pipe) for way in ways]
        drawn = [unit.draw(seeds, False, one) for one in copies]
    apart = [
        module
        for one in copies[1:]
        for model in denoisers_of(one).values()
        for module in model.modules()
    ]
    return (
        all(type(one) is kind and set(vars(one)) == attributes for one in copies)
        and not any(map(taps_of, apart))
        and all(torch.equal(image, plain) for image in drawn)
    )


def _pickled(pipe: Any) -> Any:
    return pickle.loads(pickle.dumps(pipe))


def _can(way: Callable[[Any], Any], unit: Unit) -> bool:
    """Tell whether the plain pipeline can be copied like that."""
    try:
        way(unit.pipe)
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError):
        return False
    return True
