"""Answer tickets with the images of a call, and with what was done for each."""

from __future__ import annotations

import io
from collections.abc import Sequence

from ditcache_rl.inference import Target
from ditcache_rl.schedules import modes_text
from ditcache_rl.serve.server.painter import Painted
from ditcache_rl.serve.server.ticket import ImageTicket, ServedImage


def answer(
    batch: Sequence[ImageTicket], targets: Sequence[Target], painted: Painted, began: float
) -> None:
    """Give everybody who still waits an image.

    Args:
        batch: Of a call.
        targets: What their rows were asked for.
        painted: What came of it.
        began: When, as `time.perf_counter` reads.
    """
    for row, (ticket, target) in enumerate(zip(batch, targets, strict=True)):
        if ticket.gone or ticket.answer.done():
            continue
        log = painted.log
        file = io.BytesIO()
        painted.images[row].save(file, "PNG")
        ticket.give(
            ServedImage(
                png=file.getvalue(),
                target="" if log is None else str(target),
                modes="" if log is None else modes_text(log.modes[:, row]),
                compute_share=1.0 if log is None else float(log.compute_share[row]),
                queue_s=began - ticket.came,
                seconds=painted.seconds,
                rows=len(batch),
            )
        )
