"""Limits on what a client may send."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_body

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class LimitBody:
    """ASGI middleware: 413 for a request body beyond the limit, whatever its content-length claims.

    Streams pass by it untouched: it wraps nothing of a GET.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
        elif _declared(scope) > self._max_bytes:
            # The connection stays open: closing it over an unread body would reset it, and the answer with it.
            await JSONResponse(error_body("body_too_large", self._words), 413)(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise HTTPException(413, self._words)  # an HTTPException passes through FastAPI's reading of bodies
            return message

        return counted

    @property
    def _words(self) -> str:
        return f"the body is larger than {self._max_bytes} bytes"


def _declared(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0
