import itertools

import pytest
import torch

from ditcache_rl.shapes import GUIDED_SEQUENCE_LENGTH, MAX_SEQUENCE_LENGTH
from ditcache_rl.shapes.recipe.components import build_tokenizer, vocabulary
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES, MOST_BEHIND, caption, sample_attributes

ONE = [caption(row) for row in itertools.product(*(range(len(v)) for v in ATTRIBUTES.values()))]
SEVERAL = [
    caption(row)
    for row in sample_attributes(
        2000, torch.Generator().manual_seed(0), behind=MOST_BEHIND
    ).tolist()
]


def test_vocabulary_has_no_word_twice() -> None:
    assert len(set(vocabulary())) == len(vocabulary())


@pytest.mark.parametrize("captions", [ONE, SEVERAL])
def test_every_caption_survives_the_tokenizer_without_unknown_words(captions: list[str]) -> None:
    tokenizer = build_tokenizer()

    tokens = tokenizer(captions)["input_ids"]

    assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == captions
    assert not any(tokenizer.unk_token_id in row for row in tokens)


@pytest.mark.parametrize(
    ("captions", "length"), [(ONE, MAX_SEQUENCE_LENGTH), (SEVERAL, GUIDED_SEQUENCE_LENGTH)]
)
def test_the_longest_caption_fits_with_its_end_token(captions: list[str], length: int) -> None:
    tokenizer = build_tokenizer(length)

    tokens = tokenizer(captions)["input_ids"]

    assert max(len(row) for row in tokens) == tokenizer.model_max_length == length
    assert {row[-1] for row in tokens} == {tokenizer.eos_token_id}


def test_a_word_that_no_caption_has_is_unknown() -> None:
    tokenizer = build_tokenizer()

    assert tokenizer("zebra")["input_ids"] == [tokenizer.unk_token_id, tokenizer.eos_token_id]
