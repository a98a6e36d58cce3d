import os
from pathlib import Path

import numpy as np
import pytest

from ditcache_rl.errors import ConfigError
from ditcache_rl.files import check_writable, read_json, replacing, replacing_folder, write_json


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
