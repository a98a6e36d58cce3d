import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants

from ditcache_rl.config import find_policy
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference.api import open_policy
from ditcache_rl.policy import Policy, load_policy, save_policy
from ditcache_rl.policy.hub import hub_card
from tests.kit.hub import Hub, serving
from tests.kit.policies import FOUND, same_tables, table_of

REPO = "someone/tiny-policy"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that the real client talks to, and an empty cache."""
    made = Hub()
    with serving(made) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the double speaks LFS
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield made
    huggingface_hub.close_session()


def policy() -> Policy:
    """A policy of numbers that a file holds exactly."""
    return dataclasses.replace(FOUND["climb"], tables={4: table_of(("C11C | C11C", 30.0, 0.5))})


def same(one: Policy, other: Policy) -> bool:
    return one.manifest == other.manifest and same_tables(one.tables, other.tables)


def test_a_policy_goes_to_the_hub_and_comes_back(hub: Hub) -> None:
    address = policy().push_to_hub(REPO, token="hf_x")

    assert address.startswith(f"{hub.address}/{REPO}/commit/")
    assert same(load_policy(REPO), policy())
    assert same(open_policy(REPO), policy()), "what `cached` opens"
    assert hub.asked["PUT"] == 1, "tensors go by LFS"


def test_without_a_network_a_policy_comes_from_the_cache(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy().push_to_hub(REPO, token="hf_x")
    load_policy(REPO)
    asked = hub.asked.total()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert same(load_policy(REPO), policy())
    assert hub.asked.total() == asked
    with pytest.raises(ConfigError, match=r"someone/tiny-polici'.*Did you mean 'someone/tiny-pol"):
        load_policy("someone/tiny-polici")


def test_a_revision_is_the_one_that_is_loaded(hub: Hub) -> None:
    other = dataclasses.replace(
        policy(), manifest=dataclasses.replace(policy().manifest, seed=7, command="again")
    )
    policy().push_to_hub(REPO, token="hf_x")
    other.push_to_hub(REPO, revision="next", token="hf_x")

    assert load_policy(REPO).manifest.seed == 1
    assert load_policy(REPO, revision="next").manifest.seed == 7
    commit = hub.branches[REPO]["main"]
    assert load_policy(REPO, revision=commit).manifest.seed == 1
    with pytest.raises(ConfigError, match=r"revision nowhere: .*(Revision|404)"):
        load_policy(REPO, revision="nowhere")


def test_a_pushed_policy_leaves_nothing_of_the_one_before(hub: Hub) -> None:
    load_policy("shapes-ppo").push_to_hub(REPO, token="hf_x")
    kept_deadlines = set(hub.resolve(REPO, "main")[1])  # type: ignore[index]

    policy().push_to_hub(REPO, token="hf_x")

    found = hub.resolve(REPO, "main")
    assert found is not None
    assert kept_deadlines - set(found[1]) == {"pacer.safetensors"}


def test_of_a_repository_only_files_of_a_policy_are_taken(hub: Hub) -> None:
    policy().push_to_hub(REPO, token="hf_x")
    hub.resolve(REPO, "main")[1]["pickle.bin"] = b"x"  # type: ignore[index]

    folder = find_policy(REPO)

    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "controller.safetensors",
        "manifest.json",
        "metrics.json",
    ]


def test_what_is_too_large_is_refused_before_it_is_downloaded(hub: Hub) -> None:
    policy().push_to_hub(REPO, token="hf_x")
    hub.sizes["controller.safetensors"] = 1 << 40

    with pytest.raises(ConfigError, match=r"at most 16777216 bytes, received controller"):
        load_policy(REPO)

    assert not hub.asked["GET resolve"]


def test_what_is_downloaded_is_the_commit_whose_sizes_were_looked_at(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy().push_to_hub(REPO, token="hf_x")
    real = huggingface_hub.snapshot_download

    def meanwhile(*args: Any, **options: Any) -> Any:
        hub.commit(REPO, "main", {"controller.safetensors": bytes(1 << 25)})
        return real(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub, "snapshot_download", meanwhile)
        assert same(load_policy(REPO), policy())
    with pytest.raises(ConfigError, match="at most 16777216 bytes"):
        load_policy(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load_policy(REPO), policy()), "what was taken last is what the cache has"


def test_nothing_is_downloaded_whose_size_the_hub_does_not_tell(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy().push_to_hub(REPO, token="hf_x")

    def broken(*args: Any, **options: Any) -> Any:
        raise OSError("the Hub is on fire")

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.HfApi, "model_info", broken)
        with pytest.raises(ConfigError, match=r"'someone/tiny-policy' at revision main: .*on fire"):
            load_policy(REPO)
        assert not hub.asked["GET resolve"]

    load_policy(REPO)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", broken)
    assert same(load_policy(REPO), policy())


def test_a_folder_comes_before_a_hub_id_and_a_revision_is_of_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = dataclasses.replace(policy().manifest, seed=9)
    save_policy(dataclasses.replace(policy(), manifest=here), Path(REPO), card="")
    policy().push_to_hub(REPO, token="hf_x")

    assert load_policy(REPO).manifest.seed == 9
    assert load_policy(REPO, revision="main").manifest.seed == 1
    with pytest.raises(ConfigError, match=r"Did you mean 'someone/tiny-policy'"):
        load_policy("someone/tiny-polic")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("shapes-pp", "Did you mean 'shapes-ppo'"),
        ("someone/absent", "received 'someone/absent' at revision main: .*404"),
        ("a/b/c", "expected a folder, the Hub's 'org/name' or one of the shipped policies"),
        (Path("someone/absent"), "expected a folder, the Hub's 'org/name' or one of the shipped"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_names_that_are(
    hub: Hub, source: str | Path, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_policy(source)


def test_a_revision_without_a_hub_id_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 'org/name' beside it, received 'shapes-ppo'"):
        load_policy("shapes-ppo", revision="main")


def test_what_the_hub_refuses_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="repo_id must be like 'org/name', received 'mine'"):
        policy().push_to_hub("mine")
    monkeypatch.setattr(constants, "ENDPOINT", hub.address + "/nowhere")

    with pytest.raises(ConfigError, match=r"takes 'someone/tiny-policy', received: .*online"):
        policy().push_to_hub(REPO, token="hf_x")


def test_the_card_has_what_the_hub_reads() -> None:
    shipped = load_policy("shapes-ppo")

    card: Any = ModelCard(hub_card(shipped, REPO, license="mit", base_model="org/base"))

    facts = card.data.to_dict()
    assert (facts["library_name"], facts["license"]) == ("ditcache-rl", "mit")
    assert facts["base_model"] == "org/base"
    assert "diffusers" in facts["tags"]
    (entry,) = facts["model-index"]
    assert entry["name"] == "tiny-policy"
    (result,) = entry["results"]
    floors = [one.floor_psnr_db for one in shipped.safe[28].values()]
    told = [one["value"] for one in result["metrics"] if one["type"] == "psnr"]
    assert told == pytest.approx([one for one in floors if one == one], abs=1e-4)
    assert f'dc.cached(pipe, "{REPO}", speedup=2.0)' in card.text
    assert shipped.metrics["config"]["pipeline"]["source"] == "builtin:shapes"
    bare: Any = ModelCard(hub_card(shipped, REPO, license="mit"))
    assert "base_model" not in bare.data.to_dict()


def test_the_endpoint_of_the_environment_is_asked(hub: Hub, tmp_path: Path) -> None:
    policy().push_to_hub(REPO, token="hf_x")
    code = f"from ditcache_rl.config import find_policy; print(find_policy({REPO!r}))"
    own = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip().startswith(str(tmp_path / "home"))
    assert same(load_policy(Path(done.stdout.strip())), policy())
