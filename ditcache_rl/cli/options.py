"""What several commands share: options, and the folders of their runs."""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import is_there

#: Where commands leave what they find, unless they are told otherwise.
RUNS = Path("runs")


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Shows defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def add_env(parser: ArgumentParser) -> None:
    """Declare the environment."""
    parser.add_argument(
        "env", nargs="?", default="shapes", help="environment file, or name of a shipped one"
    )


def add_out(parser: ArgumentParser, what: str, default: str) -> None:
    """Declare where the result goes."""
    parser.add_argument("--out", type=Path, help=f"{what} (default: {default})")


def add_steps(parser: ArgumentParser, default: str = "the environment's first") -> None:
    """Declare the step count."""
    parser.add_argument("--steps", type=int, help=f"denoising steps (default: {default})")


def add_seed(parser: ArgumentParser, what: str) -> None:
    """Declare the seed."""
    parser.add_argument("--seed", type=int, default=1, help=f"seed of {what}")


def add_resume(parser: ArgumentParser) -> None:
    """Declare how an interrupted run is gone on with."""
    parser.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="go on with an interrupted run: its folder, or the latest of the environment",
    )


def add_device(parser: ArgumentParser) -> None:
    """Declare where the pipeline runs; `on_device` puts it there."""
    parser.add_argument(
        "--device", help="torch device of the pipeline, in place of the environment's: cpu, cuda:1"
    )


def on_device(config: EnvConfig, device: str | None) -> EnvConfig:
    """Return an environment whose pipeline runs on a device; None leaves it where it is."""
    if device is None:
        return config
    return replace(config, pipeline=replace(config.pipeline, device=device))


def add_display(parser: ArgumentParser) -> None:
    """Declare how the command shows that it works."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="show results and errors alone")
    shown.add_argument(
        "--log-json", action="store_true", help="write progress to stderr as a JSON object a line"
    )


def command_line(command: str, *typed: str) -> str:
    """Write a command as it can be typed here: as a script where one runs, else by its name."""
    script = Path(sys.argv[0]).with_name(f"{command}.py")
    by_script = Path(sys.argv[0]).name in ("train.py", "eval.py") and script.is_file()
    return shlex.join(
        [*(("python", str(script)) if by_script else ("ditcache-rl", command)), *typed]
    )


def run_folder(home: Path, resume: str | None = None) -> Path:
    """Return a new run folder, or the one to go on with."""
    if resume is None:
        # Sorted by time, and shared with nothing that begins at the same moment, anywhere.
        return home / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
    if resume != "latest":
        if not resume or not is_there(Path(resume), folder=True):
            raise ConfigError(f"--resume must name a run folder, received {resume!r}")
        return Path(resume)
    runs = sorted(path for path in home.glob("*") if path.is_dir())
    if not runs:
        raise ConfigError(f"--resume found no run in {home}; leave it out to start one")
    return runs[-1]
