"""Who waits, who is drawn next, and who is told at once that there is no time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from ditcache_rl.inference import Target
from ditcache_rl.serve.server.answers import answer
from ditcache_rl.serve.server.audits import Audits
from ditcache_rl.serve.server.costs import CallCosts, measured_costs
from ditcache_rl.serve.server.order import ends_at_best, late_at_best, lost_by, next_batch
from ditcache_rl.serve.server.painter import AbandonedError, Painted, Painter
from ditcache_rl.serve.server.settings import ServerSettings
from ditcache_rl.serve.server.shares import Shares
from ditcache_rl.serve.server.ticket import (
    ImageTicket,
    Refused,
    dead,
    failed,
    stopping,
)

_LOG = logging.getLogger(__name__)
#: Longest that a client is told to stay away.
_LONGEST_RETRY_S = 60.0
#: A step that runs when the grace ends may take so long before the thread is left to itself.
_LAST_STEP_S = 5.0


class Engine:
    """Draws what is asked for, in one thread of its own.

    Args:
        painter: Draws.
        settings: Limits.
        audits: Compares some images with their references; None for none.
        watch: Hears of calls.

    Attributes:
        ready: Set once calls have been measured.
    """

    def __init__(
        self,
        painter: Painter,
        settings: ServerSettings,
        *,
        audits: Audits | None = None,
        watch: Callable[[Painted], None] = lambda painted: None,
    ) -> None:
        self.painter, self.settings, self.audits = painter, settings, audits
        self.ready = threading.Event()
        self._watch = watch
        self._waiting: list[ImageTicket] = []
        self._drawn: list[ImageTicket] = []
        self._news = threading.Condition()
        self._stopping = False
        self._ends = 0.0  # when the present call will probably end
        self._thread = threading.Thread(target=self._work, name="ditcache-rl engine", daemon=True)
        self._costs: CallCosts | None = None
        self._rows = settings.rows

    def start(self) -> None:
        """Measure calls, and begin to draw; `ready` says when."""
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more, finish what is there within the grace, and end the thread.

        Audits end at once. What is not done after the grace is refused, and ends at its next step;
        a pipeline whose step does not end either keeps its thread, and stays as it is.
        """
        with self._news:
            self._stopping = True
            self._news.notify_all()
        if self.audits is not None:
            self.audits.stop()
        if not self.ready.is_set():  # only calls that are measured run, for nobody
            self.painter.ended.set()
        self._thread.join(self.settings.grace_s)
        with self._news:
            self.painter.ended.set()
            for ticket in (*self._waiting, *self._drawn):
                ticket.refuse(stopping())
            self._waiting.clear()
            self._news.notify_all()
        self._thread.join(_LAST_STEP_S)
        if self.alive:
            _LOG.error("a step of the pipeline does not end; its thread is left to itself")
        else:
            self.painter.close()

    @property
    def _least(self) -> int:
        """Site computes of the cheapest schedule, at the first step count."""
        return self.painter.policy.tables[self.painter.policy.steps[0]].least

    @property
    def alive(self) -> bool:
        """Whether images are drawn."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    def pixels(self, size: tuple[int, int] | None) -> int:
        """Return the pixels of an image; 0 where that is not known before calls are measured."""
        own = size or self.painter.size
        if own is not None:
            return own[0] * own[1]
        return 0 if self._costs is None else self._costs.own_px

    def submit(self, tickets: Sequence[ImageTicket]) -> None:
        """Take tickets, all of them or none.

        Raises:
            Refused: If there is no place, or even the cheapest schedules would be too late.
        """
        with self._news:
            if self._stopping:
                raise stopping()
            if self._thread.ident is not None and not self.alive:
                raise dead()
            if self._costs is None:
                raise Refused(
                    "expected a server that is ready, which /ready tells; it measures its calls",
                    status=503,
                    code="not_ready",
                    retry_after_s=1.0,
                )
            self._drop_gone()
            now = time.perf_counter()
            self._follow_no_more([*self._waiting, *tickets])
            if len(self._waiting) + len(tickets) > self.settings.places:
                raise self._refused(
                    f"{len(self._waiting)} images wait already, of at most {self.settings.places}",
                    "queue_full",
                    now,
                )
            late = self._late([*self._waiting, *tickets], now) - self._late(self._waiting, now)
            if late:
                raise self._refused(
                    "not even the cheapest schedules would be in time for everybody",
                    "deadline_out_of_reach",
                    now,
                )
            self._waiting += tickets
            self._waiting.sort(key=lambda one: one.deadline)
            self._news.notify_all()

    def forget(self, tickets: Sequence[ImageTicket]) -> None:
        """Free the places of tickets that nobody waits for any more."""
        with self._news:
            for ticket in tickets:
                ticket.gone = True
            self._drop_gone()

    def _drop_gone(self) -> None:
        for ticket in self._waiting:
            if ticket.gone:
                ticket.answer.cancel()
        self._waiting = [ticket for ticket in self._waiting if not ticket.gone]

    def _follow_no_more(self, tickets: Sequence[ImageTicket]) -> None:
        """Where the policy is trusted no more, have those need every compute who came before."""
        if self.painter.run.distrusted:
            for ticket in tickets:
                whole = self.painter.policy.tables[ticket.steps].site_steps
                ticket.least = ticket.most = whole

    def _refused(self, why: str, code: str, now: float) -> Refused:
        """Say when to come again: when the images that are here are probably done."""
        assert self._costs is not None
        ends, at = ends_at_best, max(now, self._ends)
        *_, last = at, *(end for _, end in ends(self._waiting, at, self._costs, rows=self._rows))
        seconds = last - now
        after_s = min(max(1.0, seconds), _LONGEST_RETRY_S)
        return Refused(
            f"{why}: come again in {after_s:.0f} s, or allow more time",
            status=429,
            code=code,
            retry_after_s=after_s,
        )

    def _late(self, tickets: Sequence[ImageTicket], now: float) -> set[int]:
        """Return who would be late if everybody computed as little as may be."""
        assert self._costs is not None
        return late_at_best(tickets, max(now, self._ends), self._costs, rows=self._rows)

    def _work(self) -> None:
        try:
            costs = measured_costs(self.painter, rows=self.settings.rows)
            self._rows = costs.rows_that_pay(self.settings.rows, self._least)
            shares = Shares(self.painter.policy, costs, rows=self._rows)
        except AbandonedError:
            return
        except Exception:
            _LOG.exception("no call of the pipeline can be measured")
            return
        self._costs = costs
        self.ready.set()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._stopping)
                batch = self._take(costs)
                waiting = list(self._waiting)
                if not batch and self._stopping and not waiting:
                    return
            if batch:
                self._draw(batch, waiting, shares, costs)

    def _take(self, costs: CallCosts) -> list[ImageTicket]:
        """Take the next images off the queue, and tell those that cannot be in time any more."""
        self._drop_gone()
        self._follow_no_more(self._waiting)
        now = time.perf_counter()
        lost = lost_by(self._waiting, now, costs)
        for ticket in lost:
            ticket.refuse(
                Refused(
                    f"the deadline passed after {now - ticket.came:.2f} s in the queue",
                    status=504,
                    code="deadline_missed",
                )
            )
        self._waiting = [one for one in self._waiting if one not in lost]
        self._drawn = []
        if self._waiting:
            self._drawn, self._waiting = next_batch(self._waiting, costs, rows=self._rows)
            most = max(one.most for one in self._drawn)
            self._ends = now + costs.batch_s(most, costs.rows_of(self._drawn))
        return self._drawn

    def _draw(
        self, batch: list[ImageTicket], waiting: list[ImageTicket], shares: Shares, costs: CallCosts
    ) -> None:
        """Answer a batch, whatever goes wrong."""
        left: list[ImageTicket] = []
        try:
            self._call(batch, waiting, shares, costs)
        except AbandonedError:
            for ticket in batch:
                ticket.answer.cancel()
        except Exception as error:
            left = [one for one in batch if not one.answer.done()]
            if len(batch) == 1:
                _LOG.exception("a call failed")
                batch[0].refuse(failed(error))
                return
        # Whoever is to blame fails alone. Out of the handler: its error keeps the call's tensors.
        for ticket in left:
            self._draw([ticket], waiting, shares, costs)

    def _call(
        self, batch: list[ImageTicket], waiting: list[ImageTicket], shares: Shares, costs: CallCosts
    ) -> None:
        began = time.perf_counter()
        computes = shares.computes(batch, waiting, began)
        targets = [shares.target_of(*one) for one in zip(batch, computes, strict=True)]
        self._ends = began + costs.batch_s(max(computes), costs.rows_of(batch))
        painted = self._paint(batch, targets)
        answer(batch, targets, painted, began)
        table = self.painter.policy.tables[batch[0].steps]
        costs.note(
            painted.computing(table.site_steps), len(batch), painted.seconds, size=batch[0].size
        )
        self._watch(painted)
        if self.audits is not None and self._has_time(costs, batch):
            self.audits.consider(self.painter, batch, targets, painted)

    def _paint(self, batch: Sequence[ImageTicket], targets: Sequence[Target]) -> Painted:
        if self.settings.shadow:
            return self.painter.reference(batch)
        return self.painter.draw(batch, targets)

    def _has_time(self, costs: CallCosts, batch: Sequence[ImageTicket]) -> bool:
        """Tell whether a call with every step computed would make nobody late who waits."""
        steps = self.painter.policy.tables[batch[0].steps].site_steps
        with self._news:
            self._ends = time.perf_counter() + costs.batch_s(steps, costs.rows_of(batch))
            return not (self._stopping or self._late(self._waiting, time.perf_counter()))
