"""`ditcache-rl serve`: answer requests for images over HTTP, as OpenAI's API does."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace

from ditcache_rl.config import PipelineConfig
from ditcache_rl.machine import KEY_VARIABLE

HELP = "serve a pipeline under a policy over HTTP"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "pipeline",
        nargs="?",
        default="builtin:shapes",
        help="builtin:shapes, a folder, or a Hub id",
    )
    parser.add_argument(
        "--policy",
        default="shapes-ppo",
        help="policy folder, name of a shipped one, or schedule file",
    )
    parser.add_argument("--host", default="127.0.0.1", help=f"others need ${KEY_VARIABLE}")
    parser.add_argument("--port", type=int, default=8000, help="TCP port; 0 takes a free one")
    parser.add_argument("--device", default="auto", help="torch device")
    parser.add_argument("--dtype", default="float32", help="torch dtype of the weights")
    parser.add_argument("--speedup", type=float, default=2.0, help="of requests that ask for none")
    parser.add_argument("--rows", type=int, default=8, help="most images that are drawn at a time")
    parser.add_argument("--places", type=int, default=64, help="most images that wait")
    parser.add_argument(
        "--patience-s", type=float, default=60.0, help="of requests that name no deadline"
    )
    parser.add_argument("--most-px", type=int, default=2048, help="most pixels of a side")
    parser.add_argument(
        "--most-request-px",
        type=int,
        default=1 << 24,
        help="most pixels of all images of a request",
    )
    parser.add_argument(
        "--audit",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of batches, drawn once more without the policy; it is switched off if it fails",
    )
    parser.add_argument(
        "--shadow",
        action="store_true",
        help="answer without the policy; audits tell what it would save",
    )


def run(options: Namespace) -> int:
    """Serve until interrupted."""
    from ditcache_rl.inference import open_policy
    from ditcache_rl.machine import check_port
    from ditcache_rl.pipelines import open_matching
    from ditcache_rl.serve import server

    key = os.environ.get(KEY_VARIABLE) or None
    server.check_host(options.host, key)
    check_port(options.host, options.port, least=0)
    settings = server.ServerSettings(
        rows=options.rows,
        places=options.places,
        patience_s=options.patience_s,
        speedup=options.speedup,
        most_px=options.most_px,
        most_request_px=options.most_request_px,
        audit=options.audit,
        shadow=options.shadow,
    )
    policy = open_policy(options.policy)
    source = PipelineConfig(options.pipeline, dtype=options.dtype, device=options.device)
    pipe = open_matching(source, policy.manifest)
    app = server.open_app(pipe, policy, settings, model=options.pipeline, api_key=key)
    listening = server.listen(options.host, options.port)
    where = server.address_of(listening)
    print(f"serving {options.pipeline} under {options.policy} at {where}", flush=True)
    server.serve_forever(app, listening, grace_s=settings.grace_s)
    return 0
