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
from safetensors.torch import load_file, save_file

from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.errors import ArtifactError
from ditcache_rl.policy import Manifest, NetworkUse, Policy, load_policy, save_policy
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored, nominal_cost
from ditcache_rl.types import HISTORY, Mode, Tier
from tests.kit.policies import same_tables

SITES, STEPS = 2, 4
ACTIONS = ActionSpace.of(SITES, (Tier.DEVICE, Tier.DROP))
Edit = Callable[[dict[str, Any]], Any]
TensorEdit = Callable[[dict[str, torch.Tensor]], Any]


def table_of(*patterns: list[int], sites: int, scored: bool) -> ScheduleTable:
    """A table of schedules by their step patterns; of the first one more is known."""
    modes = [ActionSpace.of(sites, ()).patterns[numbers] for numbers in patterns]
    coefficients = None
    if sites == 1:
        coefficients = np.full((STEPS, HISTORY), np.nan)
        coefficients[1] = 1.5, -0.5, 0.0
    first = Scored(Schedule(modes[0], coefficients), 20.5, 0.5, 18.25, 0.25)
    rest = map(Schedule, modes[1:])
    levels = np.linspace(1, 0, STEPS + 1)
    return ScheduleTable.of(levels, [first if scored else first.schedule, *rest])


def make_policy(sites: int = SITES) -> Policy:
    """Build a policy as training would: a random network, and a few schedules."""
    generator = torch.Generator().manual_seed(0)
    actions = ActionSpace.of(sites, (Tier.DEVICE, Tier.DROP))
    network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    manifest = Manifest(
        env_id="ditcache/test-v0",
        env_sha256="0" * 64,
        sites=sites,
        blocks="",
        model={"class": "FluxTransformer2DModel", "config_sha256": "1", "weights": "2"},
        scheduler={"class": "FlowMatchEulerDiscreteScheduler", "config_sha256": "3"},
        call={"height": 64, "width": 64, "flag": True, "name": None},
        profile=nominal_cost(STEPS, sites).to_dict(),
        objective={"psnr": 1.0, "ssim": 1},
        prompts=8,
        evaluations=40,
        seed=3,
        command="train.py",
        machine={"cpu": "one", "cores": 2},
        versions={"torch": "2"},
        network=NetworkUse(
            feature_schema=schema_hash(actions.schema()),
            tiers=["device", "drop"],
            adaptive={str(STEPS): [2, 4]},
            adaptive_tradeoff=False,
        ),
    )
    table = table_of([0, 1, 2, 3], [0, 1, 0, 2], [0, 0, 0, 0], sites=sites, scored=True)
    safe = table_of([0, 3, 2, 1], [0, 2, 0, 1], [0, 0, 0, 0], sites=sites, scored=False)
    return Policy(
        manifest, {STEPS: table}, {STEPS: safe}, network, {"gain_db": 0.5, "unknown": None}
    )


def without_network(policy: Policy) -> Policy:
    """Leave the schedules alone, some of which no network could follow."""
    (table,) = policy.tables.values()
    mixed = Schedule.from_text("CR11 | CC2R")
    tables = {STEPS: table.with_lines({mixed.computes: Scored(mixed)})}
    manifest = dataclasses.replace(policy.manifest, network=None)
    return dataclasses.replace(policy, manifest=manifest, tables=tables, network=None)


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

    assert loaded.manifest == policy.manifest
    assert loaded.metrics == policy.metrics
    assert same_tables(loaded.tables, policy.tables)
    assert same_tables(loaded.safe, policy.safe)
    assert loaded.steps == [STEPS]
    assert loaded.tables[STEPS].within(5).text == "CRC1 | CRC1"
    assert loaded.manifest.actions.tiers == ACTIONS.tiers
    assert np.array_equal(loaded.manifest.actions.patterns, ACTIONS.patterns)


def test_a_policy_without_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    policy = without_network(make_policy())
    save_policy(policy, tmp_path / "policy", card="# A policy\n")

    loaded = load_policy(tmp_path / "policy")

    assert loaded.manifest == policy.manifest
    assert loaded.network is None
    assert same_tables(loaded.tables, policy.tables)
    assert same_tables(loaded.safe, policy.safe)


