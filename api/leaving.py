"""Requests that are still under way when the node must leave."""

import asyncio

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import chat
from api.errors import error_body


class AnswerBeforeLeaving:
    """ASGI middleware: a command that is broken off because the node leaves is answered: come back. It may have been
    carried out; the same key finds out. A stream that has begun is aborted, as a cut.

    Reads pass by it untouched: most of them are streams. The one that starts a generation is a command.
    """

    def __init__(self, app: ASGIApp, whole: FastAPI) -> None:
        self._app = app
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "GET" and scope["path"] != chat.PATH):
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if not self._whole.state.node.hub.draining:
                raise
            if not started:
                away = JSONResponse(error_body("draining", "the node is shutting down"), 503, {"retry-after": "1"})
                await away(scope, receive, send)
