"""Sixty and more hostile policies, each made of a good one; all of them must be refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostility.sign import edit_tensors, joined, sign_policy

Damage = Callable[[Path], None]
TENSORS, PACER = "controller.safetensors", "pacer.safetensors"


class _Bomb:
    """Runs a command where somebody unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def _text(name: str, text: str | bytes) -> Damage:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def _manifest(**changes: Any) -> Damage:
    """Change fields of the manifest; a name with two underscores lies within another field."""

    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        for name, value in changes.items():
            *within, last = name.split("__")
            place = manifest
            for one in within:
                place = place[one]
            place[last] = value
        path.write_text(json.dumps(manifest))

    return damage


def _header(change: Callable[[dict[str, Any]], object], name: str = TENSORS) -> Damage:
    """Change the header of a file of tensors, or replace it by text."""

    def edit(header: dict[str, Any], body: bytes) -> bytes:
        text = change(header)
        return joined(text if isinstance(text, str) else header, body)

    return lambda folder: edit_tensors(folder, name, edit)


def _tensor(**changes: Any) -> Damage:
    """Change what a header says of the modes of the first table."""
    return _header(lambda header: header["table.28.modes"].update(changes))


def _numbers(tensor: str, data: bytes, name: str = TENSORS) -> Damage:
    """Overwrite the first numbers of a tensor."""

    def edit(header: dict[str, Any], body: bytes) -> bytes:
        start = header[tensor]["data_offsets"][0]
        return joined(header, body[:start] + data + body[start + len(data) :])

    return lambda folder: edit_tensors(folder, name, edit)


def _bytes(data: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / TENSORS).write_bytes(data)
        sign_policy(folder)

    return damage