def test_tables_come_back_in_their_order(tmp_path: Path) -> None:
    levels = np.linspace(1, 0, 3)
    short = ScheduleTable.of(levels, [Schedule.from_text("C1 | C1")])
    made = make_policy()
    policy = dataclasses.replace(made, tables={**made.tables, 2: short})
    save_policy(policy, tmp_path / "policy", card="")

    loaded = load_policy(tmp_path / "policy")

    assert (loaded.steps, list(loaded.safe)) == ([STEPS, 2], [STEPS])
    assert same_tables(loaded.tables, policy.tables)


def test_tiers_come_back_and_must_be_some(tmp_path: Path) -> None:
    tiers = np.array([[0, 1], [3, 3]], dtype=np.int8)
    placed = dataclasses.replace(Schedule.from_text("C1 | C1"), tiers=tiers)
    bare = Schedule.from_text("CC | CC")
    made, folder = make_policy(), tmp_path / "policy"
    short = ScheduleTable.of(np.linspace(1, 0, 3), [placed, bare])
    save_policy(dataclasses.replace(made, tables={**made.tables, 2: short}), folder, card="")

    loaded = load_policy(folder).tables[2]

    assert same_tables({2: loaded}, {2: short})
    assert loaded[4].schedule.tiers is None
    edit_tensors(folder, lambda tensors: tensors["table.2.tiers"][0, 0].fill_(7))
    assert "table.2: expected tiers in [0, 3] of shape (2, 2)" in complaint(folder)


def test_fitted_coefficients_come_back_and_must_be_whole(tmp_path: Path) -> None:
    policy, folder = make_policy(sites=1), tmp_path / "policy"
    save_policy(policy, folder, card="# A policy\n")

    loaded = load_policy(folder)

    assert same_tables(loaded.tables, policy.tables)
    assert loaded.tables[STEPS][1].schedule.coefficients is not None
    edit_tensors(folder, lambda tensors: tensors[COEFFICIENTS][0, 1, 2:].fill_(torch.nan))
    assert f"table.{STEPS}: coefficients must be finite or nan as a whole" in complaint(folder)


