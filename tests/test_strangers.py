"""Files of strangers, hostile or changed at random: what reads them fails in our words only."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from benchmarks.hostility.corpus import CORPUS
from benchmarks.hostility.kinds import KINDS
from benchmarks.hostility.watch import damaged, memory, outcome_of
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import parse_json, parse_tensors
from ditcache_rl.schedules import CostModel, nominal_cost


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "good"
    KINDS["policy"].make(folder)
    KINDS["policy"].use(folder)
    return folder


def test_there_are_sixty_hostile_policies() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_policy_is_refused_in_our_words_and_runs_nothing(
    name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a command would leave its file
    folder = Path(shutil.copytree(good, tmp_path / "policy"))
    CORPUS[name](folder)

    came, said = outcome_of(lambda: KINDS["policy"].use(folder))

    assert (came, said[:1]) != ("read", "")
    assert came == "refused", said
    assert not (tmp_path / "executed").exists()


def test_whatever_a_stranger_changes_only_our_errors_come_of_it() -> None:
    counts, found = damaged(1600, seed=0, seconds=60)

    assert found == []
    assert counts.total() > 800
    assert counts["refused"] > counts.total() / 2
    assert set(counts) == Counter(("refused", "read")).keys()


def test_what_is_executed_is_heard() -> None:
    came, said = outcome_of(lambda: eval("1 + 1"))

    assert came == "executed"
    assert said.startswith(("compile", "exec"))


def test_a_hostile_policy_takes_at_most_three_times_its_size() -> None:
    taken = memory()

    assert taken.keys() == CORPUS.keys()
    assert {name: most for name, most in taken.items() if most > 3} == {}


def test_lists_and_numbers_are_counted_before_they_are_made() -> None:
    for text in ("[" + "[]," * 70_000 + "0]", "[" + "1," * 300_000 + "0]"):
        with pytest.raises(ValueError, match="lists and objects and"):
            parse_json(text)
        with pytest.raises(ValueError, match="lists and objects and"):
            parse_json(text.encode())
    assert len(parse_json("[" + "[]," * 60_000 + "0]")) == 60_001


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"])
def test_bytes_are_read_as_utf8_alone(encoding: str) -> None:
    with pytest.raises(ValueError, match=r"utf-8|BOM|Expecting"):
        parse_json('{"a": 1}'.encode(encoding))
    assert parse_json('{"a": "ä"}'.encode()) == {"a": "ä"}


@pytest.mark.parametrize("place", [0, 70_000, 199_999])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_an_infinite_number_is_found_wherever_it_lies(place: int, kind: torch.dtype) -> None:
    tensor = torch.zeros(2, 100_000, dtype=kind)
    tensor.view(-1)[place] = -torch.inf

    with pytest.raises(ArtifactError, match="x must be finite"):
        parse_tensors(save({"x": tensor}), "file")
    assert parse_tensors(save({"x": torch.tensor(torch.nan)}), "file")


@pytest.mark.parametrize("value", [None, "", "1", [], {}, True])
def test_a_profile_of_something_else_than_numbers_is_refused(value: object) -> None:
    raw = json.loads(json.dumps(nominal_cost(4, 2).to_dict()))

    with pytest.raises(ConfigError, match="cost model: expected numbers"):
        CostModel.from_dict(raw | {"site_s": value})
