"""`ditcache-rl init`: look at a pipeline, and write the environment file to train it in."""

from __future__ import annotations

import json
import math
import re
import tomllib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditcache_rl.cli.options import command_line
from ditcache_rl.config import check_within, general_prompts
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import is_there
from ditcache_rl.types import MOST_STEPS

if TYPE_CHECKING:
    from ditcache_rl.pipelines.look import PipelineFacts

HELP = "write the environment file for a pipeline of yours"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("pipeline", help="folder or Hub id of a diffusers pipeline")
    parser.add_argument("--out", type=Path, help="file to write (default: NAME.toml)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the pipeline's)")
    parser.add_argument(
        "--call",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="arguments of your calls, as height=512 width=512",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(options: Namespace) -> int:
    """Look, write, and say what was found and what comes next."""
    call = dict(_argument(text) for text in options.call)
    if options.steps is not None:
        check_within("--steps", options.steps, 3, MOST_STEPS)
    name = re.sub(r"[^\w-]+", "-", Path(options.pipeline).name.lower()).strip("-") or "pipeline"
    out = options.out or Path(f"{name}.toml")
    if is_there(out) and not options.force:
        raise ConfigError(f"{out} is there already; choose another --out, or replace it by --force")

    import torch

    from ditcache_rl.files import check_writable
    from ditcache_rl.pipelines.look import look_at
    from ditcache_rl.pipelines.starter import write_starter

    check_writable(out)
    folder = is_there(Path(options.pipeline), folder=True)
    source = str(Path(options.pipeline).resolve()) if folder else options.pipeline
    seen = look_at(source, call=call)
    steps = options.steps or seen.steps
    if steps is None:
        raise ConfigError(
            f"expected --steps, as a {seen.pipeline} has no number of its own, received none"
        )
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    text = write_starter(seen, name=name, dtype=dtype, prompts="prompts/general", steps=steps)
    counts = _copy_prompts(out.parent)
    out.write_text(text, encoding="utf-8")
    print(*_lines(seen, steps), sep="\n")
    print(f"wrote {out}; prompts in {out.parent / 'prompts'}: {counts}")
    again = command_line("train", str(out))
    print(f"what training takes: {again} --estimate\ntrain: {again}")
    return 0


def _argument(text: str) -> tuple[str, Any]:
    """Read `name=value`; the value is one of TOML, or a string as it is."""
    name, given, value = text.partition("=")
    if not (given and name.isidentifier()):
        raise ConfigError(f"--call must have NAME=VALUE as height=512, received {text!r}")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
    return name, found if _is_plain(found) else value


def _is_plain(value: object) -> bool:
    """Tell what JSON and TOML write alike: neither dates nor tables nor what is not finite."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _copy_prompts(home: Path) -> str:
    """Put the shipped prompts beside an environment, unless there are some, and count them."""
    counts = []
    for part, file in general_prompts().items():
        copy = home / "prompts" / file.name
        if not is_there(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        counts.append(f"{len(copy.read_text(encoding='utf-8').splitlines())} {part}")
    return ", ".join(counts)


def _lines(seen: PipelineFacts, steps: int) -> list[str]:
    """Say what was found."""
    blocks = ", ".join(f"{count} in {path}" for path, count in seen.stacks.items())
    checked = {
        True: "pipelines of this class passed every check",
        False: "pipelines of this class fail some check; see `ditcache-rl list pipelines`",
        None: "no pipeline of this class was examined; it is looked at when it runs",
    }
    drawn = ", ".join(f"{name} = {json.dumps(value)}" for name, value in seen.call.items())
    return [
        f"{seen.pipeline}: {', '.join(seen.denoisers.values())} of {_millions(seen.parameters)} "
        f"parameters, sampler {seen.scheduler}",
        f"blocks: {blocks or 'told when it runs'}",
        f"calls: {steps} steps, {drawn or 'size of its own choice'}",
        checked[seen.examined],
        *seen.notes,
    ]


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
