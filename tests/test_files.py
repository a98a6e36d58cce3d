import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ditcache_rl.bench import Case
from ditcache_rl.config import load_env
from ditcache_rl.errors import ArtifactError, ConfigError, DitcacheError
from ditcache_rl.extras.upscaler import load_upscaler
from ditcache_rl.files import (
    check_writable,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    replacing,
    replacing_folder,
    write_json,
)
from ditcache_rl.policy import load_policy, load_schedules
from ditcache_rl.schedules import Objective
from ditcache_rl.search import Trials
from ditcache_rl.sensitivity import load_map
from ditcache_rl.serve import read_requests
from ditcache_rl.serve.state import read_state
from tests.kit.boards import Puzzle, hidden_schedule


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_takes_its_place_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "table.npy"

    with replacing(file) as partial:
        assert not file.exists()
        np.save(partial, np.arange(3))  # which would add a suffix to a name without one

    assert names(file.parent) == {"table.npy"}
    np.testing.assert_array_equal(np.load(file), np.arange(3))


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("old")

    def interrupted() -> None:
        with replacing(file) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert (file.read_text(), names(tmp_path)) == ("old", {"notes.txt"})


def test_of_a_link_the_target_is_replaced_and_a_pipe_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("target.txt")
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    for name in ("link.txt", "pipe"):
        with replacing(tmp_path / name) as partial:
            partial.write_text("new")
    heard = os.read(reading, 10)
    os.close(reading)

    assert (heard, (tmp_path / "target.txt").read_text()) == (b"new", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"gain": 1.0})

    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"gain": float("nan")})

    assert read_json(tmp_path / "a.json") == {"gain": 1.0}
    assert names(tmp_path) == {"a.json"}


def test_what_is_written_is_what_was_meant_in_any_language(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"prompt": "ein blauer Würfel, 星"})

    assert "Würfel, 星" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"prompt": "ein blauer Würfel, 星"}


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "old.txt").write_text("old")

    with replacing_folder(folder) as partial:
        partial.mkdir()
        (partial / "new.txt").write_text("new")
        assert names(folder) == {"old.txt"}

    assert (names(tmp_path), names(folder)) == ({"policy"}, {"new.txt"})


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()

    def on_a_full_disk() -> None:
        with replacing_folder(folder) as partial:
            partial.mkdir()
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        on_a_full_disk()

    assert names(tmp_path) == {"policy"}


def test_what_cannot_be_written_is_refused_and_what_can_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    check_writable(tmp_path / "file", tmp_path / "not" / "yet" / "there.json")
    check_writable(tmp_path / "folder", tmp_path / "not" / "yet", folders=True)
    with pytest.raises(ConfigError, match=r"expected a file .*folder is a folder; choose another"):
        check_writable(tmp_path / "folder")
    with pytest.raises(ConfigError, match=r"expected a folder .*file is a file"):
        check_writable(tmp_path / "file", folders=True)
    with pytest.raises(ConfigError, match=r"file/new.json: .*file is a file"):
        check_writable(tmp_path / "file" / "new.json")

    assert names(tmp_path) == {"file", "folder"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)

    with pytest.raises(ConfigError, match="closed is a folder without permission"):
        check_writable(closed / "new" / "report.json")


def no_file(kind: str, path: Path) -> Path:
    """Put something that is no regular file in the place of one."""
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
    return path


def a_policy(path: Path) -> object:
    return load_policy(path.parent)


#: Everything that reads what comes from outside, and what the file is called there.
READERS: dict[str, Callable[[Path], object]] = {
    "manifest.json": a_policy,
    "schedules.json": load_schedules,
    "upscaler.safetensors": load_upscaler,
    "requests.jsonl": read_requests,
    "bandit.json": lambda path: read_state(path, min_psnr=35.0),
    "map.json": load_map,
    "notes.txt": lambda path: read_text(path, 100),
}


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_by_its_name_and_never_waited_for(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = no_file(kind, tmp_path / name)

    with pytest.raises(ArtifactError) as caught:
        READERS[name](path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in READERS if name != "requests.jsonl"])
def test_bytes_that_are_no_text_are_refused_by_the_name_of_their_file(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\xff")

    with pytest.raises(ArtifactError, match=name):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "bytes"])
def test_prompts_that_are_no_text_are_named(kind: str, tmp_path: Path) -> None:
    env = tmp_path / "tiny.toml"
    env.write_text(
        'id = "ditcache/tiny-v0"\nsteps = [4]\npipeline = { source = "x" }\n'
        'targets = { budgets = [0.5] }\nprompts = { train = "a", select = "b", test = "c" }\n'
    )
    (tmp_path / "a").write_bytes(b"\xff")
    no_file(kind, tmp_path / "a") if kind != "bytes" else None

    with pytest.raises(ConfigError, match=r"\[prompts\] train must name a file with text"):
        load_env(env)


def test_no_more_is_read_than_was_asked_for_even_where_a_file_says_it_is_empty() -> None:
    endless = Path("/proc/self/maps")  # regular, of size 0, and long
    assert endless.stat().st_size == 0

    with pytest.raises(ArtifactError, match="expected at most 10 bytes, received 11"):
        read_bytes(endless, 10)


def test_reading_takes_memory_for_what_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 300_000)

    tracemalloc.start()
    data = read_bytes(tmp_path / "small", 1 << 30)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert data == b"x" * 300_000
    assert peak_bytes < 2 << 20


@pytest.mark.parametrize(
    "text", ["1e999", "-1e999", "NaN", "[1" + "0" * 400 + "]", "1e30", "[" * 33 + "]" * 33]
)
def test_json_of_a_stranger_holds_sane_numbers_in_sane_depth(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|deep"):
        parse_json(text)

    assert parse_json('{"a": [1, -2.5e3, 18446744073709551615, true, null]}')["a"][2] == 2**64 - 1


@pytest.mark.parametrize("line", ["[[0], 1e999, 1]", "[[1" + "0" * 30 + "], 1, 1]", "\xff"])
def test_a_damaged_line_of_a_search_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_bytes(line.encode("latin-1") + b"\n")

    with pytest.raises(DitcacheError, match=r"trials\.jsonl"):
        Trials(
            Puzzle(hidden_schedule(1, 1, 0)),
            [Case("a", 1)],
            Objective(1.0, 1.0),
            file=tmp_path / "trials.jsonl",
        )
