"""Learn from requests in service, and record what they read and wrote."""

from ditcache_rl.serve.bandit import Arm, Bandit, arms_of
from ditcache_rl.serve.record import History, Recorder, read_histories

__all__ = [
    "Arm",
    "Bandit",
    "History",
    "Recorder",
    "arms_of",
    "read_histories",
]
