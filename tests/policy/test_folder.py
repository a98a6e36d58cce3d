import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ditcache_rl.schedules.plan import Plan
from safetensors.torch import load_file, save_file

from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.errors import ArtifactError
from ditcache_rl.policy import Manifest, Policy, load_policy, save_policy
from ditcache_rl.types import Tier

SITES, STEPS = 2, 4
ACTIONS = ActionSpace.of(SITES, (Tier.DEVICE, Tier.DROP))
Edit = Callable[[dict[str, Any]], Any]
TensorEdit = Callable[[dict[str, torch.Tensor]], Any]


def make_policy(sites: int = SITES) -> Policy:
    """Build a policy as training would: a random network, and plans for some of the budgets."""
    generator = torch.Generator().manual_seed(0)
    actions = ActionSpace.of(sites, (Tier.DEVICE, Tier.DROP))
    network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    plan = Plan.empty(STEPS * sites, STEPS)
    plan.patterns[[sites, 2 * sites, 4 * sites]] = [0, 1, 2, 3], [0, 1, 0, 2], [0, 0, 0, 0]
    plan.quality[sites] = 20.5, 0.5
    if sites == 1:
        plan.weights[1, 1] = 1.5, -0.5, 0.0
    manifest = Manifest(
        env_id="ditcache/test-v0",
        env_sha256="0" * 64,
        feature_schema=schema_hash(actions.schema()),
        sites=sites,
        blocks="",
        tiers=["device", "drop"],
        model={"class": "FluxTransformer2DModel", "config": "1", "weights": "2"},
        scheduler={"class": "FlowMatchEulerDiscreteScheduler", "config": "3"},
        call={"height": 64, "width": 64, "flag": True, "name": None},
        steps=[STEPS],
        adaptive={str(STEPS): [2, 4]},
        adaptive_tradeoff=False,
        sigmas={str(STEPS): [1.0, 0.75, 0.5, 0.25, 0]},
        profile={"fixed_s": 0.5, "site_s": 1},
        reward={"psnr": 1.0, "ssim": 1},
        seed=3,
        command="train.py",
        machine={"cpu": "one", "cores": 2},
        versions={"torch": "2"},
    )
    safe = plan._replace(patterns=plan.patterns[:, [0, 3, 2, 1]])
    return Policy(
        manifest, network, {STEPS: plan}, {STEPS: safe}, {"gain_db": 0.5, "unknown": None}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "good"
    save_policy(make_policy(), folder, card="# A policy\n")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "policy"))


def edit_manifest(folder: Path, edit: Edit) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def edit_tensors(folder: Path, edit: TensorEdit) -> None:
    """Change tensors and sign them again, so that the digest does not hide the damage."""
    path = folder / "controller.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    sign(folder)


def sign(folder: Path) -> None:
    digest = hashlib.sha256((folder / "controller.safetensors").read_bytes()).hexdigest()
    edit_manifest(folder, lambda manifest: manifest.update(tensors_sha256=digest))


