"""Runs of LangGraph's server, for its SDKs: the generations of a session, called `<session>_<generation>`."""

import re
from typing import Annotated
from urllib.parse import quote, urlencode
from uuid import uuid4

from fastapi import APIRouter, Path, Query, Response

from api.commands import Commands
from api.compat import langgraph_answers as answers
from api.compat.answers import SESSION_HEADER, streamed, whole
from api.compat.langgraph_requests import (
    Modes,
    RunRequest,
    first_turn,
    next_turn,
    resumed_with,
)
from api.compat.langgraph_threads import STREAMED, Object, Resumed, Thread
from api.compat.threads import session_of, turn_in, view_of
from api.dialects.langgraph import WITH_TEXT, Cursor, LangGraphProjection, Mode
from api.errors import documented, documented_as_json, error_response
from api.node import Caller, Node, Principal, TheNode
from api.schemas import AnswerRequest
from api.sessions import Key
from api.stream import EventStream
from api.waiting import until_over
from shared.errors import InvalidRequest, QuestionGone, SessionNotFound
from shared.events import State
from shared.ids import START, EventId, generation_number
from shared.views import SessionView

router = APIRouter(tags=["langgraph"])

CANCEL_WAIT_S = 30.0
_RUN = re.compile(r"([A-Za-z0-9_-]{1,64})_(g[1-9][0-9]{0,8})")
_REFUSALS = documented(400, 404, 410, 413, 422, 503)
Run = Annotated[str, Path(min_length=1, max_length=100)]
Asked = Annotated[Modes, Query(description="As in the request that began the run")]


@router.post("/threads/{thread}/runs/stream", response_class=EventStream, status_code=200, responses=STREAMED)
async def stream_run(node: TheNode, caller: Caller, thread: Thread, body: RunRequest, key: Key = None) -> EventStream:
    """Begin a run, and stream it. Cut, it goes on at the `Location` that is answered."""
    return await _run_and_stream(node, caller, thread, body, key)


@router.post("/runs/stream", response_class=EventStream, status_code=200, responses=STREAMED)
async def stream_stateless(node: TheNode, caller: Caller, body: RunRequest, key: Key = None) -> EventStream:
    """The same in a thread of its own."""
    return await _run_and_stream(node, caller, str(uuid4()), body, key)


async def _run_and_stream(node: Node, caller: Principal, thread: str, body: RunRequest, key: str | None) -> EventStream:
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    begun = await _begin(node, caller, thread, body, key)
    return _stream(node, caller, begun, body.modes, begun.after, begun.cursor)


@router.post("/threads/{thread}/runs", responses=_REFUSALS)
async def create_run(
    node: TheNode, caller: Caller, thread: Thread, body: RunRequest, response: Response, key: Key = None
) -> Object:
    """Begin a run, and do not wait for it."""
    begun = await _begin(node, caller, thread, body, key)
    view = await Commands(node, caller).view(begun.sid)
    response.headers.update({SESSION_HEADER: begun.sid, "content-location": begun.path})
    return answers.run(thread, begun.sid, begun.generation, view, answers.state_of(begun.generation, view, []))


@router.post("/threads/{thread}/runs/wait", responses=_REFUSALS)
async def wait_for_run(
    node: TheNode, caller: Caller, thread: Thread, body: RunRequest, response: Response, key: Key = None
) -> Object:
    """Begin a run, and answer with the thread's values at its end, or with `__error__`."""
    begun = await _begin(node, caller, thread, body, key)
    return await _join(node, caller, begun, response)


@router.post("/runs/wait", responses=_REFUSALS)
async def wait_stateless(
    node: TheNode, caller: Caller, body: RunRequest, response: Response, key: Key = None
) -> Object:
    """The same in a thread of its own."""
    begun = await _begin(node, caller, str(uuid4()), body, key)
    return await _join(node, caller, begun, response)


@router.get("/threads/{thread}/runs", responses=documented(422, 503))
async def list_runs(
    node: TheNode,
    caller: Caller,
    thread: Thread,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    status: Annotated[str | None, Query(max_length=20)] = None,
) -> list[Object]:
    """The newest first."""
    sid = session_of(caller, thread)
    view = await view_of(node, caller, sid)
    if view is None:
        return []
    events = await answers.events_of(node, sid, view)
    found = [answers.run(thread, sid, g, view, answers.state_of(g, view, events)) for g in answers.generations(view)]
    return [run for run in found if status in (None, run["status"])][offset : offset + limit]


@router.get("/threads/{thread}/runs/{run}", responses=documented(404, 422, 503))
async def show_run(node: TheNode, caller: Caller, thread: Thread, run: Run) -> Object:
    """How a run stands."""
    found = await _found(node, caller, thread, run)
    newest = found.generation == found.view.generation
    events = [] if newest else await answers.events_of(node, found.sid, found.view)
    state = answers.state_of(found.generation, found.view, events)
    return answers.run(thread, found.sid, found.generation, found.view, state)


