from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.control import EveryK
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.instrument import RequestLog
from ditcache_rl.serve import Recorder, read_requests
from ditcache_rl.serve.record import aside
from ditcache_rl.types import RunInfo
from tests.kit.disk import full_at


def log(seconds: float = 1.0) -> RequestLog:
    made = RequestLog(RunInfo(2, np.array([1.0, 0.5, 0.0]), 1, 3))
    made.by_branch = {0: np.array([[[0, 0, 0]], [[1, 0, 2]]], dtype=np.int8)}
    made.seconds, made.peak_bytes = seconds, 12
    return made


def test_what_a_request_did_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "requests.jsonl"
    Recorder(file)(log())
    Recorder(file)(log(2.0))

    (first, second), damaged = read_requests(file)

    assert first.modes[0].tolist() == [[[0, 0, 0]], [[1, 0, 2]]]
    assert (first.sigmas, first.seconds, first.peak_bytes) == ([1.0, 0.5, 0.0], 1.0, 12)
    assert second.seconds == 2.0
    assert damaged == 0


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_costs_itself_alone(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "requests.jsonl"
    Recorder(file)(log(1.0))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:kept])

    Recorder(file)(log(2.0))
    found, damaged = read_requests(file)

    # Cut before its newline alone, the line is complete.
    assert [request.seconds for request in found] == [1.0, *([1.0] if kept == -1 else []), 2.0]
    assert damaged == (kept != -1)


def test_a_full_disk_costs_the_line_and_neither_others_nor_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "requests.jsonl"
    recorder = Recorder(file)
    recorder(log(1.0))
    with full_at(file.stat().st_size + 10):  # a part of the next line has room
        recorder(log(2.0))
        recorder(log(3.0))
    recorder(log(4.0))

    found, damaged = read_requests(file)

    assert ([request.seconds for request in found], damaged) == ([1.0, 4.0], 0)
    assert len([one for one in caplog.messages if "a request is not recorded" in one]) == 2


def test_the_file_stays_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    recorder = Recorder(file, most_bytes=400)
    for number in range(50):
        recorder(log(float(number)))

    found, _ = read_requests(file)

    assert file.stat().st_size <= 400
    assert aside(file).stat().st_size <= 400
    assert [request.seconds for request in found] == list(range(50))[-len(found) :]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('hello\n{"modes": {"0": [[5]]}}\n')

    with pytest.raises(ArtifactError, match="2 damaged lines"):
        read_requests(file)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_touched(
    tiny_pipe: Any, tmp_path: Path
) -> None:
    kind = type(tiny_pipe)
    with pytest.raises(ConfigError, match="can be written"):
        dc.attach(tiny_pipe, EveryK(2), record=dc.Recorder(tmp_path))
    assert type(tiny_pipe) is kind


@pytest.mark.parametrize("file", ["a\0b", "", 3])
def test_a_name_that_no_file_can_have_is_refused(file: Any) -> None:
    with pytest.raises(ConfigError, match="expected a file that can be written"):
        dc.Recorder(file)
    with pytest.raises(ConfigError, match=r"most_bytes must be >= 1, received 0"):
        dc.Recorder("requests.jsonl", most_bytes=0)


def test_a_pipeline_records_its_requests(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    with dc.cached(tiny_pipe, EveryK(2), record=dc.Recorder(file)):
        generator = torch.Generator().manual_seed(0)
        tiny_pipe("a star", num_inference_steps=4, generator=generator, **tiny_call)

    (request,), _ = read_requests(file)

    assert request.modes[0][:, 0, 0].tolist() == [0, 1, 0, 1]
    assert request.seconds > 0
    assert request.peak_bytes > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seconds":1.0', '"seconds":1e999'),
        ('"seconds":1.0', '"seconds":"nan"'),
        ('"peak_bytes":12', '"peak_bytes":1' + "0" * 400),
        ("[1.0,0.5,0.0]", '["1",0.5,0.0]'),
        ("[1,0,2]", "[1,0,300]"),
        ('"0":[', '"' + "9" * 5000 + '":['),
        ('{"modes"', "[" * 50_000 + '{"modes"'),
    ],
)
def test_a_line_of_insane_numbers_costs_itself_alone(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "requests.jsonl"
    Recorder(file)(log(1.0))
    good = file.read_text()
    assert old in good
    file.write_text(good.replace(old, new) + good)

    found, damaged = read_requests(file)

    assert (len(found), damaged) == (1, 1)


def test_no_more_is_read_than_a_recorder_may_have_written(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    Recorder(file)(log())

    with pytest.raises(ArtifactError, match=r"requests\.jsonl: expected at most 50 bytes"):
        read_requests(file, most_bytes=50)
