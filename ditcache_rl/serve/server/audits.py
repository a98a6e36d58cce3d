"""Draw some images once more, to see what the policy saves and what it costs.

Where answers are drawn by the policy, an audit draws the reference; in shadow mode answers are the
references, and an audit draws what the policy would have answered. A policy that breaks its floor
is followed no more.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

from ditcache_rl.inference import Target
from ditcache_rl.metrics import unrounded_psnr_db
from ditcache_rl.schedules import computes_of
from ditcache_rl.serve.adaptive import images_of
from ditcache_rl.serve.server.painter import AbandonedError, Painted, Painter
from ditcache_rl.serve.server.ticket import DrawnTicket, ImageTicket

_LOG = logging.getLogger(__name__)
#: Audits that count, and so many below the floor are too many: of a policy that keeps its floor in
#: 95 % of the images, the last twenty have four below it once in sixty times.
_REMEMBERED, _TOO_MANY = 20, 4


class Audits:
    """Compares a share of the images.

    Args:
        share: Of images.
        min_psnr: Floor in dB of images that ask for none; None for what the policy has promised of
            the schedule, or of the next cheaper one of which it has promised anything.
        seed: Of the choice.

    Attributes:
        count: Images that were compared.
        psnr_db: Of the last ones.
        broken: Of these, those below their floor.
        policy_s: Seconds of calls under the policy.
        reference_s: Of the same calls without.
        verdict: Why the policy is followed no more; "" while it is.
    """

    def __init__(self, share: float, *, min_psnr: float | None = None, seed: int = 0) -> None:
        self.count, self.policy_s, self.reference_s, self.verdict = 0, 0.0, 0.0, ""
        self.psnr_db: deque[float] = deque(maxlen=_REMEMBERED)
        self.broken: deque[bool] = deque(maxlen=_REMEMBERED)
        self._share, self._min_psnr = share, min_psnr
        self._rng = np.random.default_rng(seed)
        self._stopped = False
        self._drawn: list[ImageTicket] = []
        self._lock = threading.Lock()  # audits may end at the same time

    def stop(self) -> None:
        """Have audits end at their next step, and begin no other."""
        with self._lock:
            self._stopped = True
            for ticket in self._drawn:
                ticket.gone = True

    def chosen(self) -> bool:
        """Tell by chance whether the next image is audited."""
        with self._lock:
            return not self._stopped and self._rng.random() < self._share

    def audit(
        self, painter: Painter, drawing: DrawnTicket, target: Target, painted: Painted
    ) -> None:
        """Audit an image that was answered; nothing that goes wrong here is anybody's.

        Args:
            painter: Draws.
            drawing: To draw it once more, not rounded: what policies promise is of such images.
            target: What it was drawn for.
            painted: What came of it.
        """
        with self._lock:
            if self._stopped or painter.run.distrusted:
                return
            self._drawn.append(drawing.ticket)
        try:
            if painted.log is None:
                cached, reference = painter.draw(drawing, target), painted
            else:
                cached, reference = painted, painter.reference(drawing)
        except AbandonedError:
            return
        except Exception:
            _LOG.exception("an audit failed")
            return
        finally:
            with self._lock:
                self._drawn.remove(drawing.ticket)
        served, again = painted, reference if cached is painted else cached
        rounded, unrounded = images_of(([served.image],)), images_of((again.image[None],))
        if rounded is None or unrounded is None:
            return
        floor = self._floor(painter, drawing.ticket, target)
        whole = cached.log is not None  # else nothing finite came of the estimates
        psnr = float(unrounded_psnr_db(rounded, unrounded)[0]) * whole
        with self._lock:
            self.policy_s += cached.own_s
            self.reference_s += reference.own_s
            self.note([psnr], [floor])
            if self.verdict:
                painter.run.distrust(self.verdict)

    def note(self, psnrs: Sequence[float], floors: Sequence[float]) -> None:
        """Note what images reached, and judge.

        Args:
            psnrs: In dB, one of each image.
            floors: Likewise; nan where nothing was promised.
        """
        for psnr, floor in zip(psnrs, floors, strict=True):
            self.count += 1
            self.psnr_db.append(psnr)
            if not math.isnan(floor):
                self.broken.append(psnr < floor)
        if sum(self.broken) >= _TOO_MANY:
            self.verdict = (
                f"{sum(self.broken)} of the last {len(self.broken)} audited images were below the "
                "floor that the policy promises; is the model another one? Train the policy again"
            )
            _LOG.error("%s", self.verdict)

    def summary(self) -> str:
        """Say what the policy saves, and what images reach."""
        if not self.count:
            return "no audit yet"
        saved = 1 - self.policy_s / self.reference_s
        return (
            f"{self.count} audits: {saved:.0%} of the time saved, PSNR "
            f"{float(np.mean(self.psnr_db)):.1f} dB in the mean of the last {len(self.psnr_db)}, "
            f"{sum(self.broken)} below the floor"
        )

    def _floor(self, painter: Painter, ticket: ImageTicket, target: Target) -> float:
        if target.min_psnr is not None:
            return target.min_psnr
        if self._min_psnr is not None:
            return self._min_psnr
        table = painter.policy.tables[ticket.steps]
        spent = computes_of(target.budget or 1.0, table.site_steps)
        known = [one.floor_psnr_db for computes, one in table.items() if computes <= spent]
        return next((one for one in reversed(known) if not math.isnan(one)), math.nan)
