"""Policies of the Hugging Face Hub: which files are taken, and how many bytes at most."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from pathlib import Path

from ditcache_rl._version import __version__
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing

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
    from huggingface_hub import HfApi, snapshot_download

    get = partial(
        snapshot_download,
        repo_id,
        allow_patterns=[*POLICY_FILES],
        library_name="ditcache-rl",
        library_version=__version__,
    )
    try:
        facts = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Exception as error:  # of networks, and of the errors of several libraries
        try:
            return Path(get(revision=revision, local_files_only=True))
        except Exception:  # not in the cache either: why it did not come from the Hub says more
            raise _missed(repo_id, revision, error) from error
    for file in facts.siblings or ():
        if file.rfilename in POLICY_FILES and (file.size or 0) > _MOST_BYTES:
            raise ConfigError(
                f"{repo_id}: expected files of at most {_MOST_BYTES} bytes, received "
                f"{file.rfilename} of {file.size}"
            )
    try:
        if facts.sha is None:
            raise ValueError("the Hub names no commit")
        # Of the commit whose sizes are known: meanwhile a branch may have moved.
        folder = Path(get(revision=facts.sha))
    except Exception as error:
        raise _missed(repo_id, revision, error) from error
    _remember(folder, revision or "main")
    return folder


def _remember(folder: Path, revision: str) -> None:
    """Note in the cache which commit a revision is, for when the Hub is out of reach.

    Source: `_cache_commit_hash_for_specific_revision` of huggingface_hub, which notes it where a
        revision is downloaded by its name.
    """
    if revision != folder.name:
        # A cache that cannot be written has what it has.
        with suppress(OSError), replacing(folder.parents[1] / "refs" / revision) as noted:
            noted.write_text(folder.name, encoding="utf-8")


def _missed(repo_id: str, revision: str | None, error: Exception) -> ConfigError:
    return ConfigError(
        f"expected a policy on the Hugging Face Hub, received {repo_id!r} at revision "
        f"{revision or 'main'}: {reason_of(error)}"
    )


def reason_of(error: BaseException) -> str:
    """Say in a line why the Hub did not do it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__


def cached_policies() -> dict[str, Path]:
    """Return the policies of the Hub that are in the cache by id, of each the last that came.

    Broken ones count: a link that leads nowhere any more, or a download that was cut short.
    """
    from huggingface_hub import constants

    found = dict[Path, float]()
    for folder in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*"):
        with suppress(OSError):  # of others, or gone meanwhile
            names = {path.name for path in folder.iterdir()}
            # Other models may have one of the others, but hardly both.
            if POLICY_FILES[1] in names or {"manifest.json", "metrics.json"} <= names:
                found[folder] = folder.stat().st_mtime
    folders = sorted(found, key=lambda one: found[one])
    ids = [one.parts[-3].removeprefix("models--").replace("--", "/") for one in folders]
    return dict(sorted(zip(ids, folders, strict=True)))
