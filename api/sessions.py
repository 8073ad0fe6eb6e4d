"""Routes of sessions: create, next turn, show, list, stop, answer, delete."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, Query

from api import replies, schemas
from api.commands import Commands
from api.errors import documented
from api.listing import list_sessions
from api.node import Caller, Node, Principal, TheNode
from shared.events import State
from shared.transcript import fold

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Repeating a request with the same key answers the same",
        max_length=255,
    ),
]
Sid = schemas.SessionId


@router.post("", status_code=201, responses=documented(400, 410, 413, 422, 503))
async def create_session(
    node: TheNode, caller: Caller, body: schemas.CreateSession, key: Key = None
) -> schemas.SessionOpened:
    """Start a session with its first generation. It runs whether anybody listens or not."""
    sid, turn = await Commands(node, caller).create(body, key)
    return _with_token(node, caller, await replies.opened(node, sid, turn))


@router.post("/{sid}/messages", status_code=201, responses=documented(400, 404, 410, 413, 422, 503))
async def next_message(
    node: TheNode, caller: Caller, sid: Sid, body: schemas.NextMessage, key: Key = None
) -> schemas.SessionOpened:
    """The next turn. While one runs: 422 `generation_running`, or, with `interrupt`, that one ends here."""
    turn = await Commands(node, caller).message(sid, body, key)
    return _with_token(node, caller, await replies.opened(node, sid, turn))


def _with_token(node: Node, caller: Principal, opened: schemas.SessionOpened) -> schemas.SessionOpened:
    """Over HTTP alone: a socket that came with a token must not get the next one by it."""
    return opened.model_copy(update={"stream_token": node.auth.stream_token(caller, opened.id)})


@router.post("/{sid}/token", status_code=201, responses=documented(404, 422, 503))
async def stream_token(node: TheNode, caller: Caller, sid: Sid) -> schemas.StreamToken:
    """A stream token, for `?token=` where no header can be set. A token itself cannot ask for one."""
    await Commands(node, caller).view(sid)
    return schemas.StreamToken(stream_token=node.auth.stream_token(caller, sid), expires_in_s=node.auth.token_s)


@router.get("/{sid}", responses=documented(404, 422, 503))
async def show_session(node: TheNode, caller: Caller, sid: Sid) -> schemas.SessionShown:
    """State and transcript. Answers also after the log has expired, then without the transcript."""
    view = await Commands(node, caller).view(sid)
    transcript = fold([] if view.log_gone else await node.log.events(sid, joined=True))
    return schemas.SessionShown(
        **replies.summary(sid, view).model_dump(),
        attempt=view.attempt,
        pipeline=view.pipeline,
        expired=view.log_gone,
        messages=transcript.messages,
        usage=transcript.usage,
    )


@router.get("", responses=documented(400, 422, 503))
async def sessions(
    node: TheNode,
    caller: Caller,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
) -> schemas.SessionList:
    """The caller's sessions, the one with the newest turn first."""
    found, next_cursor = await list_sessions(node, caller, state, limit, cursor)
    return schemas.SessionList(sessions=[replies.summary(sid, view) for sid, view in found], next_cursor=next_cursor)


@router.post("/{sid}/stop", responses=documented(400, 404, 413, 422, 503))
async def stop(
    node: TheNode, caller: Caller, sid: Sid, body: Annotated[schemas.StopRequest | None, Body()] = None
) -> schemas.Stopped:
    """Stop the generation; what was said stays. Idempotent, and answers with how it ended, in time."""
    return await replies.stopped(node, Commands(node, caller), sid, body or schemas.StopRequest())


@router.post("/{sid}/answer", status_code=202, responses=documented(400, 404, 410, 413, 422, 503))
async def answer(
    node: TheNode, caller: Caller, sid: Sid, body: schemas.AnswerRequest, key: Key = None
) -> schemas.Accepted:
    """Answer the open question. The first answer wins; later ones get 410."""
    return await replies.answered(Commands(node, caller), sid, body, key)


@router.delete("/{sid}", status_code=204, responses=documented(404, 422, 503))
async def delete(node: TheNode, caller: Caller, sid: Sid) -> None:
    """Stop and forget."""
    await Commands(node, caller).delete(sid)