def test_the_loaded_network_says_the_same_bit_for_bit(saved: Path) -> None:
    observation = torch.randn(64, len(ACTIONS.schema()), generator=torch.Generator().manual_seed(1))

    network, made = load_policy(saved).network, make_policy().network

    assert network is not None
    assert made is not None
    assert torch.equal(network(observation), made(observation))
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("widths", [(8,), (16, 8, 4)])
@pytest.mark.parametrize("reads_all", [False, True])
def test_a_network_of_other_layers_comes_back_as_it_was(
    widths: tuple[int, ...], reads_all: bool, tmp_path: Path
) -> None:
    names = len(ACTIONS.schema())
    features = names if reads_all else names - ACTIONS.logits
    network = PolicyNetwork(features, ACTIONS.logits, widths)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape)
    save_policy(dataclasses.replace(make_policy(), network=network), tmp_path / "own", card="")

    loaded = load_policy(tmp_path / "own").network

    assert loaded is not None
    assert (loaded.features, loaded.widths) == (features, widths)
    observations = torch.randn(5, names)
    torch.testing.assert_close(loaded(observations), network(observations), rtol=0, atol=0)
    by_hand = network.head(network.hidden(observations[:, :features]))
    if not reads_all:
        by_hand = by_hand + observations[:, features:]
    torch.testing.assert_close(loaded(observations), by_hand, rtol=0, atol=0)


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
        (lambda m: m.pop("objective"), "expected a field 'objective', received none"),
        (lambda m: m.update(schema_version=1), "expected schema_version 6, received 1"),
        (lambda m: m.update(schema_version=None), "expected schema_version 6, received None"),
        (lambda m: m["network"].update(feature_schema="0" * 16), "feature_schema"),
        (lambda m: m.update(sites=0), "sites must be"),
        (lambda m: m.update(sites=10**9), "sites must be"),
        (lambda m: m.update(sites="2"), "sites must be"),
        (lambda m: m.update(sites=True), "sites must be"),
        (lambda m: m.update(sites=1), "feature_schema"),
        (lambda m: m.update(network=7), "network: expected an object, received 7"),
        (lambda m: m["network"].update(tier=[]), "network: unknown field 'tier'. Did you mean"),
        (lambda m: m["network"].pop("adaptive"), "network: expected a field 'adaptive'"),
        (lambda m: m["network"].update(tiers=[]), "tiers must be"),
        (lambda m: m["network"].update(tiers=["moon"]), "tiers must be"),
        (lambda m: m["network"].update(tiers=[["device"]]), "tiers must be"),
        (lambda m: m["network"].update(tiers=5), "tiers must be"),
        (lambda m: m["network"].update(tiers=None), "tiers must be"),
        (lambda m: m["network"].update(adaptive={"4": 2}), "adaptive must be"),
        (lambda m: m["network"].update(adaptive_tradeoff="no"), "adaptive_tradeoff must be"),
        (lambda m: m.update(steps=[0]), "steps must be"),
        (lambda m: m.update(steps=[10**9]), "steps must be"),
        (lambda m: m.update(steps=4), "steps must be"),
        (lambda m: m.update(steps=[4.0]), "steps must be"),
        (lambda m: m.update(steps=[True]), "steps must be"),
        (lambda m: m.update(steps=[]), "steps must have at least one number"),
        (lambda m: m.pop("steps"), "steps must be integers in [1, 1024], received None"),
        (lambda m: m.update(safe_steps=["4"]), "safe_steps must be"),
        (lambda m: m.pop("safe_steps"), "safe_steps must be"),
        (lambda m: m.update(model=None), "model must be"),
        (lambda m: m.update(model={"class": 1}), "model must be"),
        (lambda m: m.update(model={}), "model must have class, config_sha256, weights"),
        (lambda m: m["model"].update(id="x"), "model must have class, config_sha256"),
        (lambda m: m["scheduler"].pop("class"), "scheduler must have class, config_sha256"),
        (lambda m: m.update(profile={"fixed_s": "fast"}), "profile must be"),
        (lambda m: m.update(profile={"fixed_s": 1}), "profile: cost model: expected fixed_s"),
        (lambda m: m["profile"].update(sites=10**9), "profile must be of 4 steps and 2 sites"),
        (lambda m: m["profile"].update(num_inference_steps=10**9), "received 1000000000 and 2"),
        (lambda m: m.update(objective=[1.0]), "objective must be"),
        (lambda m: m.update(objective={"psnr": 1.0}), "objective must have psnr, ssim"),
        (lambda m: m.update(prompts="8"), "prompts must be"),
        (lambda m: m.update(evaluations=1.5), "evaluations must be"),
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
        ('{"objective": {"psnr": 1, "psnr": 2}}', "duplicate keys"),
        ('{"objective": NaN}', "the number nan"),
        ('{"objective": -Infinity}', "the number -inf"),
        ('{"objective": 1e999}', "the number inf"),
        ('{"seed": 1' + "0" * 400 + "}", "the number of 1329 bits"),
        ('{"call": ' + '{"a":' * 40 + "1" + "}" * 41, "more than 32 deep"),
        ("{" + ",".join(f'"{n}":1' for n in range(20_000)) + "}", "20000 keys; at most"),
        ('{"call": ' + "[" * 100_000 + "]" * 100_000 + "}", "100001 lists and objects"),
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
TABLE = f"table.{STEPS}"
SIGMAS, MODES, COEFFICIENTS, QUALITY = (
    f"{TABLE}.{name}" for name in ("sigmas", "modes", "coefficients", "quality")
)


def overwrite(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> TensorEdit:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


def filled(name: str, place: tuple[int, ...], value: float) -> TensorEdit:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][place] = value

    return edit


