"""`ditcache-rl studio`: draw, compare and rate images in a browser on this machine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ditcache_rl.config import find_policy, load_env, shipped_envs, shipped_policies
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import is_there

HELP = "draw, compare and rate images in a browser"
_LOCAL, _PORT = "127.0.0.1", 7860


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "env", nargs="?", default="shapes", help="environment that is chosen first, file or name"
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        default=[],
        metavar="POLICY",
        help="policies beside the shipped ones; the first is chosen first",
    )
    parser.add_argument("--mos", type=Path, metavar="DIR", help="serve this set to raters instead")
    parser.add_argument("--host", default=_LOCAL, help="address to listen at")
    parser.add_argument("--port", type=int, default=_PORT, help="port to listen at")


def run(options: Namespace) -> int:
    """Serve until interrupted."""
    load_env(options.env)
    for policy in options.policy:
        if not is_there(Path(policy)):
            find_policy(policy)
    from ditcache_rl.machine import check_port, require

    require("studio", "gradio")
    check_port(options.host, options.port)
    from ditcache_rl.studio.serve import serve

    if options.mos is not None:
        from ditcache_rl.mos import Ratings, RatingSet
        from ditcache_rl.studio.rating import rating_page

        page = rating_page(RatingSet.read(options.mos), Ratings.of(options.mos))
    else:
        from ditcache_rl.studio.app import studio_page
        from ditcache_rl.studio.draw import Studio

        policies = list(dict.fromkeys([*options.policy, *shipped_policies()]))
        if not policies:
            raise ConfigError("expected a policy to show, received none; name one with --policy")
        page = studio_page(Studio(list(dict.fromkeys([options.env, *shipped_envs()])), policies))
    print(f"open http://{options.host}:{options.port} in a browser; Ctrl-C ends it", flush=True)
    serve(page, host=options.host, port=options.port)
    return 0
