"""SSE: `GET /v1/sessions/{id}/events`. Hand-written ASGI: frames go to the socket as they are."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import schemas
from api.delivery import Delivery
from api.dialects import native
from api.dialects.encoder import Encoder, Ending, encoded
from api.errors import documented_as_json, error_response
from api.live_stream import EXTENSION, HAND_OVER, LiveStream
from api.node import StreamCaller, TheNode
from api.outputs import Nothing, Output, Refused
from shared.errors import HoldfastError
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
                "example": 'event: text.delta\ndata: {"text":"Hello"}\nid: 1795337152950-2\n\n',
            }
        },
    },
    204: {"description": "The session is finished and the cursor is at its end: an EventSource stops for good."},
    **documented_as_json(400, 404, 410, 422),
}


LARGE = 4096
"""Bytes. A server waits for a slow client only before it sends. After a write of this size it is given nothing to
send, and waits at once: what comes next is not made, and kept, while the client takes nothing."""


class EventStream(Response):
    """An SSE response. Finished cleanly only after the terminal: otherwise the connection is aborted, because many
    clients read a clean end as success.

    A server that can hands the connection over once the response has begun: see `api.live_stream`. With any other the
    request goes on to the end of the response.
    """

    def __init__(
        self,
        delivery: Delivery,
        encode: Encoder,
        *,
        headers: Mapping[str, str] | None = None,
        refusal: Callable[[HoldfastError], Response] = error_response,
    ) -> None:
        """`headers`: beside those of every stream. `refusal`: what is answered where there is nothing to stream."""
        super().__init__(headers={**native.HEADERS, **(headers or {})})
        self._delivery = delivery
        delivery.kind = ("sse", encode.dialect)
        self._encode = encode
        self._refusal = refusal
        self._started = False
        self._handed_over = False
        self._over = False
        """There is nothing more for this to do."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ends with the outputs, or with the client's going, which cancels whatever is being waited for; or once the
        connection is handed over."""
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.create_task(_until_disconnect(receive))
        gone.add_done_callback(lambda watch: None if watch.cancelled() else task.cancel())
        try:
            while not (self._delivery.over or self._over):
                handed = [await self._delivery.next()]  # given on, and not kept here while the client takes its time
                if gone.done():  # a cancellation can get lost on its way: see shared.tasks
                    return
                await self._send_one(handed.pop(), scope, receive, send)
        except asyncio.CancelledError:
            if not gone.done():
                raise
            task.uncancel()
        finally:
            gone.cancel()
            if not self._handed_over:
                self._delivery.close()

    async def _send_one(self, output: Output, scope: Scope, receive: Receive, send: Send) -> None:
        match output:
            case Refused(error) if not self._started:
                await self._refusal(error)(scope, receive, send)
                return
            case Nothing() if not self._started:
                await Response(status_code=204)(scope, receive, send)
                return
        await self._start(send)
        if self._hand_over(scope, output):
            return
        data, ending = encoded(self._encode, output)
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if len(data) >= LARGE:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        if ending is Ending.CLEAN:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        self._over = ending is not Ending.NONE  # a cut one is never finished: the server then closes the connection

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self._stream_headers()})

    def _hand_over(self, scope: Scope, output: Output) -> bool:
        if (extension := scope.get("extensions", {}).get(EXTENSION)) is not None:
            self._handed_over = self._over = extension[HAND_OVER](LiveStream(self._delivery, self._encode), output)
        return self._handed_over

    def _stream_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self.raw_headers if name != b"content-length"]


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
    return EventStream(delivery, native.NativeEncoder(node.settings.retry_ms))
