"""Composition root of an API node."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import admin, chat, chat_socket, cors, errors, health, page, sessions, stream, websocket
from api.auth import Authenticator
from api.compat import (
    ag_ui,
    anthropic_messages,
    langgraph,
    langgraph_threads,
    openai_chat,
    openai_models,
    openai_responses,
    vercel,
    vercel_socket,
)
from api.leaving import AnswerBeforeLeaving
from api.limits import LimitBody
from api.node import open_node
from api.observing import Observe
from api.server import Server, server_config
from shared import tracing
from shared.errors import ConfigurationError
from shared.exposure import check_exposure
from shared.loop import loop_factory, settle_memory
from shared.settings import Settings
from shared.telemetry import configure, get_logger, process_name

_log = get_logger(__name__)

_DESCRIPTION = """A resumable stream broker for LLM output. Create a session, follow its events, and after a refresh
or a lost connection come back with the id of the last event you saw: you get exactly the rest."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application; settings come from the environment where none are given. Raises ConfigurationError."""
    settings = settings or Settings()
    auth = Authenticator.of(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_node(settings, auth) as node:
            app.state.node = node
            yield

    app = FastAPIOffline(  # no script of anybody else's on the origin where callers' keys are
        title="Holdfast",
        version=version("holdfast"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs/assets",
    )
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(AnswerBeforeLeaving, whole=app)
    errors.install(app)
    for part in (
        sessions,
        stream,
        websocket,
        chat,
        chat_socket,
        openai_chat,
        openai_responses,
        openai_models,
        langgraph,
        langgraph_threads,
        ag_ui,
        anthropic_messages,
        vercel,
        vercel_socket,
    ):
        app.include_router(part.router, responses=errors.documented_as_json(401, 403, 429))
    app.include_router(health.router)
    page.install(app)
    admin.install(app, settings)
    cors.install(app, settings)
    app.add_middleware(Observe, whole=app)  # around all others: what they refuse is a request, too
    return app


def main() -> None:
    try:
        settings = Settings.load()
        configure(settings.log_level, settings.log_format, content=settings.log_content, node=process_name())
        check_exposure(settings)
        tracing.check(settings.traces)
        app = create_app(settings)
    except ConfigurationError as error:
        sys.exit(f"holdfast: {error.message}")
    settle_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(Server(server_config(app, settings), app).serve())
