"""A server of session sockets whose every word the test says itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

WITHIN_S = 20.0


class Line:
    """One socket of a client."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def hear(self) -> dict[str, Any]:
        """The next command."""
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), WITHIN_S))
        return frame

    async def say(self, **frame: Any) -> None:
        await self._socket.send(json.dumps(frame))

    async def event(self, event_id: str, kind: str, **data: Any) -> None:
        await self.say(id=event_id, type=kind, data=data)

    async def cut(self) -> None:
        await self._socket.close(1012)


class ScriptSocket:
    """Answers GET requests with `session`."""

    def __init__(self, session: dict[str, Any]) -> None:
        self.url = ""
        self.session = session
        self._lines: asyncio.Queue[Line] = asyncio.Queue(maxsize=8)

    async def line(self) -> Line:
        """The next socket that is opened."""
        return await asyncio.wait_for(self._lines.get(), WITHIN_S)

    async def take(self, socket: ServerConnection) -> None:
        self._lines.put_nowait(Line(socket))
        await socket.wait_closed()

    def process(self, connection: ServerConnection, request: Request) -> Response | None:
        if "upgrade" in request.headers:
            return None
        return connection.respond(HTTPStatus.OK, json.dumps(self.session))


@contextlib.asynccontextmanager
async def script_socket(**session: Any) -> AsyncIterator[ScriptSocket]:
    script = ScriptSocket(session)
    async with serve(script.take, "127.0.0.1", 0, process_request=script.process) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        script.url = f"http://127.0.0.1:{port}"
        yield script
