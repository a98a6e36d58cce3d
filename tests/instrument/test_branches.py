import pytest
import torch
from torch import nn

from ditcache_rl.instrument.branches import Branches, CallReader
from ditcache_rl.instrument.calls import rows_of_call

LATENTS = torch.arange(8.0).view(4, 2)


def test_a_branch_is_known_again_by_its_tensor_whatever_the_order() -> None:
    cond, uncond = torch.ones(2, 3), torch.zeros(2, 3)
    branches = Branches()

    first = [branches.numbers("t", c, LATENTS[:2], 2) for c in (cond, uncond)]
    branches.begin_step()
    later = [branches.numbers("t", c, LATENTS[:2], 2) for c in (uncond, cond)]

    assert (first, later) == ([[0], [1]], [[1], [0]])
    assert not branches.repeated


def test_a_batch_holds_the_branches_that_come_alone_later() -> None:
    both = torch.arange(12.0).view(4, 3)
    branches = Branches()

    assert branches.numbers("t", both, LATENTS, 2) == [0, 1]
    branches.begin_step()
    assert branches.numbers("t", both.chunk(2)[1], LATENTS[:2], 2) == [1]
    assert branches.called == 1
    assert not branches.repeated


def test_equal_embeddings_of_one_step_and_one_image_are_two_branches() -> None:
    branches, one, other = Branches(), torch.ones(1, 3), torch.ones(1, 3)

    first = branches.numbers("t", one, LATENTS[:1], 1)
    second = branches.numbers("t", other, LATENTS[:1].clone(), 1)
    branches.begin_step()
    anew = branches.numbers("t", torch.ones(1, 3), LATENTS[:1], 1)

    assert (first, second, anew) == ([0], [1], [0])
    assert not branches.repeated


@pytest.mark.parametrize("anew", [False, True])
def test_a_branch_that_comes_twice_in_a_step_is_repeated_from_then_on(anew: bool) -> None:
    branches, one, other = Branches(), torch.ones(1, 3), torch.zeros(1, 3)

    found = []
    for _ in range(2):
        branches.begin_step()
        for window in LATENTS[:, None]:
            found.append(branches.numbers("t", one.clone() if anew else one, window, 1))
        found.append(branches.numbers("t", other, LATENTS[:1], 1))

    assert found == 2 * [[0], [0], [0], [0], [1]]
    assert branches.repeated == {0}
    branches.clear()
    assert not branches.repeated


def test_arguments_that_switch_layers_are_part_of_the_branch() -> None:
    class Denoiser(nn.Module):
        def forward(self, hidden_states, timestep, encoder_hidden_states, skip_layers=None): ...  # type: ignore[no-untyped-def]

    reader, x = CallReader(Denoiser()), torch.zeros(1, 2)

    plain = reader.read((x, 3, x), {"return_dict": False})
    skipping = reader.read((x, 3), {"encoder_hidden_states": x, "skip_layers": [1]})

    assert plain.switches == ()
    assert skipping.switches == (("skip_layers", (1,)),)
    assert plain.conditioning is skipping.conditioning is x


def test_a_call_tells_its_samples() -> None:
    class Pipe:
        def __call__(self, prompt=None, height=None, num_images_per_prompt=1): ...  # type: ignore[no-untyped-def]

    plain = Pipe.__call__
    assert rows_of_call(plain, ("one",), {}) == 1
    assert rows_of_call(plain, (["one", "two"], 64), {"num_images_per_prompt": 3}) == 6
    assert rows_of_call(plain, (), {"generator": [torch.Generator()] * 4}) == 4
    assert rows_of_call(plain, (), {"prompt_embeds": torch.zeros(5, 2, 3)}) == 5
    assert rows_of_call(plain, (), {"latents": torch.zeros(3, 2)}) == 3
    assert rows_of_call(plain, (), {}) is None
