"""Threads of LangGraph's server, for its SDKs.

A thread is a session. One that has no run yet is stored nowhere: each id that is no session's is that of a thread
without messages.
"""

from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

from fastapi import APIRouter, Body, Header, Path, Query

from api.commands import Commands
from api.compat import langgraph_answers as answers
from api.compat.answers import SESSION_HEADER
from api.compat.langgraph_requests import CreateThread
from api.compat.threads import session_of, view_of
from api.delivery import Delivery
from api.dialects.langgraph import Cursor, LangGraphProjection, Mode
from api.dialects.projection import ProjectionEncoder
from api.errors import documented, documented_as_json, error_response
from api.node import Caller, TheNode
from api.stream import STREAM, EventStream
from shared.errors import InvalidRequest, SessionExists
from shared.ids import START

router = APIRouter(tags=["langgraph"])

MODES = (Mode.VALUES, Mode.TUPLES, Mode.UPDATES, Mode.CUSTOM)
STREAMED = {**{status: said for status, said in STREAM.items() if status != 204}, **documented_as_json(413, 503)}

Resumed = Annotated[
    str | None, Header(alias="Last-Event-ID", description="The id of the last event received; none, or `-1`: all")
]
Object = dict[str, Any]
Thread = Annotated[str, Path(min_length=1, max_length=200, description="The session's id, or a name of the client's")]


@router.post("/threads", responses=documented(400, 413, 422, 503))
async def create_thread(node: TheNode, caller: Caller, body: Annotated[CreateThread | None, Body()] = None) -> Object:
    """Name a thread. Nothing is stored until its first run."""
    given = body or CreateThread()
    name = given.thread_id or str(uuid4())
    sid = session_of(caller, name)
    view = await view_of(node, caller, sid)
    if view is not None and given.if_exists != "do_nothing":
        raise SessionExists(sid)
    return answers.thread(name, sid, view, await answers.events_of(node, sid, view))


@router.get("/threads/{thread}", responses=documented(422, 503))
async def show_thread(node: TheNode, caller: Caller, thread: Thread) -> Object:
    """Status and values of a thread."""
    sid = session_of(caller, thread)
    view = await view_of(node, caller, sid)
    return answers.thread(thread, sid, view, await answers.events_of(node, sid, view))


@router.delete("/threads/{thread}", status_code=204, responses=documented(404, 422, 503))
async def delete_thread(node: TheNode, caller: Caller, thread: Thread) -> None:
    """Stop and forget."""
    await Commands(node, caller).delete(session_of(caller, thread))


@router.get("/threads/{thread}/state", responses=documented(422, 503))
async def thread_state(node: TheNode, caller: Caller, thread: Thread) -> Object:
    """The messages, and whether something runs."""
    sid = session_of(caller, thread)
    view = await view_of(node, caller, sid)
    return answers.state(thread, sid, view, await answers.events_of(node, sid, view))


@router.post("/threads/{thread}/history", responses=documented(400, 413, 422, 503))
async def thread_history(
    node: TheNode, caller: Caller, thread: Thread, body: Annotated[Object | None, Body()] = None
) -> list[Object]:
    """The newest state alone: earlier ones cannot be gone back to."""
    sid = session_of(caller, thread)
    view = await view_of(node, caller, sid)
    return [answers.state(thread, sid, view, await answers.events_of(node, sid, view))] if view else []


@router.get("/threads/{thread}/stream", response_class=EventStream, status_code=200, responses=STREAMED)
async def join_thread(
    node: TheNode,
    caller: Caller,
    thread: Thread,
    stream_mode: Annotated[list[str], Query(description="Only `run_modes`")] = ["run_modes"],  # noqa: B006
    last_event_id: Resumed = None,
) -> EventStream:
    """All runs of a thread, as they come; those there were already come first."""
    if set(stream_mode) - {"run_modes", '["run_modes"]'}:
        raise InvalidRequest("stream_mode: a thread is streamed as run_modes only")
    sid, after = session_of(caller, thread), Cursor.parse(last_event_id)
    delivery = Delivery(node.hub, sid, caller, START, follow=True, merge=False)
    headers = {SESSION_HEADER: sid, "location": f"/threads/{quote(thread, safe='')}/stream"}
    projection = LangGraphProjection(sid, thread, "", MODES, after)
    return EventStream(delivery, ProjectionEncoder(projection), headers=headers, refusal=error_response)
