import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ditcache_rl.bench.run import alone_in, check_run, describe_run, keep_run
from ditcache_rl.cli.options import run_folder
from ditcache_rl.config import load_env
from ditcache_rl.errors import ArtifactError, ConfigError

FACTS: Mapping[str, Any] = {"kind": "train", "env_sha256": "a", "seed": 1}


def test_a_new_folder_and_the_same_run_are_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    check_run(run, FACTS)

    for _ in range(2):
        keep_run(run, FACTS)
    (run / "table-4.npz").touch()
    check_run(run, FACTS)
    check_run(run, {"kind": "train"})  # what is not known yet is not compared


@pytest.mark.parametrize("name", FACTS)
def test_the_fact_that_differs_is_named(name: str, tmp_path: Path) -> None:
    keep_run(tmp_path, FACTS)

    with pytest.raises(ConfigError, match=rf"run\.json: .*were made for {name} .*received 'b';"):
        keep_run(tmp_path, {**FACTS, name: "b"})

    check_run(tmp_path, FACTS)


@pytest.mark.parametrize("name", ["sample-4.json", "trials-4.jsonl", "table-4.npz", "agent.zip"])
def test_files_that_nobody_knows_the_purpose_of_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()

    with pytest.raises(ConfigError, match=f"expected what {name} were made for, found no such"):
        check_run(tmp_path, FACTS)


def test_a_damaged_run_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"kind": "tr')

    with pytest.raises(ArtifactError, match=r"run\.json: .*; remove the file"):
        check_run(tmp_path, FACTS)


def test_what_files_depend_on_changes_with_the_prompts(tiny_env: Path) -> None:
    before = describe_run(load_env(tiny_env), "train")
    prompts = tiny_env.parent / "train.txt"
    text = prompts.read_text()

    prompts.write_text(text.replace("red", "blue"))
    after = describe_run(load_env(tiny_env), "train")
    prompts.write_text(text)

    assert [name for name in before if before[name] != after[name]] == ["prompts_sha256"]


def test_a_second_run_in_a_folder_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ditcache_rl.bench.run import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"

        with (
            pytest.raises(ConfigError, match=f"that of process {other.pid} on .*wait for it"),
            alone_in(tmp_path),
        ):
            pass
        other.kill()

    with alone_in(tmp_path), pytest.raises(ConfigError, match="no other run"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path) for _ in range(1000)]

    assert len(set(folders)) == 1000
    assert [f.name[:22] for f in folders] == sorted(f.name[:22] for f in folders)
