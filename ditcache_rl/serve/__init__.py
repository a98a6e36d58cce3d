"""Learn from requests in service, and record what they read and wrote."""

from ditcache_rl.serve.arms import Arm, Turn
from ditcache_rl.serve.bandit import Bandit
from ditcache_rl.serve.record import RecordedRequest, Recorder, read_requests

__all__ = [
    "Arm",
    "Bandit",
    "RecordedRequest",
    "Recorder",
    "Turn",
    "read_requests",
]
