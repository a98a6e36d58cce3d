"""`ditcache-rl export`: hand a policy's schedules, and its network, to others."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ditcache_rl.config import find_policy
from ditcache_rl.errors import ConfigError

HELP = "write a policy's schedules, and its network as ONNX"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "policy", nargs="?", default="shapes-ppo", help="policy folder, or name of a shipped one"
    )
    parser.add_argument("--schedules", type=Path, help="schedule file to write")
    parser.add_argument("--onnx", type=Path, help="ONNX file of the network to write")


def run(options: Namespace) -> int:
    """Write what was asked for."""
    if not (options.schedules or options.onnx):
        raise ConfigError("expected --schedules FILE, --onnx FILE or both, received neither")
    if options.schedules == options.onnx:
        raise ConfigError(f"expected two files, received {options.onnx} for both")
    folder = find_policy(options.policy)

    from ditcache_rl.files import check_writable
    from ditcache_rl.machine import require
    from ditcache_rl.policy import load_policy
    from ditcache_rl.policy.export import export_onnx, export_schedules

    if options.onnx:
        require("onnx", "onnx", "onnxscript")
    wanted = ((options.schedules, export_schedules), (options.onnx, export_onnx))
    check_writable(*(file for file, _ in wanted if file))
    policy = load_policy(folder)
    for file, export in wanted:
        if file:
            export(policy, file)
            print(file)
    return 0
