import torch
from torch import nn

from ditcache_rl.instrument.branches import Branches, CallReader
from ditcache_rl.instrument.calls import rows_of_call

NONE: set[int] = set()


def test_a_branch_is_known_again_by_its_tensor_whatever_the_order() -> None:
    cond, uncond = torch.ones(2, 3), torch.zeros(2, 3)
    branches = Branches()

    first = [branches.numbers("t", c, 2, 1, called=NONE) for c in (cond, uncond)]
    later = [branches.numbers("t", c, 2, 1, called=NONE) for c in (uncond, cond)]

    assert (first, later) == ([[0], [1]], [[1], [0]])


def test_a_batch_holds_the_branches_that_come_alone_later() -> None:
    both = torch.arange(12.0).view(4, 3)
    branches = Branches()

    assert branches.numbers("t", both, 2, 2, called=NONE) == [0, 1]
    assert branches.numbers("t", both.chunk(2)[1], 2, 1, called=NONE) == [1]


def test_equal_embeddings_of_one_step_are_two_branches() -> None:
    branches, one, other = Branches(), torch.ones(1, 3), torch.ones(1, 3)

    first = branches.numbers("t", one, 1, 1, called=NONE)
    second = branches.numbers("t", other, 1, 1, called={0})
    anew = branches.numbers("t", torch.ones(1, 3), 1, 1, called=NONE)

    assert (first, second, anew) == ([0], [1], [0])


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
