"""What Prometheus reads of a server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ditcache_rl.serve.server.engine import Engine
from ditcache_rl.serve.server.painter import Painted
from ditcache_rl.types import Mode

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class ServerMeasures:
    """Counts in a registry of its own, so that several servers of a process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refused = Counter(
            "ditcache_refused",
            "Requests without an answer, by reason",
            ["reason"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "ditcache_request_seconds",
            "From request to its images",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "ditcache_queue_seconds", "In the queue", buckets=_SECONDS, registry=self.registry
        )
        self._rows = Histogram(
            "ditcache_images_together",
            "Images that were computed at a time, in the mean while one was drawn",
            buckets=_ROWS,
            registry=self.registry,
        )
        self._steps = Counter(
            "ditcache_site_steps", "Site steps by what was done", ["mode"], registry=self.registry
        )

    def read(self, engine: Engine) -> None:
        """Have the state of an engine read whenever somebody asks."""
        self.registry.register(_State(engine))

    def answered(self, seconds: float, queue_s: float) -> None:
        """Count a request that got its images."""
        self._latency.observe(seconds)
        self._queue.observe(queue_s)

    def refused(self, reason: str) -> None:
        """Count a request that got none: what is told at once says nothing of latency."""
        self._refused.labels(reason).inc()

    def called(self, painted: Painted) -> None:
        """Count a call of the pipeline."""
        self._rows.observe(painted.together)
        if painted.log is not None:
            for mode in Mode:
                count = int((painted.log.modes == mode).sum())
                self._steps.labels(mode.name.lower()).inc(count)

    def text(self) -> bytes:
        """Write all of it down."""
        return generate_latest(self.registry)


class _State(Collector):
    """What an engine knows anyway."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Read it."""
        engine = self._engine
        stats, run = engine.painter.run.cache.stats, engine.painter.run
        yield GaugeMetricFamily("ditcache_waiting", "Images that wait", engine.waiting)
        ready = float(engine.ready.is_set() and engine.alive)
        yield GaugeMetricFamily("ditcache_ready", "Whether requests are taken", ready)
        hits = CounterMetricFamily("ditcache_tier_hits", "Entries read", labels=["tier"])
        for tier in ("device", "host", "disk"):
            hits.add_metric([tier], getattr(stats, f"{tier}_hits"))
        yield hits
        yield CounterMetricFamily("ditcache_tier_misses", "Entries missed", stats.misses)
        moved = CounterMetricFamily("ditcache_tier_bytes", "Bytes moved", labels=["direction"])
        moved.add_metric(["written"], stats.bytes_written)
        moved.add_metric(["read"], stats.bytes_read)
        yield moved
        used = run.cache.used_bytes
        yield GaugeMetricFamily("ditcache_cache_bytes", "Bytes of entries", used)
        trusted = float(not run.distrusted)
        yield GaugeMetricFamily("ditcache_policy_trusted", "Whether it is followed", trusted)
        audits = engine.audits
        if audits is not None and audits.count:
            yield CounterMetricFamily("ditcache_audits", "Images compared", audits.count)
            mean = float(np.mean(audits.psnr_db))
            yield GaugeMetricFamily("ditcache_audited_psnr_db", "Mean of the last ones", mean)
            below = sum(audits.broken)
            yield GaugeMetricFamily("ditcache_audited_below_floor", "Of the last ones", below)
            saved = 1 - audits.policy_s / audits.reference_s
            yield GaugeMetricFamily("ditcache_audited_saved_share", "Of the time", saved)
