"""Watching requests: counts, the access line, and the span of those that change something."""

import logging
import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import chat
from api.node import Node
from shared.metrics import Distribution
from shared.telemetry import get_logger
from shared.tracing import NOTHING, Span, inside

_log = get_logger(__name__)
_level = logging.getLogger(__name__)

READS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = READS | {"POST", "PUT", "PATCH", "DELETE"}
"""Any other is counted as one: clients make names up."""
UNMATCHED = "unmatched"
ABORTED = "aborted"
"""In place of a status: the client went, or was cut, before there was one."""


class Observe:
    """ASGI middleware. A stream that the server hands over costs it nothing; see `api.live_stream`."""

    def __init__(self, app: ASGIApp, whole: FastAPI) -> None:
        self._app = app
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Request(scope, self._whole.state.node).run(self._app, receive, send)


class _Request:
    """One request. `status` and `took_s` are meaningful once its response has begun."""

    def __init__(self, scope: Scope, node: Node) -> None:
        self.scope = scope
        self.node = node
        self.status = ABORTED
        self.took_s = 0.0
        self.begun = time.perf_counter()

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = str(message["status"])
                self.took_s = time.perf_counter() - self.begun
            await send(message)

        span = self._span()
        try:
            with inside(span):
                try:
                    await app(self.scope, receive, noted)
                except Exception:
                    if self.status == ABORTED:  # what is raised through here is answered outside, with this
                        self.status = "500"
                    raise
                finally:
                    self._tell(span)
        finally:
            self._count()
            self._log()

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method if method in METHODS else "other"

    @property
    def route(self) -> str:
        """As it was declared: `/v1/sessions/{sid}`. Known once the request was routed."""
        return getattr(self.scope.get("route"), "path", None) or UNMATCHED

    def _span(self) -> Span:
        scope = self.scope
        if not self.node.tracing.on or (scope["method"] in READS and scope["path"] != chat.PATH):
            return NOTHING
        headers = dict(scope["headers"])
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        return self.node.tracing.begin(self.method, traceparent, "server")

    def _tell(self, span: Span) -> None:
        if span is NOTHING:
            return
        span.rename(f"{self.method} {self.route}")
        span.set(status=self.status)
        if self.status.startswith("5"):
            span.failed(self.status)

    def _count(self) -> None:
        counts, of = self.node.hub.counts, (self.method, self.route)
        counts.requests[(*of, self.status)] += 1
        if self.took_s:
            if of not in counts.responses:
                counts.responses[of] = Distribution()
            counts.responses[of].observe(self.took_s)

    def _log(self) -> None:
        """At `debug`: a proxy has a line for each request already. Without the query, which may hold a token."""
        if not _level.isEnabledFor(logging.DEBUG):
            return
        session = self.scope.get("path_params", {}).get("sid")
        about = {} if session is None else {"session": session}
        took_ms = round(self.took_s * 1000, 1)
        _log.debug(
            "request", method=self.method, path=self.scope["path"], route=self.route, status=self.status,
            took_ms=took_ms, **about,
        )  # fmt: skip
