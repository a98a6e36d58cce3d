"""Policies of the Hugging Face Hub: which files are taken, and how many bytes at most."""

from __future__ import annotations

import re
from pathlib import Path

from ditcache_rl._version import __version__
from ditcache_rl.errors import ConfigError

#: Files of a policy; of a repository nothing else is downloaded.
POLICY_FILES = (
    "manifest.json",
    "controller.safetensors",
    "pacer.safetensors",
    "metrics.json",
    "README.md",
)
#: Of a file: what is larger is refused before it is downloaded.
_MOST_BYTES = 1 << 24
_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_id(source: object) -> bool:
    """Tell whether something is written like "org/name"."""
    return isinstance(source, str) and _ID.fullmatch(source) is not None


def download_policy(repo_id: str, revision: str | None) -> Path:
    """Return the folder of a policy of the Hub, downloaded or from the cache.

    Args:
        repo_id: As "org/name".
        revision: Branch, tag or commit; None for the main branch.

    Raises:
        ConfigError: If it is neither on the Hub nor in the cache, or is no policy.
    """
    from huggingface_hub import snapshot_download

    for name, size in _sizes(repo_id, revision).items():
        if name in POLICY_FILES and size > _MOST_BYTES:
            raise ConfigError(
                f"{repo_id}: expected files of at most {_MOST_BYTES} bytes, received {name} of "
                f"{size}"
            )
    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=[*POLICY_FILES],
                library_name="ditcache-rl",
                library_version=__version__,
            )
        )
    except Exception as error:  # of networks and disks, and of the errors of several libraries
        raise ConfigError(
            f"expected a policy on the Hugging Face Hub, received {repo_id!r} at revision "
            f"{revision or 'main'}: {reason_of(error)}"
        ) from error


def _sizes(repo_id: str, revision: str | None) -> dict[str, int]:
    """Return the bytes of files; of a Hub that is out of reach, of none."""
    from huggingface_hub import HfApi

    try:
        facts = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Exception:  # it may be in the cache; if not, that is told when it is looked for there
        return {}
    return {file.rfilename: file.size or 0 for file in facts.siblings or ()}


def reason_of(error: BaseException) -> str:
    """Say in a line why the Hub did not do it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__


def cached_policies() -> dict[str, Path]:
    """Return the policies of the Hub that are in the cache by id, of each the last that came."""
    from huggingface_hub import constants

    found = Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{POLICY_FILES[1]}")
    folders = sorted({path.parent for path in found}, key=lambda one: one.stat().st_mtime)
    ids = [one.parts[-3].removeprefix("models--").replace("--", "/") for one in folders]
    return dict(sorted(zip(ids, folders, strict=True)))
