"""The container file names what is there: paths, options, extras and commands."""

import re
import tomllib
from pathlib import Path

from ditcache_rl.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Containerfile").read_text()


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", TEXT, re.MULTILINE)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    sources = {source for line in instructions("COPY") for source in line.split()[:-1]}
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    assert sources
    assert all((ROOT / source).exists() for source in sources)
    assert sources == kept


def test_its_extras_and_commands_are_ours() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", TEXT, re.MULTILINE)
    (entry,) = instructions("ENTRYPOINT")
    (command,) = instructions("CMD")

    assert set(extras.split(",")) <= settings["optional-dependencies"].keys()
    assert entry == '["ditcache-rl"]'
    assert "ditcache-rl" in settings["scripts"]
    asked = re.findall(r"(?<=ditcache-rl )[a-z-]+", TEXT.partition("FROM")[0])
    assert {re.sub(r"\W", "", command), *asked} <= COMMANDS.keys()
    assert "train" in asked


def test_nothing_runs_as_root() -> None:
    assert instructions("USER") == ["ditcache"]
    assert TEXT.index("\nUSER ") < TEXT.index("\nENTRYPOINT ")
