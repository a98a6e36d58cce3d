from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ditcache_rl.config import WorldConfig
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.types import Floats
from ditcache_rl.world import GapCosts, Prices
from ditcache_rl.world.load import SLOTS
from ditcache_rl.world.recorder import record_load
from ditcache_rl.world.recording import RecordedLoad, Recording, known_loads
from ditcache_rl.world.world import World
from tests.kit.pacers import cubed_costs

STEPS = 8
#: Readings are rounded to steps of 2.5 %.
ROUNDED = 0.0125


def recorded(slowdowns: Floats, work_s: float = 0.005) -> Recording:
    return Recording.of(slowdowns * work_s, work_s)


def busy(pieces: int = 20_000, seed: int = 0) -> Recording:
    return recorded(1.0 + np.random.default_rng(seed).pareto(2.0, pieces))


def test_a_recording_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = busy()
    written.save(tmp_path / "a.safetensors")
    read = Recording.read(tmp_path / "a.safetensors")

    np.testing.assert_array_equal(read.readings, written.readings)
    assert read.work_s == written.work_s


def test_slowdowns_are_kept_to_the_step_of_a_reading() -> None:
    slowdowns = np.array([1.0, 1.4, 2.0, 30.0, 500.0])

    np.testing.assert_allclose(recorded(slowdowns).slowdowns, slowdowns, rtol=ROUNDED)
    assert recorded(np.array([0.9])).slowdowns[0] == 1.0  # nothing is quicker than unloaded


def test_parts_share_no_piece_and_are_half_and_quarters_of_the_time() -> None:
    whole = busy()
    parts = [whole.part(name) for name in ("train", "select", "test")]

    np.testing.assert_array_equal(np.concatenate([part.readings for part in parts]), whole.readings)
    shares = [part.seconds / whole.seconds for part in parts]
    # A piece belongs to where it begins; the longest has a small share of all.
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.02)


@pytest.mark.parametrize("compute_s", [0.002, 0.02, 0.3])
def test_a_trace_of_constant_slowdown_gives_that_slowdown(compute_s: float) -> None:
    recording = recorded(np.full(10_000, 2.0))
    load = RecordedLoad.of(recording, compute_s=compute_s)

    traces = load.traces(5, 100, image=STEPS, rng=np.random.default_rng(0))

    assert traces.shape == (5, 100)
    np.testing.assert_allclose(traces, recording.slowdown, rtol=1e-6)
    assert load.slowest(STEPS) == pytest.approx(recording.slowdown)
    assert recording.slowdown == pytest.approx(2.0, rel=ROUNDED)


def test_resampling_keeps_the_work_that_a_window_allows() -> None:
    recording, compute_s = busy(), 0.02
    load = RecordedLoad.of(recording, compute_s=compute_s)
    slots = int(load.times[-1] * SLOTS)  # all of it, to the last whole slot

    trace = load.traces(1, slots, image=STEPS, rng=np.random.default_rng(0))

    work = (1 / (SLOTS * trace)).sum()
    pieces = len(recording.readings) * recording.work_s / compute_s
    assert work == pytest.approx(pieces, abs=1.0)


def test_a_window_of_a_recording_has_what_was_recorded_there() -> None:
    # A second at full speed and one at a third of it, in computes of four pieces.
    slowdowns = np.repeat([1.0, 3.0], [200, 67])
    load = RecordedLoad.of(recorded(slowdowns), compute_s=0.02)

    traces = load.traces(50, 40, image=STEPS, rng=np.random.default_rng(1))

    ends = np.sort(np.unique(np.round(traces, 1)))[[0, -1]]
    np.testing.assert_allclose(ends, [1.0, 3.0], rtol=2 * ROUNDED)


def test_the_slowest_image_is_found_wherever_it_was() -> None:
    slowdowns = np.ones(5000)
    slowdowns[3000:3032] = 7.0  # of eight computes of four pieces each
    load = RecordedLoad.of(recorded(slowdowns), compute_s=0.02)

    assert load.slowest(STEPS) == pytest.approx(7.0, rel=ROUNDED)


@pytest.mark.parametrize(("part", "slowdown"), [("train", 1.0), ("select", 2.0), ("test", 4.0)])
def test_a_world_draws_windows_of_its_part_of_a_recording(
    part: str, slowdown: float, tmp_path: Path
) -> None:
    # Of 20, 10 and 10 seconds.
    whole = recorded(np.repeat([1.0, 2.0, 4.0], [4000, 1000, 500]))
    whole.save(tmp_path / "mine.safetensors")
    config = WorldConfig(loads=["fast", "mine.safetensors"], home=tmp_path)
    quality = GapCosts(np.linspace(1.0, 0.0, STEPS + 1), cubed_costs(STEPS))
    known = known_loads(config, part, compute_s=0.02)
    world = World(quality, Prices(0.5, 0.01, 0.5), (3.0, 8.0), known)

    images = world.fixed(config.loads, 64, seed=1)()

    per_slot = np.diff(images._work[32:], axis=1)
    # Parts end a little from where the slowdown changes: readings are rounded.
    assert np.median(1 / (SLOTS * per_slot)) == pytest.approx(slowdown, rel=ROUNDED)


def test_a_recording_too_short_for_an_image_is_refused() -> None:
    load = RecordedLoad.of(recorded(np.ones(100)), compute_s=0.02)

    with pytest.raises(ConfigError, match="as long as 50 computed steps or longer, received 25"):
        load.traces(1, 50 * SLOTS, image=STEPS, rng=np.random.default_rng(0))


THREE = torch.zeros(3, dtype=torch.uint8)
ONE = torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"readings": THREE},
        {"readings": THREE[:0], "work_s": ONE},
        {"readings": THREE.float(), "work_s": ONE},
        {"readings": THREE[None], "work_s": ONE},
        {"readings": THREE, "work_s": ONE, "more": THREE + 1},
        *({"readings": THREE, "work_s": ONE * factor} for factor in (0.0, -1.0, float("nan"))),
    ],
)
def test_what_is_no_recording_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(save(tensors))

    with pytest.raises(ArtifactError, match="expected a recorded load"):
        Recording.read(file)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"[world]\n"])
def test_what_is_no_safetensors_is_refused(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(data)

    with pytest.raises(ArtifactError, match="expected safetensors"):
        Recording.read(file)


def test_an_interrupted_recording_is_whole_up_to_the_last_burst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditcache_rl.world.recorder._BURST_S", 0.01)
    file, seen = tmp_path / "new" / "a.safetensors", []

    def hear(passed: float, recording: Recording) -> None:
        seen.append(recording)

    def work() -> float:
        if len(seen) == 3:
            raise KeyboardInterrupt
        return 0.001

    with pytest.raises(KeyboardInterrupt):
        record_load(60.0, file, duty=1.0, work=work, on_burst=hear)

    np.testing.assert_array_equal(Recording.read(file).readings, seen[-1].readings)
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_what_a_recording_compares_with_is_the_quickest_piece(tmp_path: Path) -> None:
    took = iter([0.05] * 3 + [0.01] + [0.02] * 10_000_000)
    record_load(0.05, tmp_path / "a.safetensors", duty=1.0, work=lambda: next(took))

    recording = Recording.read(tmp_path / "a.safetensors")

    assert recording.work_s == 0.01
    assert recording.slowdown == pytest.approx(2.0, rel=ROUNDED)
