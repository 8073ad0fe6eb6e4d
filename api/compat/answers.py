"""A generation for a client of another protocol: streamed as a dialect says it, or whole when it is over."""

from collections.abc import Mapping
from contextlib import aclosing

from api.compat.routes import Refusal
from api.delivery import Delivery
from api.dialects.projection import Projection, ProjectionEncoder
from api.node import Node, Principal
from api.outputs import Cut, Events, Gap, Refused
from api.stream import EventStream
from shared.errors import NodeLeaving
from shared.events import Event, EventType, State
from shared.ids import START, EventId
from shared.transcript import Message, fold

WHOLE = ("http", "whole")
"""Transport and dialect of an answer that is given when it is over."""
SESSION_HEADER = "holdfast-session"
"""Of every answer: what is cut off here can be picked up through the native API."""


def streamed(
    node: Node,
    caller: Principal,
    sid: str,
    projection: Projection,
    *,
    refusal: Refusal,
    cursor: EventId = START,
    headers: Mapping[str, str] | None = None,
    merge: bool = False,
) -> EventStream:
    """`cursor`: before the first event of the generation; START will always do. `merge`: for a protocol that numbers
    nothing, whose clients can have neighbouring deltas as one."""
    delivery = Delivery(node.hub, sid, caller, cursor, follow=False, merge=merge)
    named = {SESSION_HEADER: sid, **(headers or {})}
    return EventStream(delivery, ProjectionEncoder(projection), headers=named, refusal=refusal)


async def whole(node: Node, caller: Principal, sid: str, generation: str, *, cursor: EventId = START) -> Message:
    """Waits for the end of the generation, and gives what the assistant said; its `state` says how it ended.

    Raises what the session is refused for, and NodeLeaving where this node cannot wait for the end.
    """
    delivery = Delivery(node.hub, sid, caller, cursor, follow=False, merge=True)
    delivery.kind = WHOLE
    found: list[Event] = []
    inside = False
    async with aclosing(delivery.outputs()) as outputs:
        async for output in outputs:
            match output:
                case Events(events):
                    for event in events:
                        if event.type in (EventType.MESSAGE, EventType.STARTED):
                            inside = event.value["generation"] == generation
                        if inside:
                            found.append(event)
                            if event.terminal:
                                return fold(found).messages[-1]
                case Gap(transcript=transcript):
                    for message in transcript.messages:
                        if message.generation == generation and message.state not in (None, State.RUNNING):
                            return message
                    break  # what it had said before is lost to this answer
                case Refused(error):
                    raise error
                case Cut():
                    break
    raise NodeLeaving
