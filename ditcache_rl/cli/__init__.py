"""The command line; `train.py`, `eval.py` and the console script `ditcache-rl` end here.

A command is a module of this package, listed in `COMMANDS`. What is heavy is imported when a
command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from ditcache_rl._version import __version__
from ditcache_rl.cli import (
    analyze,
    doctor,
    export,
    init,
    mos,
    record,
    rollout,
    search,
    serve,
    studio,
    study,
    train,
)
from ditcache_rl.cli import eval as evaluate
from ditcache_rl.cli import list as listing
from ditcache_rl.cli.options import HelpFormatter
from ditcache_rl.errors import DitcacheError

# A submodule is an attribute of its package: here `eval` and `list` are no longer the builtins.


class Command(Protocol):
    """What the module of a command has."""

    HELP: str

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare what may be typed after the name of the command."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit status; `options.typed` is what was typed."""


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "init": init,
        "train": train,
        "study": study,
        "search": search,
        "analyze": analyze,
        "eval": evaluate,
        "rollout": rollout,
        "export": export,
        "record-load": record,
        "serve": serve,
        "studio": studio,
        "mos": mos,
        "list": listing,
        "doctor": doctor,
    }
)


_FOR = """\
Make a diffusers pipeline faster: learn, on this machine, at which steps its transformer must
compute and where an earlier result may be reused or forecast, with hardly another image."""
_FIRST = """\
a pipeline of your own:
  ditcache-rl init PIPELINE               look at it, and write NAME.toml: a folder or a Hub id
  ditcache-rl train NAME.toml --estimate  how long training takes here, and what to turn down
  ditcache-rl train NAME.toml             learn a policy
  ditcache-rl eval POLICY --env NAME.toml measure it on prompts that it has not seen

then in Python:
  with ditcache_rl.cached(pipe, POLICY, speedup=2.0): pipe(prompt)
  with ditcache_rl.cached(pipe, "newton", speedup=2.0): ...   # without any training"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.typed = arguments[1:]
    _hush()
    try:
        return COMMANDS[options.command].run(options)
    except DitcacheError as error:
        print("error:", _one_line(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _hush() -> None:
    """Keep away what other libraries say when they are imported; errors are heard.

    That is of packages that are not installed, of kernels for other machines, and of each other.
    """
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _one_line(text: str) -> str:
    """Join what other libraries say in several lines, and show what a terminal would obey."""
    joined = " ".join(text.split("\n"))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in joined)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ditcache-rl",
        description=_FOR,
        epilog=_FIRST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_options(
            commands.add_parser(name, help=command.HELP, formatter_class=HelpFormatter)
        )
    return parser