def complaint(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_policy(folder)
    return str(caught.value)


def test_a_policy_comes_back_as_it_was(saved: Path) -> None:
    policy = make_policy()

    loaded = load_policy(saved)

    digest = hashlib.sha256((saved / "controller.safetensors").read_bytes()).hexdigest()
    assert loaded.manifest == dataclasses.replace(policy.manifest, tensors_sha256=digest)
    assert loaded.metrics == policy.metrics
    for found, made in ((loaded.plans, policy.plans), (loaded.safe, policy.safe)):
        assert found.keys() == made.keys()
        assert np.array_equal(found[STEPS].patterns, made[STEPS].patterns)
        np.testing.assert_array_equal(found[STEPS].quality, made[STEPS].quality)
    assert loaded.plans[STEPS].row(5).patterns.tolist() == [0, 1, 0, 2]
    assert loaded.manifest.actions.tiers == ACTIONS.tiers
    assert np.array_equal(loaded.manifest.actions.patterns, ACTIONS.patterns)


def test_fitted_weights_come_back_and_must_be_whole(tmp_path: Path) -> None:
    policy, folder = make_policy(sites=1), tmp_path / "policy"
    save_policy(policy, folder, card="# A policy\n")

    np.testing.assert_array_equal(
        load_policy(folder).plans[STEPS].weights, policy.plans[STEPS].weights
    )
    edit_tensors(folder, lambda tensors: tensors[WEIGHTS][1, 1, 2:].fill_(torch.nan))
    assert f"{WEIGHTS} must be finite or nan as a whole" in complaint(folder)


def test_the_loaded_network_says_the_same_bit_for_bit(saved: Path) -> None:
    observation = torch.randn(64, len(ACTIONS.schema()), generator=torch.Generator().manual_seed(1))

    network = load_policy(saved).network

    assert torch.equal(network(observation), make_policy().network(observation))
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_folder_holds_four_files_and_no_pickle(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "manifest.json",
        "controller.safetensors",
        "metrics.json",
        "README.md",
    }
    assert (saved / "README.md").read_text() == "# A policy\n"


def test_a_policy_does_not_overwrite_another(saved: Path) -> None:
    with pytest.raises(FileExistsError):
        save_policy(make_policy(), saved, card="")


@pytest.mark.parametrize("name", ["manifest.json", "controller.safetensors", "metrics.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    assert str(folder / name) in complaint(folder)


@pytest.mark.parametrize("place", [0, 8, 200, -1])
def test_a_flipped_bit_of_the_tensors_is_noticed(folder: Path, place: int) -> None:
    path = folder / "controller.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    message = complaint(folder)

    assert str(path) in message
    assert "sha256" in message


@pytest.mark.parametrize("size", [0, 7, 100])
def test_tensors_that_are_no_tensors_are_noticed_even_when_signed(folder: Path, size: int) -> None:
    path = folder / "controller.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    sign(folder)

    assert str(path) in complaint(folder)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda m: m.update(site=1), "unknown field 'site'. Did you mean 'sites'?"),
        (lambda m: m.pop("reward"), "expected a field 'reward', received none"),
        (lambda m: m.update(schema_version=1), "expected schema_version 4, received 1"),
        (lambda m: m.update(schema_version=None), "expected schema_version 4, received None"),
        (lambda m: m.update(feature_schema="0" * 16), "feature_schema"),
        (lambda m: m.update(sites=0), "sites must be"),
        (lambda m: m.update(sites=10**9), "sites must be"),
        (lambda m: m.update(sites="2"), "sites must be"),
        (lambda m: m.update(sites=True), "sites must be"),
        (lambda m: m.update(sites=1), "feature_schema"),
        (lambda m: m.update(tiers=[]), "tiers must be"),
        (lambda m: m.update(tiers=["moon"]), "tiers must be"),
        (lambda m: m.update(tiers=[["device"]]), "tiers must be"),
        (lambda m: m.update(tiers=5), "tiers must be"),
        (lambda m: m.update(tiers=None), "tiers must be"),
        (lambda m: m.update(steps=[0]), "steps must be"),
        (lambda m: m.update(steps=[10**9]), "steps must be"),
        (lambda m: m.update(steps=4), "steps must be"),
        (lambda m: m.update(steps=[4.0]), "steps must be"),
        (lambda m: m.update(model=None), "model must be"),
        (lambda m: m.update(model={"class": 1}), "model must be"),
        (lambda m: m.update(adaptive={"4": 2}), "adaptive must be"),
        (lambda m: m.update(adaptive_tradeoff="no"), "adaptive_tradeoff must be"),
        (lambda m: m.update(profile={"fixed_s": "fast"}), "profile must be"),
        (
            lambda m: m["sigmas"].update({"4": [1.0, 0.0]}),
            "sigmas must have 5 numbers for 4 steps, received 2",
        ),
        (lambda m: m["sigmas"].clear(), "for 4 steps, received 0"),
        (lambda m: m.update(reward=[1.0]), "reward must be"),
        (lambda m: m.update(seed=1.5), "seed must be"),
        (lambda m: m.update(env_id=7), "env_id must be"),
        (lambda m: m.update(tensors_sha256=None), "tensors_sha256 must be"),
    ],
)
def test_damage_to_the_manifest_names_file_and_field(
    folder: Path, edit: Edit, expected: str
) -> None:
    edit_manifest(folder, edit)

    message = complaint(folder)

    assert message.startswith(f"{folder / 'manifest.json'}: ")
    assert expected in message


