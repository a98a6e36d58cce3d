"""The HTTP face of an engine."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer

from ditcache_rl._version import __version__
from ditcache_rl.errors import BudgetError, closest
from ditcache_rl.policy import Policy
from ditcache_rl.serve.server.audits import Audits
from ditcache_rl.serve.server.body import BodyLimit
from ditcache_rl.serve.server.engine import Engine
from ditcache_rl.serve.server.faults import handle_errors
from ditcache_rl.serve.server.key import KeyCheck
from ditcache_rl.serve.server.measures import ServerMeasures
from ditcache_rl.serve.server.painter import Painter
from ditcache_rl.serve.server.protocol import (
    ErrorResponse,
    ImageData,
    ImageRequest,
    ImageResponse,
    ModelFacts,
    ModelList,
    StateResponse,
)
from ditcache_rl.serve.server.settings import ServerSettings
from ditcache_rl.serve.server.ticket import ImageTicket, Refused, ServedImage, dead, not_ready

_LOG = logging.getLogger(__name__)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 413, 429, 500, 503, 504)
}
#: For whoever reads the schema; `KeyCheck` asks for the key.
_BEARER = Depends(HTTPBearer(auto_error=False))
#: What nginx notes of clients that went away before there was an answer.
_GONE = 499


def open_app(
    pipe: Any,
    policy: Policy,
    settings: ServerSettings,
    *,
    model: str,
    api_key: str | None = None,
    **options: Any,
) -> FastAPI:
    """Make an app that serves a pipeline under a policy, and all that belongs to it.

    Args:
        pipe: A diffusers pipeline that draws images of prompts.
        policy: Of this pipeline.
        settings: Limits.
        model: As of `make_app`.
        api_key: Likewise.
        options: Of `attach`.

    Raises:
        DitcacheError: As of `attach`.
    """
    measures = ServerMeasures()
    painter = Painter(pipe, policy, speedup=settings.speedup, **options)
    share = settings.audit or float(settings.shadow)
    engine = Engine(
        painter, settings, audits=Audits(share) if share else None, watch=measures.called
    )
    return make_app(engine, measures, model=model, api_key=api_key)


def make_app(
    engine: Engine, measures: ServerMeasures, *, model: str, api_key: str | None = None
) -> FastAPI:
    """Make an ASGI app that starts an engine and stops it again.

    Args:
        engine: Draws; not started yet.
        measures: Of the same engine.
        model: Name of what is served.
        api_key: Must be in every request but those for health; None for none.

    Returns:
        The app; the engine is its `state.engine`.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    app = FastAPI(title="ditcache-rl", version=__version__, lifespan=life)
    app.state.engine = engine
    told = measures.refused
    app.add_middleware(BodyLimit, most_bytes=engine.settings.most_body_bytes, told=told)
    if api_key is not None:  # outermost: of who has no key nothing is read
        app.add_middleware(KeyCheck, api_key=api_key, told=told)
    measures.read(engine)
    handle_errors(app, told)
    _add_images(app, engine, measures, model=model)
    _add_state(app, engine, measures)

    @app.get("/v1/models", responses={401: _ERRORS[401]}, dependencies=[_BEARER])
    async def models() -> ModelList:
        """Name what is served."""
        return ModelList(data=[ModelFacts(id=model)])

    return app


def _add_images(app: FastAPI, engine: Engine, measures: ServerMeasures, *, model: str) -> None:
    @app.post("/v1/images/generations", responses=_ERRORS, dependencies=[_BEARER])
    async def generate(wanted: ImageRequest, request: Request) -> ImageResponse:
        """Draw images of a prompt."""
        began, outcome, drawn = time.perf_counter(), "failed", list[ServedImage]()
        try:
            tickets = _tickets(engine, wanted, model)
            drawn = await _drawn(engine, tickets, request)
            outcome = "drawn"
        except Refused as refused:
            outcome = refused.code
            raise
        finally:
            seconds = time.perf_counter() - began
            fields: dict[str, Any] = {
                "outcome": outcome,
                "images": wanted.n,
                "seconds": round(seconds, 4),
            }
            if drawn:
                queue_s = max(one.queue_s for one in drawn)
                measures.answered(seconds, queue_s)
                shares = [round(one.compute_share, 4) for one in drawn]
                fields |= {"queue_s": queue_s, "target": drawn[0].target, "compute_share": shares}
            _LOG.info("request", extra={"fields": fields})
        return ImageResponse(data=[_data(*one) for one in zip(tickets, drawn, strict=True)])


