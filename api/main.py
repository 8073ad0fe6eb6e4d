"""Composition root of an API node."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api import errors, health, page, sessions, stream
from api.limits import LimitBody
from api.node import open_node
from shared.errors import ConfigurationError
from shared.loop import loop_factory, settle_memory
from shared.settings import Settings
from shared.telemetry import configure, get_logger

_log = get_logger(__name__)

_DESCRIPTION = """A resumable stream broker for LLM output. Create a session, follow its events, and after a refresh
or a lost connection come back with the id of the last event you saw: you get exactly the rest."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application; settings come from the environment where none are given."""
    settings = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_node(settings) as node:
            app.state.node = node
            yield

    app = FastAPI(
        title="Holdfast",
        version=version("holdfast"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    errors.install(app)
    for part in (sessions, stream, health):
        app.include_router(part.router)
    page.install(app)
    return app


class Server(uvicorn.Server):
    """uvicorn waits for open streams on shutdown: on a signal, the node sends its readers away first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._app.state.node.hub.drain)


def main() -> None:
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        sys.exit(f"holdfast: {error.message}")
    configure(settings.log_level, settings.log_format)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http="httptools",
        timeout_graceful_shutdown=int(settings.drain_s) + 3,
        server_header=False,
        timeout_keep_alive=75,  # longer than the idle time of common proxies: they must be the ones to close
    )
    settle_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(Server(config, app).serve())