def without_schedules(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if name.startswith(TABLE) and name != SIGMAS:
            tensors[name] = tensors[name][:0].contiguous()


def without_a_step(tensors: dict[str, torch.Tensor]) -> None:
    for name in (MODES, COEFFICIENTS):
        tensors[name] = tensors[name][:, 1:].contiguous()
        tensors[name][:, 0] = 0
    tensors[SIGMAS] = tensors[SIGMAS][1:].contiguous()
    tensors[COEFFICIENTS][:] = torch.nan


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (overwrite(HEAD, lambda t: t[:-1]), f"{HEAD} must have shape"),
        (overwrite(MODES, lambda t: t[:, 1:]), f"{TABLE}: sigmas must have shape (4,)"),
        (overwrite(MODES, lambda t: t[0]), f"{TABLE}: "),
        (overwrite(SIGMAS, lambda t: t[1:]), f"{TABLE}: sigmas must have shape"),
        (overwrite(QUALITY, lambda t: t[1:]), f"{TABLE}: quality must have shape"),
        (overwrite(COEFFICIENTS, lambda t: t[..., :1]), f"{TABLE}: coefficients must have shape"),
        (
            overwrite(COEFFICIENTS, lambda t: torch.full_like(t, torch.inf)),
            f"{COEFFICIENTS} must be finite",
        ),
        (overwrite(COEFFICIENTS, torch.ones_like), "nan where there is more than one site"),
        (filled(SIGMAS, (1,), torch.nan), f"{SIGMAS} must be finite"),
        (filled(SIGMAS, (1,), 2.0), f"{TABLE}: expected noise levels that never rise"),
        (overwrite(SIGMAS, torch.zeros_like), f"{TABLE}: expected noise levels that never rise"),
        (filled(HEAD, (0, 0), 1e30), f"{HEAD} must be finite and within 1e+06"),
        (overwrite(MODES, lambda t: t[:, :, :0]), f"{TABLE}: expected a (steps, sites) table"),
        (overwrite(HEAD, lambda t: t[:, :0]), f"{HEAD} must have shape"),
        (overwrite(HEAD, torch.Tensor.half), f"{HEAD} must be torch.float32"),
        (overwrite(MODES, torch.Tensor.float), f"{MODES} must be torch.int8"),
        (overwrite(SIGMAS, torch.Tensor.float), f"{SIGMAS} must be torch.float64"),
        (overwrite(HEAD, lambda t: t / 0), f"{HEAD} must be finite"),
        (filled(MODES, (1, 1, 0), len(Mode)), f"{TABLE}: expected modes in [0, 3]"),
        (filled(MODES, (1, 1, 0), -1), f"{TABLE}: expected modes in [0, 3]"),
        (filled(MODES, (1, 0, 0), 1), f"{TABLE}: expected a (steps, sites) table whose first"),
        (filled(MODES, (1, 1, 0), Mode.COMPUTE), "steps are all among the step patterns"),
        (filled(f"safe.{STEPS}.modes", (1, 3, 0), 0), "steps are all among the step patterns"),
        (overwrite(MODES, torch.zeros_like), "one schedule for each number of computes"),
        (without_schedules, "received none"),
        (without_a_step, "expected 4 steps of 2 sites, received 3 of 2"),
        (lambda tensors: tensors.pop(HEAD), f"expected a tensor {HEAD}"),
        (lambda tensors: tensors.pop(MODES), f"expected a tensor {MODES}"),
        (
            lambda tensors: tensors.update(extra=torch.zeros(1)),
            "expected no other tensors, received ['extra']",
        ),
    ],
)
def test_damage_to_the_tensors_names_file_and_tensor(
    folder: Path, edit: TensorEdit, expected: str
) -> None:
    edit_tensors(folder, edit)

    message = complaint(folder)

    assert message.startswith(f"{folder / 'controller.safetensors'}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda m: m.update(network=None), f"expected no other tensors, received ['{HEAD[:-7]}"),
        (lambda m: m.update(steps=[STEPS, STEPS]), f"expected a tensor {SIGMAS}"),
        (lambda m: m.update(steps=[6]), "expected a tensor table.6.sigmas"),
        (lambda m: m.update(safe_steps=[]), "expected no other tensors"),
    ],
)
def test_a_manifest_that_names_other_tensors_is_refused(
    folder: Path, edit: Edit, expected: str
) -> None:
    edit_manifest(folder, edit)

    message = complaint(folder)

    assert message.startswith(f"{folder / 'controller.safetensors'}: ")
    assert expected in message


def test_metrics_must_be_finite_to_be_written(tmp_path: Path) -> None:
    policy = dataclasses.replace(make_policy(), metrics={"gain_db": float("nan")})

    with pytest.raises(ValueError, match="JSON"):
        save_policy(policy, tmp_path / "policy", card="")

    assert not (tmp_path / "policy" / "manifest.json").exists(), "the manifest is written last"