@router.get("/threads/{thread}/runs/{run}/stream", response_class=EventStream, status_code=200, responses=STREAMED)
async def join_stream(
    node: TheNode,
    caller: Caller,
    thread: Thread,
    run: Run,
    stream_mode: Asked = [],  # noqa: B006
    cancel_on_disconnect: bool = False,
    last_event_id: Resumed = None,
) -> EventStream:
    """A run from the event on that comes after the cursor; without one, from its start."""
    if cancel_on_disconnect:
        raise InvalidRequest("cancel_on_disconnect: a client that goes away never stops a run; cancel it")
    after = Cursor.parse(last_event_id)
    found = await _found(node, caller, thread, run)
    return _stream(node, caller, found, stream_mode or [Mode.VALUES], after, START)


@router.get("/threads/{thread}/runs/{run}/join", responses=_REFUSALS)
async def join_run(node: TheNode, caller: Caller, thread: Thread, run: Run, response: Response) -> Object:
    """Wait for the end of a run: the thread's values then, or `__error__`."""
    return await _join(node, caller, await _found(node, caller, thread, run), response)


@router.post(
    "/threads/{thread}/runs/{run}/cancel",
    status_code=202,
    response_class=Response,
    responses=documented_as_json(400, 404, 413, 422, 503),
)
async def cancel_run(
    node: TheNode,
    caller: Caller,
    thread: Thread,
    run: Run,
    wait: bool = False,
    action: Annotated[str, Query(description="Only `interrupt`: what was said stays")] = "interrupt",
) -> Response:
    """Stop a run. Idempotent; with `wait` it is answered when the run is over."""
    if action != "interrupt":
        raise InvalidRequest("action: what a run has said is not rolled back; only interrupt")
    found = await _found(node, caller, thread, run)
    if found.generation == found.view.generation:
        outcome = await Commands(node, caller).stop(found.sid, found.generation)
        if wait and outcome.outcome == "stopping":
            await until_over(node, found.sid, found.generation, CANCEL_WAIT_S)
    return Response(status_code=202, headers={SESSION_HEADER: found.sid})


# -- inside


class _Begun:
    """A run of a thread."""

    def __init__(self, thread: str, sid: str, generation: str, view: SessionView | None = None) -> None:
        self.thread = thread
        self.sid = sid
        self.generation = generation
        self._view = view
        self.after: Cursor | None = None
        """What its client has already."""
        self.cursor = START
        """Before its first event."""

    @property
    def view(self) -> SessionView:
        assert self._view is not None
        return self._view

    @property
    def path(self) -> str:
        return f"/threads/{quote(self.thread, safe='')}/runs/{self.sid}_{self.generation}"


async def _begin(node: Node, caller: Principal, thread: str, body: RunRequest, key: str | None) -> _Begun:
    commands, sid = Commands(node, caller), session_of(caller, thread)
    view = await view_of(node, caller, sid)
    if body.command is not None:
        return await _resume(commands, thread, sid, body, key)
    first, following = first_turn(sid, body), next_turn(sid, body, view)
    turn = await turn_in(commands, node, sid, first, following, key)
    begun = _Begun(thread, sid, turn.generation)
    if turn.generation != "g1" and not WITH_TEXT & set(body.modes):
        begun.cursor = await commands.before(sid, turn, len(following.said))
    return begun


async def _resume(commands: Commands, thread: str, sid: str, body: RunRequest, key: str | None) -> _Begun:
    """Answer the open question: the run that asked goes on."""
    assert body.command is not None
    if body.input is not None:
        raise InvalidRequest("input: give either input or command")
    view = await commands.view(sid)
    if view.state is not State.WAITING:
        raise QuestionGone("")
    await commands.answer(sid, AnswerRequest(question=view.question, text=resumed_with(body.command)), key)
    begun = _Begun(thread, sid, view.generation)
    begun.after = Cursor(view.last)
    return begun


async def _found(node: Node, caller: Principal, thread: str, run: str) -> _Begun:
    """Raises SessionNotFound."""
    parts, sid = _RUN.fullmatch(run), session_of(caller, thread)
    if parts is None or parts[1] != sid:
        raise SessionNotFound(run)
    view = await Commands(node, caller).view(sid)
    if generation_number(parts[2]) > generation_number(view.generation):
        raise SessionNotFound(run)
    return _Begun(thread, sid, parts[2], view)


def _stream(
    node: Node, caller: Principal, begun: _Begun, modes: list[Mode], after: Cursor | None, cursor: EventId
) -> EventStream:
    query = urlencode([("stream_mode", mode.value) for mode in dict.fromkeys(modes)])
    headers = {"location": f"{begun.path}/stream?{query}", "content-location": begun.path}
    projection = LangGraphProjection(begun.sid, begun.thread, begun.generation, modes, after)
    return streamed(
        node, caller, begun.sid, projection, refusal=error_response, cursor=cursor, headers=headers
    )  # fmt: skip


async def _join(node: Node, caller: Principal, begun: _Begun, response: Response) -> Object:
    await whole(node, caller, begun.sid, begun.generation, cursor=begun.cursor)
    view = await Commands(node, caller).view(begun.sid)
    response.headers.update(
        {SESSION_HEADER: begun.sid, "content-location": begun.path, "location": f"{begun.path}/join"}
    )
    return answers.outcome(begun.sid, begun.generation, await answers.events_of(node, begun.sid, view))
