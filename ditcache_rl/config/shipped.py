"""Where environments and policies lie; the only module that knows the layout on disk."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path

from ditcache_rl.config.hub import cached_policies, download_policy, is_hub_id
from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.files import is_there

_PACKAGE = Path(__file__).parents[1]


def shipped_envs() -> list[str]:
    """Name the environments that come with the package."""
    return sorted(path.stem for path in _shipped("envs").glob("*.toml"))


def shipped_ids() -> dict[str, str]:
    """Return the ids of the environments that come with the package, by name.

    One whose file is broken is left out: who asks for it by name is told why.
    """
    found = {}
    for name in shipped_envs():
        with suppress(ValueError, KeyError):
            table = tomllib.loads((_shipped("envs") / f"{name}.toml").read_text(encoding="utf-8"))
            found[name] = str(table["id"])
    return found


def shipped_starters() -> list[str]:
    """Name the environments of known pipelines, whose weights are loaded when one is asked for."""
    return sorted(f"starters/{path.stem}" for path in _shipped("envs").glob("starters/*.toml"))


def general_prompts() -> dict[str, Path]:
    """Return the files of prompts for any pipeline, by part."""
    folder = _shipped("envs") / "prompts"
    return {part: folder / f"general-{part}.txt" for part in ("train", "select", "test")}


def shipped_policies() -> list[str]:
    """Name the policies that come with the package."""
    return sorted(path.parent.name for path in _shipped("policies").glob("*/manifest.json"))


def tested_versions() -> dict[str, str]:
    """Return the versions of packages that every test has run with, by name."""
    inside = _PACKAGE / "_shipped" / "constraints.txt"
    file = inside if inside.is_file() else _PACKAGE.parent / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = (line.partition(" #")[0].split("==") for line in lines if "==" in line)
    return {name.strip(): version.strip() for name, version in pairs}


def find_policy(source: str | Path | None = None, *, revision: str | None = None) -> Path:
    """Return a policy folder.

    Args:
        source: A folder that is there; or a name without a slash, of a shipped policy; or
            "org/name", of the Hugging Face Hub. A `Path` is a folder always. None for `shapes-ppo`.
        revision: Branch, tag or commit of the Hub; with it `source` is a Hub id.

    Raises:
        ConfigError: If it is not there; the message has the nearest name.
    """
    source = "shapes-ppo" if source is None else source
    there = revision is None and source != "" and is_there(Path(source), folder=True)
    if there or not is_hub_id(source):
        if revision is not None:
            raise ConfigError(
                f"a revision is one of the Hub: expected 'org/name' beside it, received {source!r}"
            )
        return find_shipped(source, "policies", "")
    try:
        return download_policy(str(source), revision)
    except ConfigError as error:
        parent = Path(source).parent
        beside = [str(path.parent) for path in parent.glob("*/manifest.json")]
        hint = closest(str(source), [*beside, *shipped_policies(), *cached_policies()])
        raise ConfigError(f"{error}; there is no folder of that name either.{hint}") from error


def _shipped(kind: str) -> Path:
    """Return where a kind of data lies: inside an installed package, or beside it in a checkout."""
    inside = _PACKAGE / "_shipped" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def find_shipped(source: str | Path, kind: str, suffix: str) -> Path:
    """Return a path that is there, or what is shipped under a name.

    Raises:
        ConfigError: If it is neither; the message lists the names.
    """
    path = Path(source)
    names = [
        p.name.removesuffix(suffix) for p in _shipped(kind).iterdir() if p.name.endswith(suffix)
    ]
    names = [name for name in names if name not in {"README.md", "prompts"}]
    names += shipped_starters() if kind == "envs" else []
    if source != "" and is_there(path, folder=not suffix):  # "" would be the present folder
        return path
    if source in names:
        return _shipped(kind) / f"{source}{suffix}"
    known = "a path" if suffix else "a folder, the Hub's 'org/name'"
    raise ConfigError(
        f"expected {known} or one of the shipped {kind} ({', '.join(sorted(names)) or 'none'}), "
        f"received {str(source)!r}.{closest(str(source), names)}"
    )
