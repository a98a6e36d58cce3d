"""Who waits, who is drawn next, and who is told at once that there is no time."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ditcache_rl.serve.server.answers import answer
from ditcache_rl.serve.server.audits import Audits
from ditcache_rl.serve.server.costs import CallCosts, measured_costs
from ditcache_rl.serve.server.order import foretell, joining, late_at_best, lost_by
from ditcache_rl.serve.server.painter import AbandonedError, Painted, Painter
from ditcache_rl.serve.server.settings import ServerSettings
from ditcache_rl.serve.server.shares import Shares
from ditcache_rl.serve.server.ticket import (
    DrawnTicket,
    ImageTicket,
    Refused,
    dead,
    failed,
    missed,
    not_ready,
    stopping,
)

_LOG = logging.getLogger(__name__)
#: Longest that a client is told to stay away.
_LONGEST_RETRY_S = 60.0
#: A step that runs when the grace ends may take so long before the thread is left to itself.
_LAST_STEP_S = 5.0


class Engine:
    """Draws what is asked for, each image in a thread of its own.

    Args:
        painter: Draws.
        settings: Limits.
        audits: Compares some images with their references; None for none.
        watch: Hears of calls.

    Attributes:
        ready: Set once drawings have been measured.
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
        self._waiting: list[ImageTicket] = []  # as a whole: others read meanwhile
        self._drawn: list[DrawnTicket] = []  # likewise
        self._news = threading.Condition()
        self._stopping = False
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
            for ticket in (*self._waiting, *(one.ticket for one in self._drawn)):
                ticket.refuse(stopping())
            self._waiting = []
            self._news.notify_all()
        self._thread.join(_LAST_STEP_S)
        if self.alive:
            _LOG.error("a step of the pipeline does not end; its thread is left to itself")
        else:
            self.painter.close()

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
                raise not_ready()
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
            self._waiting = sorted([*self._waiting, *tickets], key=lambda one: one.deadline)
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
        ends = foretell(self._drawn, self._waiting, now, self._costs, rows=self._rows).ends
        seconds = max(ends.values(), default=now) - now
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
        return late_at_best(self._drawn, tickets, now, self._costs, rows=self._rows)

    def _work(self) -> None:
        try:
            costs = measured_costs(self.painter, rows=self.settings.rows)
            shares = Shares(self.painter.policy, costs, rows=self.settings.rows)
            self._rows = shares.rows
        except AbandonedError:
            return
        except Exception:
            _LOG.exception("no call of the pipeline can be measured")
            return
        self._costs = costs
        self.ready.set()
        threads = list[threading.Thread]()
        while begun := self._next(costs):
            self._grant(begun, shares)
            threads = [one for one in threads if one.is_alive()]
            for drawing in begun:
                given = drawing, shares, costs
                threads.append(threading.Thread(target=self._draw, args=given, daemon=True))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _next(self, costs: CallCosts) -> list[DrawnTicket]:
        """Wait until somebody can begin, and return who does; nobody once all is done."""
        with self._news:
            while not (begun := self._take(costs)) and (self._waiting or not self._stopping):
                self._news.wait()
        return begun

    def _take(self, costs: CallCosts) -> list[DrawnTicket]:
        """Take who begins off the queue, and tell those that cannot be in time any more."""
        self._drop_gone()
        self._follow_no_more(self._waiting)
        now = time.perf_counter()
        lost = lost_by(self._waiting, now, costs)
        for ticket in lost:
            ticket.refuse(missed(now - ticket.came))
        left = [one for one in self._waiting if one not in lost]
        drawn = [one.ticket for one in self._drawn]
        begun = joining(drawn, left, costs, rows=self._rows)
        self._waiting = [one for one in left if one not in begun]
        found = [DrawnTicket(one, one.least) for one in begun]
        self._drawn = [*self._drawn, *found]
        return found

    def _grant(self, begun: Sequence[DrawnTicket], shares: Shares) -> None:
        """Decide how much those compute who begin."""
        drawn = [one for one in self._drawn if one not in begun]
        tickets = [one.ticket for one in begun]
        try:
            granted = shares.computes(tickets, drawn, self._waiting, time.perf_counter())
        except Exception:  # nobody waits for ever
            _LOG.exception("nobody knows how much to compute; it is as little as may be")
            granted = [one.least for one in tickets]
        for drawing, computes in zip(begun, granted, strict=True):
            drawing.computes = computes

    def _draw(self, drawing: DrawnTicket, shares: Shares, costs: CallCosts) -> None:
        """Answer a ticket, whatever goes wrong."""
        try:
            self._call(drawing, shares, costs)
        except AbandonedError:
            drawing.ticket.answer.cancel()
        except Exception as error:
            _LOG.exception("an image failed")
            drawing.ticket.refuse(failed(error))
        finally:
            self._done(drawing)

    def _call(self, drawing: DrawnTicket, shares: Shares, costs: CallCosts) -> None:
        began, ticket = time.perf_counter(), drawing.ticket
        target = shares.target_of(ticket, drawing.computes)
        if self.settings.shadow:
            painted = self.painter.reference(drawing)
        else:
            painted = self.painter.draw(drawing, target)
        costs.note(painted.work, painted.seconds, ticket.size)
        again = self._again(drawing)
        self._done(drawing)  # others may begin while the image is written
        try:
            answer(ticket, target, painted, began)
            self._watch(painted)
            if self.audits is not None and again is not None:
                self.audits.audit(self.painter, again, target, painted)
        finally:
            if again is not None:
                self._done(again)

    def _again(self, drawing: DrawnTicket) -> DrawnTicket | None:
        """Put an audit in the place of an image, if it is chosen and that makes nobody late."""
        if self.audits is None or not self.audits.chosen():
            return None
        whole = self.painter.policy.tables[drawing.ticket.steps].site_steps
        # Who has gone away, or has the answer, has an image that tells as much.
        asked = replace(drawing.ticket, gone=False, deadline=math.inf)
        again = DrawnTicket(asked, whole, rounded=False)
        with self._news:
            before = self._drawn
            self._drawn = [*(one for one in before if one is not drawing), again]
            if self._stopping or self._late(self._waiting, time.perf_counter()):
                self._drawn = before
                return None
        return again

    def _done(self, drawing: DrawnTicket) -> None:
        """Free the place of an image."""
        with self._news:
            self._drawn = [one for one in self._drawn if one is not drawing]
            self._news.notify_all()
