"""What a policy hands to others does what the policy does."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ditcache_rl.cli import main
from ditcache_rl.config import find_policy
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.policy import Policy, load_policy, load_schedules
from ditcache_rl.policy.export import METHOD, export_csv, export_onnx
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import collapse, euler_steps
from tests.kit.doubles import fitted_schedule

OBSERVATIONS = 10_000


@pytest.fixture(scope="module")
def policy() -> Policy:
    """The shipped policy, with a network that has something to say."""
    found = load_policy(find_policy("shapes-ppo"))
    assert found.network is not None
    network = PolicyNetwork(found.network.features, found.network.head.out_features)
    torch.manual_seed(0)
    torch.nn.init.normal_(network.head.weight)
    return replace(found, network=network)


def test_the_onnx_graph_returns_the_logits_of_the_network(policy: Policy, tmp_path: Path) -> None:
    assert policy.network is not None
    names = policy.manifest.actions.schema()
    rng = np.random.default_rng(0)
    observations = rng.uniform(-5, 5, (OBSERVATIONS, len(names))).astype(np.float32)
    file = tmp_path / "controller.onnx"

    export_onnx(policy, file)
    session = onnxruntime.InferenceSession(file)
    (theirs,) = session.run(["logits"], {"observation": observations})
    ours = policy.network.on_host()(observations)

    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=2e-5)
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean() > 0.999
    known = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(known["features"]) == list(names)
    assert json.loads(known["patterns"]) == policy.manifest.actions.patterns.tolist()


def test_exported_schedules_are_those_of_the_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(find_policy("shapes-ppo"))
    file = tmp_path / "deep" / "schedules.json"

    assert main(["export", "--schedules", str(file)]) == 0
    exported = load_schedules(file)

    assert str(file) in capsys.readouterr().out
    assert list(exported) == [METHOD]
    assert exported[METHOD].network is None
    assert exported[METHOD].steps == policy.steps
    for steps, table in policy.tables.items():
        scored, again = table.scored(), exported[METHOD].tables[steps]
        assert scored is not None
        np.testing.assert_array_equal(again.sigmas, table.sigmas)
        assert list(again) == list(scored)
        for computes, one in scored.items():
            exact, written = one.schedule, again[computes].schedule
            np.testing.assert_array_equal(written.modes, exact.modes)
            if exact.coefficients is None:
                assert written.coefficients is None
            else:
                assert written.coefficients is not None
                np.testing.assert_allclose(written.coefficients, exact.coefficients, atol=1e-6)
            assert again[computes][1:3] == one[1:3]


def test_an_export_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == 2
    assert "--schedules" in capsys.readouterr().err


def test_an_exported_table_holds_all_that_a_sampler_needs(tmp_path: Path) -> None:
    schedule, sigmas = fitted_schedule(12, (0, 2, 5, 9)), np.linspace(1, 0, 13)
    export_csv(schedule, sigmas, tmp_path / "schedule.csv")

    with (tmp_path / "schedule.csv").open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    outputs, known, latents = np.linspace(-1, 1, 12) ** 2, list[float](), 1.0
    for step, line in enumerate(lines):
        if line["computes"] == "1":
            known.insert(0, outputs[step])
        weighed = [float(line[name]) for name in ("newest", "second", "third")]
        output = sum(c * v for c, v in zip(weighed, known, strict=False))
        latents += (sigmas[step + 1] - float(line["sigma"])) * output

    found, expected = collapse(schedule, sigmas, euler_steps(sigmas)), torch.ones(1).double()
    for place, step in enumerate(found.path):
        past = [torch.tensor([outputs[one]]) for one in found.path[: place + 1][::-1][:3]]
        assert lines[step]["mode"] == "C"
        expected = found.advance(place, expected, past)
    assert latents == pytest.approx(float(expected), abs=1e-12)


def test_of_several_sites_a_table_has_the_modes_alone(tmp_path: Path) -> None:
    schedule = Schedule.from_text("CRC | CC1")

    export_csv(schedule, np.linspace(1, 0, 4), tmp_path / "schedule.csv")

    lines = (tmp_path / "schedule.csv").read_text().splitlines()
    assert [line.split(",", 2)[2] for line in lines[1:]] == ["2,CC,,,", "1,RC,,,", "1,C1,,,"]
