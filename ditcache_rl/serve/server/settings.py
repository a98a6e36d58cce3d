"""What a server may be told."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ditcache_rl.config import check_within
from ditcache_rl.errors import ConfigError
from ditcache_rl.machine import KEY_VARIABLE
from ditcache_rl.types import MOST_COUNT


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and habits of a server.

    Attributes:
        rows: Most images that are drawn at a time, as far as it pays: more use an accelerator
            better, and each waits for all of its batch.
        places: Most images that wait; who comes then is refused.
        patience_s: Seconds that a request may take which names no deadline.
        speedup: Target of requests that name none.
        most_px: Most pixels of a side.
        most_request_px: Most pixels of all images of a request together.
        most_body_bytes: Most bytes of a request.
        grace_s: Seconds that a server which is told to stop takes to finish what was asked for;
            audits end at once, and what is left after it ends at its next step.
        audit: Share of batches that are drawn once more with every step computed.
        shadow: Whether answers are drawn without the policy, and the policy only in audits.

    Raises:
        ConfigError: If a number is out of range.
    """

    rows: int = 8
    places: int = 64
    patience_s: float = 60.0
    speedup: float = 2.0
    most_px: int = 2048
    most_request_px: int = 1 << 24
    most_body_bytes: int = 1 << 16
    grace_s: float = 30.0
    audit: float = 0.0
    shadow: bool = False

    def __post_init__(self) -> None:
        check_within("rows", self.rows, 1, 1024, whole=True)
        check_within("places", self.places, 1, MOST_COUNT, whole=True)
        check_within("patience_s", self.patience_s, 0, above=True)
        check_within("speedup", self.speedup, 1)
        check_within("most_px", self.most_px, 8, 1 << 16, whole=True)
        check_within("most_request_px", self.most_request_px, 64, 1 << 40, whole=True)
        check_within("most_body_bytes", self.most_body_bytes, 256, 1 << 30, whole=True)
        check_within("grace_s", self.grace_s, 0)
        check_within("audit", self.audit, 0, 1)


def check_host(host: str, api_key: str | None) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        ConfigError: If the host is not of this machine alone, and there is no key.
    """
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = host == "localhost"
    if not is_own and not api_key:
        raise ConfigError(
            f"expected an API key to serve other machines, received host {host!r} and none; set "
            f"{KEY_VARIABLE}, or serve 127.0.0.1"
        )
