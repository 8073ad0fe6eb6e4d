"""Which pages a browser lets at this node, and which it is not to be lured into letting.

With keys or JWTs a foreign page has no credential, so it can do nothing: CORS then only says who may read answers.
Without authentication, being able to reach the node is the credential, and every page in a browser on this machine
can send requests. So those of foreign pages are refused, and so is a foreign name of this host: a page may point its
own name at 127.0.0.1, and would then be of the same origin (DNS rebinding).
"""

from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from shared.errors import ConfigurationError, HostNotAllowed, OriginNotAllowed
from shared.exposure import ip_address
from shared.settings import Settings

METHODS = ("GET", "POST", "DELETE")
REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Api-Key")
RESPONSE_HEADERS = ("Holdfast-Session", "Retry-After", "Location", "Content-Location")
PREFLIGHT_S = 7200
"""How long a browser may remember what it was allowed; none keeps it longer."""
ANY = "*"
_ACTING = ("/v1/", "/api/", "/ws/", "/threads", "/runs/", "/ag-ui", "/admin/")
"""Where a request means something. A link from elsewhere to the page itself is fine."""


def install(app: FastAPI, settings: Settings) -> None:
    """To be called last: what is added last sees a request first. Raises ConfigurationError."""
    _check(settings)
    if settings.auth == "none":
        app.add_middleware(KeepStrangersOut, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=PREFLIGHT_S,
            allow_private_network=True,  # the origin is on the list: somebody meant it
        )


def allowed_origin(connection: HTTPConnection) -> bool:
    """Whether the page that made the browser ask, if there is one, may. What is no browser says nothing of a page."""
    settings: Settings = connection.app.state.node.settings
    return _allowed(connection, settings)


def _allowed(connection: HTTPConnection, settings: Settings) -> bool:
    site = connection.headers.get("sec-fetch-site")  # pages cannot set it
    if site in ("same-origin", "none"):
        return True
    origin = connection.headers.get("origin")
    if origin is None:
        return site is None
    if origin in settings.cors_origins or ANY in settings.cors_origins:
        return True
    return site is None and origin.partition("://")[2] == connection.headers.get("host", "")


class KeepStrangersOut:
    """ASGI middleware of a node without authentication. Wraps nothing: what passes it passes as it is."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        connection = HTTPConnection(scope)
        if not self._known_host(connection):
            return await self._refuse(HostNotAllowed(), scope, receive, send)
        if scope["type"] == "http" and self._foreign_page(connection):
            return await self._refuse(OriginNotAllowed(), scope, receive, send)
        return await self._app(scope, receive, send)

    def _known_host(self, connection: HTTPConnection) -> bool:
        """An address cannot be rebound. A node that is open to all has nothing to lose by its names."""
        if self._settings.allow_anonymous or "host" not in connection.headers:
            return True
        name = _host_name(connection.headers["host"])
        if name == "localhost" or name.endswith(".localhost") or ip_address(name) is not None:
            return True
        return name in self._settings.hosts

    def _foreign_page(self, connection: HTTPConnection) -> bool:
        """WebSockets ask `allowed_origin` themselves: their refusal is a close code."""
        return connection.scope["path"].startswith(_ACTING) and not _allowed(connection, self._settings)

    async def _refuse(
        self, error: HostNotAllowed | OriginNotAllowed, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403, "reason": error.code})
        else:
            await error_response(error)(scope, receive, send)


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _check(settings: Settings) -> None:
    for origin in settings.cors_origins:
        parts = urlsplit(origin)
        if origin == ANY:
            if settings.auth == "none":
                raise ConfigurationError(
                    "HOLDFAST_CORS_ORIGINS=* needs authentication: it lets every page use the node"
                )
        elif not parts.scheme or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}".lower():
            raise ConfigurationError(f"HOLDFAST_CORS_ORIGINS: {origin!r} is no origin such as https://app.example.com")
