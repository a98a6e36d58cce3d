"""Answer a ticket with its image, and with what was done for it."""

from __future__ import annotations

import io

from ditcache_rl.inference import Target
from ditcache_rl.schedules import modes_text
from ditcache_rl.serve.server.painter import Painted
from ditcache_rl.serve.server.ticket import ImageTicket, ServedImage


def answer(ticket: ImageTicket, target: Target, painted: Painted, began: float) -> None:
    """Give an image to who still waits for it.

    Args:
        ticket: Of the image.
        target: What it was drawn for.
        painted: What came of it.
        began: When, as `time.perf_counter` reads.
    """
    if ticket.gone or ticket.answer.done():
        return
    log, file = painted.log, io.BytesIO()
    painted.image.save(file, "PNG")
    ticket.give(
        ServedImage(
            png=file.getvalue(),
            target="" if log is None else str(target),
            modes="" if log is None else modes_text(log.modes[:, 0]),
            compute_share=1.0 if log is None else float(log.compute_share[0]),
            queue_s=began - ticket.came,
            seconds=painted.seconds,
        )
    )