@pytest.mark.parametrize("name", ["manifest.json", "metrics.json"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "expected a JSON object"),
        ("7", "expected a JSON object"),
        ('{"sites": 1, "sites": 2}', "duplicate keys"),
        ('{"reward": {"psnr": 1, "psnr": 2}}', "duplicate keys"),
        ('{"reward": NaN}', "NaN"),
        ('{"reward": -Infinity}', "-Infinity"),
        ('{"call": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ('{"call": "' + "x" * (1 << 18) + '"}', "expected at most 262144 bytes"),
    ],
)
def test_damage_to_json_names_file_and_reason(
    folder: Path, name: str, text: str, expected: str
) -> None:
    (folder / name).write_text(text)

    message = complaint(folder)

    assert message.startswith(f"{folder / name}: ")
    assert expected in message


def test_bytes_that_are_no_text_are_named(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")

    assert str(folder / "manifest.json") in complaint(folder)


def test_tensors_beyond_the_size_limit_are_not_read(folder: Path) -> None:
    path = folder / "controller.safetensors"
    with path.open("r+b") as file:
        file.truncate((1 << 24) + 1)

    assert complaint(folder).startswith(f"{path}: expected at most {1 << 24} bytes")


HEAD = "network.head.weight"
PATTERNS, QUALITY, WEIGHTS = (f"plan.{STEPS}.{name}" for name in ("patterns", "quality", "weights"))


def overwrite(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> TensorEdit:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


def filled(name: str, place: tuple[int, int], value: float) -> TensorEdit:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][place] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (overwrite(HEAD, lambda t: t[:-1]), f"{HEAD} must have shape"),
        (overwrite(PATTERNS, lambda t: t[:, 1:]), f"{PATTERNS} must have shape"),
        (overwrite(QUALITY, lambda t: t[1:]), f"{QUALITY} must have shape"),
        (overwrite(WEIGHTS, lambda t: t[..., :1]), f"{WEIGHTS} must have shape"),
        (overwrite(WEIGHTS, lambda t: torch.full_like(t, torch.inf)), f"{WEIGHTS} must be finite"),
        (overwrite(WEIGHTS, torch.ones_like), "nan where there is more than one site"),
        (overwrite(HEAD, torch.Tensor.half), f"{HEAD} must be torch.float32"),
        (overwrite(PATTERNS, torch.Tensor.float), f"{PATTERNS} must be torch.int32"),
        (overwrite(HEAD, lambda t: t / 0), f"{HEAD} must be finite"),
        (filled(PATTERNS, (2, 1), len(ACTIONS.patterns)), f"{PATTERNS} must lie in"),
        (filled(PATTERNS, (2, 1), -2), f"{PATTERNS} must lie in"),
        (filled(PATTERNS, (2, 1), -1), f"{PATTERNS} must"),
        (filled(PATTERNS, (2, 0), 1), f"{PATTERNS} must"),
        (overwrite(PATTERNS, lambda t: t * 0 - 1), f"{PATTERNS} must"),
        (lambda tensors: tensors.pop(HEAD), "expected tensors"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "expected tensors"),
    ],
)
def test_damage_to_the_tensors_names_file_and_tensor(
    folder: Path, edit: TensorEdit, expected: str
) -> None:
    edit_tensors(folder, edit)

    message = complaint(folder)

    assert message.startswith(f"{folder / 'controller.safetensors'}: ")
    assert expected in message


def test_metrics_must_be_finite_to_be_written(tmp_path: Path) -> None:
    policy = dataclasses.replace(make_policy(), metrics={"gain_db": float("nan")})

    with pytest.raises(ValueError, match="JSON"):
        save_policy(policy, tmp_path / "policy", card="")

    assert not (tmp_path / "policy" / "manifest.json").exists(), "the manifest is written last"
