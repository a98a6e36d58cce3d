"""Sign what was changed, so that no digest hides it, and take safetensors apart."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ditcache_rl.policy.schedule_file import _digest


def sign_policy(folder: Path) -> None:
    """Write the digests of the tensors into the manifest, if it can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        tensors = (folder / "controller.safetensors").read_bytes()
        manifest["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
        if (folder / "pacer.safetensors").is_file():
            pacer = (folder / "pacer.safetensors").read_bytes()
            manifest["pacer"]["tensors_sha256"] = hashlib.sha256(pacer).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass  # it is damaged itself


def sign_schedules(folder: Path) -> None:
    """Write the digest of a schedule file into it, if it can be read."""
    file = folder / "schedules.json"
    try:
        raw = json.loads(file.read_bytes())
        file.write_text(json.dumps(raw | {"sha256": _digest(raw)}))
    except (OSError, ValueError, TypeError, RecursionError):
        pass


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Take header and numbers of safetensors apart."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: object, body: bytes) -> bytes:
    """Put safetensors together, whatever the header says; it may be text."""
    text = header if isinstance(header, str) else json.dumps(header)
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded + body


def edit_tensors(folder: Path, name: str, edit: Callable[[dict[str, Any], bytes], bytes]) -> None:
    """Replace a file of tensors by what `edit` makes of its header and numbers, and sign it."""
    path = folder / name
    path.write_bytes(edit(*split(path.read_bytes())))
    sign_policy(folder)
