"""OpenAI's Responses in background mode, scripted: runs go on though nobody follows them, and are given out again.

async with Background() as up:
    ...                          # a client asks; `await up.begun()` gives the run
    run.say("Once ")             # to whoever follows it, now or later
    run.cut()                    # the connections of all who do
    run.end()
"""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.upstream import Request, Upstream
from tests.upstream_frames import ResponsesWire, block
from worker.providers.base import Text, Usage

_HEAD = "HTTP/1.1 {status} Scripted\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
_WIRE = ResponsesWire()


class Response:
    """One run at the provider."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.cancelled = asyncio.Event()
        self.events: list[dict[str, Any]] = []
        self._grown = asyncio.Event()
        self._cut = asyncio.Event()
        self._add({"type": "response.created", "response": self._as_json("queued")})

    def say(self, *texts: str) -> None:
        for text in texts:
            self._add(_WIRE._events(0, Text(text))[0])

    def end(self, usage: Usage | None = None) -> None:
        end = _WIRE._end("stop", usage)
        self._add({**end, "response": {**end["response"], "id": self.id}})

    def fail(self) -> None:
        failed = {**self._as_json("failed"), "error": {"code": "server_error", "message": "no"}}
        self._add({"type": "response.failed", "response": failed})

    def cut(self) -> None:
        self._cut.set()
        self._cut = asyncio.Event()

    async def stream(self, after: int, connection: Any, writer: asyncio.StreamWriter) -> bool:
        """Give out the events with a number above `after`; whether it came to the end."""
        cut = self._cut
        while True:
            grown = self._grown
            for event in self.events[after + 1 :]:
                _chunk(writer, block(event, event["type"]))
                after = event["sequence_number"]
            await writer.drain()
            if self.events[-1]["type"] in ("response.completed", "response.failed"):
                return True
            if not await _first(grown, cut, connection.gone):
                return False

    def _as_json(self, status: str) -> dict[str, Any]:
        return {**_WIRE.response(status), "id": self.id, "background": True}

    def _add(self, event: dict[str, Any]) -> None:
        self.events.append({**event, "sequence_number": len(self.events)})
        self._grown.set()
        self._grown = asyncio.Event()


class Background(Upstream):
    """Every POST begins a run. Meaningful as soon as it begins: `responses`."""

    def __init__(self) -> None:
        super().__init__()
        self.responses: list[Response] = []
        self.forgotten: set[str] = set()
        """Ids of runs that are answered 404."""
        self.cancel_status = 200
        self._news = asyncio.Event()

    def asked(self, method: str) -> list[str]:
        """The paths of all requests of this method."""
        return [request.path for request in self.requests if request.method == method]

    async def begun(self, count: int = 1) -> Response:
        """Run number `count`, as soon as it began."""
        await self._until(lambda: len(self.responses) >= count)
        return self.responses[count - 1]

    async def followed(self, count: int) -> None:
        """Until requests number up to `count` have come."""
        await self._until(lambda: len(self.requests) >= count)

    async def _until(self, true: Any) -> None:
        async with asyncio.timeout(20):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def _answer(self, connection: Any, writer: asyncio.StreamWriter) -> bool:
        request = self.requests[-1]
        again = await self._reply(request, connection, writer)
        if again:
            _chunk(writer, b"")
            await writer.drain()
        return again

    async def _reply(self, request: Request, connection: Any, writer: asyncio.StreamWriter) -> bool:
        parts = urlsplit(request.path)
        if request.method == "POST" and parts.path == _WIRE.path:
            response = Response(f"resp_{len(self.responses)}")
            self.responses.append(response)
            self._news.set()
            return await self._stream(response, -1, connection, writer)
        self._news.set()
        name = parts.path.removeprefix(f"{_WIRE.path}/").removesuffix("/cancel")
        found = next((r for r in self.responses if r.id == name and name not in self.forgotten), None)
        if found is None:
            error = {"message": f"no response {name}", "type": "invalid_request_error", "param": None, "code": None}
            return _json(writer, 404, {"error": error})
        if request.method == "POST":
            found.cancelled.set()
            return _json(writer, self.cancel_status, found._as_json("cancelled"))
        after = parse_qs(parts.query).get("starting_after", ["-1"])
        return await self._stream(found, int(after[0]), connection, writer)

    async def _stream(self, response: Response, after: int, connection: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(_HEAD.format(status=200, kind="text/event-stream").encode())
        return await response.stream(after, connection, writer)


def _json(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> bool:
    writer.write(_HEAD.format(status=status, kind="application/json").encode())
    _chunk(writer, json.dumps(body).encode())
    return True


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _first(wanted: asyncio.Event, *others: asyncio.Event) -> bool:
    """Whether `wanted` came before the others."""
    tasks = [asyncio.create_task(event.wait()) for event in (wanted, *others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