def _replaced(name: str, make: Callable[[Path], object]) -> Damage:
    """Put something that is no file, or leads elsewhere, in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _extra(dtype: str, size: int) -> Damage:
    """Add a tensor of ones that nobody asked for, of up to the size that a file may have."""

    def edit(header: dict[str, Any], body: bytes) -> bytes:
        room = (1 << 24) - len(body) - len(json.dumps(header)) - 200
        count = room // size
        header["extra"] = {
            "dtype": dtype,
            "shape": [count],
            "data_offsets": [len(body), len(body) + count * size],
        }
        return joined(header, body + b"\x01" * (count * size))

    return lambda folder: edit_tensors(folder, TENSORS, edit)


_JSON: dict[str, str | bytes] = {
    "empty": "",
    "open": "{",
    "a list": "[]",
    "null": "null",
    "duplicate keys": '{"sites": 1, "sites": 2}',
    "duplicate keys within": '{"call": {"a": 1, "a": 2}}',
    "nan": '{"call": NaN}',
    "infinite": '{"call": -Infinity}',
    "beyond floats": '{"call": 1e999}',
    "beyond integers": '{"call": ' + "9" * 5000 + "}",
    "deep lists": '{"call": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep objects": '{"a":' * 40_000 + "1" + "}" * 40_000,
    "many keys": "{" + ",".join(f'"{n}":1' for n in range(20_000)) + "}",
    "many lists": '{"call": [' + "[]," * 80_000 + "1]}",
    "many objects": '{"call": [' + "{}," * 80_000 + "1]}",
    "many numbers": '{"call": [' + "9," * 120_000 + "1]}",
    "too large": '{"call": "' + "x" * (1 << 18) + '"}',
    "no text": b"\xff\xfe\x00",
    "a half of a character": '{"call": "\ud800"}',
    "a pickle": pickle.dumps(_Bomb()),
}
_CODE = "__import__('os').system('touch executed')"

CORPUS: dict[str, Damage] = {
    **{f"manifest: {name}": _text("manifest.json", text) for name, text in _JSON.items()},
    **{
        f"metrics: {name}": _text("metrics.json", _JSON[name])
        for name in ("open", "duplicate keys", "nan", "deep lists", "many keys", "a pickle")
    },
    "a folder for the manifest": _replaced("manifest.json", Path.mkdir),
    "a pipe for the manifest": _replaced("manifest.json", os.mkfifo),
    "an endless device": _replaced(TENSORS, lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": _replaced(TENSORS, lambda path: path.symlink_to(path)),
    "a terabyte of nothing": _replaced(TENSORS, _sparse),
    "no tensors": _replaced(TENSORS, lambda path: None),
    "no metrics": _replaced("metrics.json", lambda path: None),
    "no pacer": _replaced(PACER, lambda path: None),
    "steps without end": _manifest(steps=[10**9]),
    "steps a thousand times": _manifest(steps=[28] * 1000),
    "sites without end": _manifest(sites=10**9),
    "sites as code": _manifest(sites=_CODE),
    "an unknown field": _manifest(run=_CODE),
    "a tier as code": _manifest(network__tiers=[_CODE]),
    "a feature schema as code": _manifest(network__feature_schema=_CODE),
    "a model as a list": _manifest(model=[_CODE]),
    "a profile that takes no time": _manifest(profile__site_s=0.0, profile__step_s=-1.0),
    "a profile of many steps": _manifest(profile__num_inference_steps=10**9),
    "a pacer as code": _manifest(pacer__compute_s=_CODE),
    "a pacer that takes no time": _manifest(pacer__compute_s=0),
    "a pacer of another digest": _manifest(pacer__tensors_sha256="0" * 64),
    "tensors of another digest": _manifest(tensors_sha256="0" * 64),
    "tensors: empty": _bytes(b""),
    "tensors: a pickle": _bytes(pickle.dumps(_Bomb())),
    "tensors: a zip": _bytes(b"PK\x03\x04" + b"\x00" * 100),
    "tensors: a header without end": _bytes(struct.pack("<Q", 2**63) + b"{}"),
    "tensors: a header beyond the file": _bytes(struct.pack("<Q", 1 << 20) + b"{}"),
    "tensors: a header that is no JSON": _header(lambda header: "{'a': " + _CODE + "}"),
    "tensors: a deep header": _header(lambda header: '{"a":' * 50_000 + "1" + "}" * 50_000),
    "tensors: a shape without end": _tensor(shape=[2**40, 2**40]),
    "tensors: a shape below zero": _tensor(shape=[-1, 28, 1]),
    "tensors: an offset beyond the file": _tensor(data_offsets=[0, 2**62]),
    "tensors: an offset backwards": _tensor(data_offsets=[100, 0]),
    "tensors: all at one place": _header(
        lambda header: [one.update(data_offsets=[0, 4]) for one in header.values()]
    ),
    "tensors: a type of no numbers": _tensor(dtype="OBJECT"),
    "tensors: a type as a list": _tensor(dtype=[_CODE]),
    "tensors: modes that are none": _numbers("table.28.modes", b"\x7f\x80"),
    "tensors: levels that are none": _numbers("table.28.sigmas", struct.pack("<d", float("nan"))),
    "tensors: an infinite weight": _numbers("network.head.weight", struct.pack("<f", float("inf"))),
    "tensors: a weight that is none": _numbers(
        "network.head.weight", struct.pack("<f", float("nan"))
    ),
    "tensors: an immense weight": _numbers("network.head.weight", struct.pack("<f", 1e30)),
    "tensors: 16 MiB of bytes that nobody asked for": _extra("U8", 1),
    "tensors: 16 MiB of eighths that nobody asked for": _extra("F8_E4M3", 1),
    "tensors: 16 MiB of halves that nobody asked for": _extra("BF16", 2),
    "tensors: 16 MiB of floats that nobody asked for": _extra("F32", 4),
    "pacer: a shape without end": _header(
        lambda header: header["costs"].update(shape=[2**40, 2**40]), PACER
    ),
    "pacer: costs that are none": _numbers("costs", struct.pack("<d", float("nan")), PACER),
}
