"""Refuse arguments of `attach` that are none, or that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from ditcache_rl.cache import Memory
from ditcache_rl.control import Guard
from ditcache_rl.errors import ConfigError, as_written, closest
from ditcache_rl.inference.asked import Over
from ditcache_rl.inference.run import Adapter
from ditcache_rl.instrument import Ranks
from ditcache_rl.policy import Policy

#: What every controller has.
_CONTROLLER = ("probe_blocks", "reset", "decide")


def check_together(
    *, ranks: Ranks | None, adapt: Adapter | None, deadline_s: float | None, over: Over
) -> None:
    """Refuse what two would decide in different ways."""
    if deadline_s is not None and ranks is not None:
        raise ConfigError(
            "expected ranks or deadline_s, received both: ranks that read clocks of their own "
            "would compute different steps; use latency_s"
        )
    if over == "requests" and (adapt is not None or ranks is not None):
        other = "adapt" if adapt is not None else "ranks"
        raise ConfigError(
            f"expected {other} or over='requests', received both: which request takes which "
            "schedule is decided by turns here, and nowhere else"
        )
    if adapt is not None and ranks is not None:
        raise ConfigError(
            "expected ranks or adapt, received both: ranks that measure times of their own "
            "would choose different schedules"
        )


def check_kinds(
    unknown: Iterable[str], known: Collection[str], policy: object, **options: object
) -> None:
    """Refuse what a type checker would have refused, had there been one."""
    for name in unknown:
        raise ConfigError(
            f"expected arguments among {', '.join(known)}, received {name!r}.{closest(name, known)}"
        )
    if not isinstance(policy, str | Path | Policy) and not _has(policy, *_CONTROLLER):
        received = (
            f"the class {policy.__name__}" if isinstance(policy, type) else type(policy).__name__
        )
        if isinstance(policy, Mapping):  # what `load_schedules` returns
            received += f"; take one of its policies, {', '.join(map(repr, policy)) or 'none'}"
        raise ConfigError(
            "policy must be a policy folder, the name of a shipped one, the Hub's 'org/name', a "
            f"schedule file, a Policy or a controller as EveryK(2), received {received}"
        )
    for name, (fits, shape) in _OPTIONS.items():
        if not fits(options[name]):
            raise ConfigError(f"{name} must be {shape}, received {options[name]!r}")
    if options["collapse"]:
        _check_collapse(**{name: options[name] for name in ("memory", "adapt", "ranks", "guard")})


def _check_collapse(**options: object) -> None:
    """Refuse options that have no meaning where nothing is cached and nothing decided."""
    given = {n: value for n, value in options.items() if value not in (None, Memory(), Guard())}
    if given:
        raise ConfigError(
            "a collapsed schedule keeps no cache and decides nothing: expected no memory, adapt, "
            f"ranks or guard beside collapse=True, received {as_written(given)}"
        )


def _has(thing: object, *members: str) -> bool:
    """Tell whether something made, and not its class, has members."""
    return not isinstance(thing, type) and all(hasattr(thing, name) for name in members)


#: What the options of `attach` must be, as code and in words.
_OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {
    "memory": (lambda it: isinstance(it, Memory), "as Memory(device='70%')"),
    "record": (lambda it: it is None or callable(it), "as Recorder('requests.jsonl')"),
    "adapt": (lambda it: it is None or _has(it, "runner", "summary"), "as Bandit(min_psnr=35)"),
    "ranks": (lambda it: it is None or _has(it, "share", "least"), "as Ranks()"),
    "guard": (lambda it: isinstance(it, Guard | None), "as Guard(longest=4), or None"),
    "sites": (lambda it: it is None or (type(it) is int and it >= 1), "a whole number >= 1"),
    "blocks": (lambda it: isinstance(it, str | None), "a path as 'transformer.my_blocks'"),
    "collapse": (lambda it: isinstance(it, bool), "True or False"),
}
