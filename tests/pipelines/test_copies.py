import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.config import PipelineConfig
from ditcache_rl.control import EveryK
from ditcache_rl.instrument import is_attached
from ditcache_rl.instrument.taps import taps_of
from ditcache_rl.pipelines import open_shared, session, twin
from tests.kit.pipelines import build_tiny_pipe
from tests.kit.pipelines import draw as drawn


def pointers(pipe: Any) -> list[int]:
    return [parameter.data_ptr() for parameter in pipe.transformer.parameters()]


def test_a_copy_takes_no_weights_of_its_own(tiny_pipe: Any) -> None:
    assert pointers(session(tiny_pipe)) == pointers(twin(tiny_pipe)) == pointers(tiny_pipe)


def pickled(pipe: Any) -> Any:
    return pickle.loads(pickle.dumps(pipe))


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickled, session, twin]


def draw(pipe: Any) -> Any:
    return drawn(pipe, steps=4)


@pytest.mark.parametrize("take", COPIES)
def test_a_copy_of_an_attached_pipeline_is_plain(take: Callable[[Any], Any]) -> None:
    pipe = build_tiny_pipe()
    kind, plain = type(pipe), draw(pipe)

    with dc.cached(pipe, EveryK(2)) as run, dc.cached(pipe, EveryK(3)):
        copied = take(pipe)
        assert type(copied) is kind
        assert vars(copied).keys() == vars(take(copied)).keys()
        assert not is_attached(copied)
        assert is_attached(pipe)
        assert torch.equal(draw(copied), plain)
        assert not run.logs
    assert torch.equal(draw(copied), plain)
    assert not any(map(taps_of, copied.transformer.modules()))


@pytest.mark.parametrize("leaves", ["before", "while", "after"])
@pytest.mark.parametrize("take", COPIES)
def test_a_copy_is_attached_by_itself(take: Callable[[Any], Any], leaves: str) -> None:
    pipe = build_tiny_pipe()
    plain, kind, names = draw(pipe), type(pipe), set(vars(pipe))
    with dc.cached(pipe, EveryK(3)):
        third = draw(pipe)
    original = dc.attach(pipe, EveryK(3))
    copied = take(pipe)
    if leaves == "before":
        original.detach()

    with dc.cached(copied, EveryK(2)) as run:
        if leaves == "while":
            original.detach()
        half = draw(copied)
        assert torch.equal(draw(pipe), third if leaves == "after" else plain)
        assert len(run.logs) == 1
    original.detach()

    assert not torch.equal(half, plain)
    for left in (pipe, copied):
        assert torch.equal(draw(left), plain)
        assert (type(left), set(vars(left))) == (kind, names)
        assert not any(map(taps_of, left.transformer.modules()))


def test_the_same_pipeline_is_opened_once(tiny_folder: Path) -> None:
    config = PipelineConfig(str(tiny_folder), device="cpu")

    assert open_shared(config) is open_shared(config)
