"""Serve a pipeline under a policy over HTTP; needs the `serve` extra.

A request becomes tickets (`ticket`) in the queue of an `engine`, which has each drawn by a call of
its own (`painter`); images that are drawn at the same time are computed together (`meeting`). Who
begins when is said by `order`. How much each computes follows from the time that all who are there
may take (`shares`) and from what images cost here (`costs`). `app` alone knows HTTP.

Raises:
    ConfigError: On import, if what the extra brings is not installed.
"""

from ditcache_rl.machine import SERVING, require

require("serve", *SERVING)

from ditcache_rl.serve.server.app import make_app, open_app
from ditcache_rl.serve.server.audits import Audits
from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.engine import Engine
from ditcache_rl.serve.server.measures import ServerMeasures
from ditcache_rl.serve.server.painter import Painter
from ditcache_rl.serve.server.process import address_of, listen, log_lines, serve_forever
from ditcache_rl.serve.server.settings import ServerSettings, check_host
from ditcache_rl.serve.server.ticket import ImageTicket, Refused, ServedImage

__all__ = [
    "Audits",
    "CallCosts",
    "Engine",
    "ImageTicket",
    "Painter",
    "Refused",
    "ServedImage",
    "ServerMeasures",
    "ServerSettings",
    "address_of",
    "check_host",
    "listen",
    "log_lines",
    "make_app",
    "open_app",
    "serve_forever",
]
