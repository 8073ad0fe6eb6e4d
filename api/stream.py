"""SSE: `GET /v1/sessions/{id}/events`. Hand-written ASGI: frames go to the socket as they are."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import schemas
from api.delivery import Cut, Delivery, End, KeepAlive, Nothing, Output, Refused
from api.dialects import native
from api.errors import documented_as_json, error_response
from api.node import StreamCaller, TheNode
from shared.ids import START, EventId

router = APIRouter(tags=["events"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events from the cursor on. Ends after the terminal, unless `follow`.",
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string"},
                        "data": {"type": "string"},
                        "retry": {"type": "integer"},
                    },
                    "required": ["data"],
                },
                "example": 'id: 1795337152950-2\nevent: text.delta\ndata: {"text":"Hello"}\n\n',
            }
        },
    },
    204: {"description": "The session is finished and the cursor is at its end: an EventSource stops for good."},
    **documented_as_json(400, 404, 410, 422),
}


LARGE = 4096
"""Bytes. The server waits for a slow client only before it sends. After a write of this size it is given nothing to
send, and waits at once: what comes next is not made, and kept, while the client takes nothing."""


class EventStream(Response):
    """An SSE response. Finished cleanly only after the terminal: otherwise the connection is aborted, because many
    clients read a clean end as success."""

    def __init__(self, outputs: AsyncGenerator[Output, None], retry_ms: int, session: str = "") -> None:
        """With `session`, ids are `<session>/<event id>`, and a header names it: the client did not know it before."""
        super().__init__(headers={**native.HEADERS, "holdfast-session": session} if session else native.HEADERS)
        self._outputs = outputs
        self._prefix = f"{session}/".encode() if session else b""
        self._retry = native.retry_line(retry_ms)
        """Sent before the first block that has data; empty afterwards."""
        self._started = False
        self._large = False
        """The last write was one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ends with the outputs, or with the client's going, which cancels whatever is being waited for."""
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.create_task(_until_disconnect(receive))
        gone.add_done_callback(lambda watch: None if watch.cancelled() else task.cancel())
        try:
            async with aclosing(self._outputs) as outputs:
                async for output in outputs:
                    if gone.done():  # a cancellation can get lost on its way: see shared.tasks
                        return
                    await self._send_one(output, scope, receive, send)
                    del output
                    if self._large:
                        self._large = False
                        await send({"type": "http.response.body", "body": b"", "more_body": True})
        except asyncio.CancelledError:
            if not gone.done():
                raise
            task.uncancel()
        finally:
            gone.cancel()

    async def _send_one(self, output: Output, scope: Scope, receive: Receive, send: Send) -> None:
        match output:
            case Refused(error) if not self._started:
                await error_response(error)(scope, receive, send)
            case Nothing() if not self._started:
                await Response(status_code=204)(scope, receive, send)
            case End() | Nothing():
                await self._start(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            case Cut() | Refused():
                await self._start(send)  # and never finished: uvicorn then closes the connection
            case _:
                await self._start(send)
                data = self._bytes(output)
                self._large = len(data) >= LARGE
                await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self._stream_headers()})

    def _stream_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self.raw_headers if name != b"content-length"]

    def _bytes(self, output: Output) -> bytes:
        data = native.encode_output(output, self._prefix)
        if self._retry and not isinstance(output, KeepAlive):
            data, self._retry = self._retry + data, b""
        return data


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@router.get(
    "/v1/sessions/{sid}/events",
    response_class=EventStream,
    status_code=200,
    responses=STREAM,
)
async def events(
    node: TheNode,
    caller: StreamCaller,
    sid: schemas.SessionId,
    last_event_id: Annotated[str | None, Header(description="Cursor: the id of the last event received")] = None,
    after: Annotated[str | None, Query(description="Cursor, where a header cannot be set")] = None,
    follow: Annotated[bool, Query(description="Stay for later turns")] = False,
    merge: Annotated[bool, Query(description="Merge neighbouring deltas on replay")] = True,
) -> EventStream:
    """Everything after the cursor, then what follows as it is appended.

    `caught_up` (no id) says that the replay is over. `gap` says that the log no longer has what follows the cursor; it
    bears an id, and the transcript so far.
    """
    position = after if last_event_id is None else last_event_id
    cursor = START if position is None else EventId.parse(position)
    delivery = Delivery(node.hub, sid, caller, cursor, follow=follow, merge=merge)
    return EventStream(delivery.outputs(), node.settings.retry_ms)