def _add_state(app: FastAPI, engine: Engine, measures: ServerMeasures) -> None:
    @app.get("/health", responses={503: _ERRORS[503]})
    async def health() -> StateResponse:
        """Tell whether the process can draw at all."""
        if not engine.alive:
            raise dead()
        return StateResponse(status="alive")

    @app.get("/ready", responses={503: _ERRORS[503]})
    async def ready() -> StateResponse:
        """Tell whether requests are taken."""
        if not engine.alive:
            raise dead()
        if not engine.ready.is_set():
            raise not_ready()
        return StateResponse(status="ready")

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={401: _ERRORS[401]},
        dependencies=[_BEARER],
    )
    async def metrics() -> PlainTextResponse:
        """Write what Prometheus reads."""
        return PlainTextResponse(measures.text(), media_type="text/plain; version=0.0.4")


def _tickets(engine: Engine, wanted: ImageRequest, model: str) -> list[ImageTicket]:
    """Turn a request into tickets.

    Raises:
        Refused: If it asks for what is not here.
    """
    policy, settings = engine.painter.policy, engine.settings
    if wanted.model not in (None, model):
        raise Refused(
            f"expected model {model!r}, received {wanted.model!r}."
            f"{closest(str(wanted.model), [model])}",
            status=404,
            code="model_not_found",
        )
    steps = policy.steps[0] if wanted.steps is None else wanted.steps
    if steps not in policy.steps:
        raise _invalid(f"steps must be one of {policy.steps}, received {steps}")
    size = wanted.size_px
    if size is not None and (max(size) > settings.most_px or size[0] % 16 or size[1] % 16):
        raise _invalid(
            f"size must be of multiples of 16 up to {settings.most_px}, received {wanted.size!r}"
        )
    count = wanted.n or 1
    if count * engine.pixels(size) > settings.most_request_px:
        raise _invalid(
            f"expected images of at most {settings.most_request_px} pixels together, received "
            f"{count} of {engine.pixels(size)}; ask for fewer or smaller ones"
        )
    try:
        least, most = engine.painter.bounds(wanted.target, steps)
    except BudgetError as error:
        raise _invalid(str(error)) from error
    whole = policy.tables[steps].site_steps
    asks_time = wanted.within_s is not None and wanted.target is None
    if settings.shadow:  # answers compute everything, audits what is usual
        least, asks_time = whole, False
    elif asks_time:
        most = whole
    floor = wanted.target if wanted.target and wanted.target.names_floor else None
    deadline = time.perf_counter() + (wanted.within_s or settings.patience_s)
    size = None if size == engine.painter.size else size
    return [
        ImageTicket(wanted.prompt, seed, steps, size, least, most, floor, deadline, asks_time)
        for seed in wanted.seeds()
    ]


async def _drawn(
    engine: Engine, tickets: Sequence[ImageTicket], request: Request
) -> list[ServedImage]:
    """Wait for images, for as long as somebody waits for them."""
    engine.submit(tickets)
    answers = asyncio.gather(*(asyncio.wrap_future(one.answer) for one in tickets))
    left = asyncio.create_task(_disconnected(request))
    try:
        either: set[asyncio.Future[Any]] = {answers, left}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise Refused("the client went away", status=_GONE, code="client_gone")
        return list(answers.result())
    finally:
        left.cancel()
        if not answers.done():
            answers.cancel()
        engine.forget(tickets)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _data(ticket: ImageTicket, drawn: ServedImage) -> ImageData:
    return ImageData(
        b64_json=base64.b64encode(drawn.png).decode(),
        seed=ticket.seed,
        target=drawn.target,
        modes=drawn.modes,
        compute_share=drawn.compute_share,
        queue_s=drawn.queue_s,
        seconds=drawn.seconds,
    )


def _invalid(message: str) -> Refused:
    return Refused(message, status=400, code="invalid_value")
