"""Where environments and policies lie; the only module that knows the layout on disk."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path

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


def find_policy(source: str | Path | None = None) -> Path:
    """Return a policy folder.

    Args:
        source: A path, or the name of a shipped policy; None for `shapes-ppo`.

    Raises:
        ConfigError: If it is not there.
    """
    return find_shipped("shapes-ppo" if source is None else source, "policies", "")


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
    raise ConfigError(
        f"expected a path or one of the shipped {kind} ({', '.join(sorted(names)) or 'none'}), "
        f"received {str(source)!r}.{closest(str(source), names)}"
    )
