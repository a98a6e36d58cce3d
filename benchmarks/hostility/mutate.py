"""Change bytes, JSON, lines of JSON, and safetensors at random; a seed says how."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from benchmarks.hostility.sign import joined, split

#: What a stranger may write in the place of anything.
VALUES: list[Any] = [None, True, -1, 0, 3, 10**9, 2**63, 1e18, -0.5, float("nan"), 10**400]
VALUES += ["", "a\0b", "x" * 999, [], [[]], {}, {"a": 1}, [1] * 500, "C" * 28, "\ud800"]
_NUMBERS = [
    struct.pack("<d", x) for x in (0.0, -1.0, 1e300, 5e-324, float("nan"), float("inf"))
] + [struct.pack("<f", x) for x in (1e30, -1e-30, float("nan"), float("-inf"))]


def mutated(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """Change a file in one or more places, as its suffix lets it be understood."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        way = _bytes if rng.random() < _BLIND else _WAYS.get(suffix, _bytes)
        try:
            data = way(data, rng)
        except (
            ArithmeticError,
            LookupError,
            RecursionError,
            ValueError,
            struct.error,
        ):  # no longer what it was
            data = _bytes(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double, or insert."""
    if not data:
        return rng.randbytes(9)
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 64))
    match rng.randrange(5):
        case 0:
            return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
        case 1:
            return data[:start]
        case 2:
            return data[:start] + data[end:]
        case 3:
            return data[:end] + data[start:end] * rng.randint(1, 9) + data[end:]
        case _:
            return data[:start] + rng.randbytes(end - start) + data[end:]


def _json(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < _ODD:
        return rng.choice((b'{"a":1,"a":2}', b"[" * 9999, b'{"a":' * 40 + b"1" + b"}" * 40))
    return json.dumps(_value(json.loads(data), rng)).encode()


def _line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = _json(lines[place], rng)
    return b"\n".join(lines) + b"\n"


def _tensors(data: bytes, rng: random.Random) -> bytes:
    header, body = split(data)
    if rng.random() < 0.5:  # as often numbers as what is said of them
        place = rng.randrange(max(1, len(body)))
        number = rng.choice(_NUMBERS)
        return joined(header, body[:place] + number + body[place + len(number) :])
    return joined(_value(header, rng), body)


def _toml(data: bytes, rng: random.Random) -> bytes:
    """Replace what stands behind an equals sign."""
    lines = data.decode().splitlines()
    place = rng.choice([n for n, line in enumerate(lines) if "=" in line])
    name = lines[place].partition("=")[0]
    value = rng.choice([one for one in VALUES if one is not None])
    lines[place] = f"{name}= {json.dumps(value)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


#: Shares of changes that understand nothing, and of JSON that no other change makes.
_BLIND, _ODD = 0.25, 0.03
_WAYS = {".json": _json, ".jsonl": _line, ".safetensors": _tensors, ".toml": _toml}


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Name every container in a JSON value with each of its keys."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(inside):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _value(value: Any, rng: random.Random) -> Any:
    """Change, drop or double something in a JSON value."""
    value = copy.deepcopy(value)
    within, key = rng.choice(list(_places(value)))
    match rng.randrange(5):
        case 0:
            del within[key]
        case 1 if isinstance(within, list):
            within.append(within[key])
        case 2 if isinstance(within[key], int | float):
            within[key] *= rng.choice((-1, 0, 2, 1e9))
        case _:
            within[key] = rng.choice(VALUES)
    return value
