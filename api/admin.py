"""The admin page at `/admin`, and what it asks: sessions of all principals, for those whom `HOLDFAST_ADMIN` names.

The page itself holds no data and is anybody's. Everything under `/admin/api` wants an admin's credential.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query
from pydantic_core import from_json
from starlette.responses import FileResponse

from api import replies, schemas
from api.admin_schemas import (
    LiveNow,
    LiveState,
    NodeNow,
    Overview,
    SessionDetail,
    SessionRow,
    Sessions,
    WorkerRow,
    Workers,
)
from api.auth import ANONYMOUS
from api.commands import Commands
from api.delivery import Delivery
from api.dialects import native
from api.listing import list_live
from api.node import Caller, Node, Principal, TheNode
from api.page import FRESH, WEB
from api.stream import EventStream
from shared.credentials import NAME
from shared.directory import Lease
from shared.errors import ConfigurationError, NotAnAdmin, SessionNotFound
from shared.events import LIVE
from shared.exposure import is_loopback
from shared.ids import START, EventId
from shared.settings import Settings
from shared.telemetry import get_logger, process_name
from shared.views import SessionView

_log = get_logger(__name__)

BY = "operator"
"""Who stopped a generation, as its end says it."""
LOOKED_AT = 200
"""Live sessions whose states an overview counts."""
WORKERS = 200
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
HEADERS = {
    **FRESH,
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_DIGESTED = re.compile(r"~[0-9a-f]{64}")
"""A JWT's subject that is no plain name; see `shared.credentials`."""

page = APIRouter(include_in_schema=False)
router = APIRouter(prefix="/admin/api", include_in_schema=False)


def install(app: FastAPI, settings: Settings) -> None:
    """Where nobody is named there is nothing at `/admin`. Raises ConfigurationError."""
    _check(settings)
    if settings.admin:
        app.include_router(page)
        app.include_router(router, dependencies=[Depends(admin_of)])


def _check(settings: Settings) -> None:
    for name in settings.admin:
        if settings.auth == "none":
            if name != ANONYMOUS:
                raise ConfigurationError(f"HOLDFAST_ADMIN: with HOLDFAST_AUTH=none there is only {ANONYMOUS!r}")
            if not is_loopback(settings.host):
                raise ConfigurationError(
                    f"HOLDFAST_ADMIN: without authentication whoever reaches HOLDFAST_HOST={settings.host} would be an "
                    "admin: set HOLDFAST_AUTH=keys or jwt"
                )
        elif name == ANONYMOUS or not (NAME.fullmatch(name) or _DIGESTED.fullmatch(name)):
            raise ConfigurationError(f"HOLDFAST_ADMIN: {name[:64]!r} cannot be a principal")


async def admin_of(node: TheNode, caller: Caller) -> Principal:
    """Who calls. Raises Unauthorized, NotAnAdmin."""
    if caller not in node.settings.admin:
        raise NotAnAdmin
    return caller


Admin = Annotated[Principal, Depends(admin_of)]
Sid = schemas.SessionId


@page.get("/admin")
async def admin_page() -> FileResponse:
    return FileResponse(WEB / "admin.html", headers=HEADERS)


@router.get("/overview")
async def overview(node: TheNode) -> Overview:
    began = time.perf_counter()
    now = await node.directory.now_ms()
    took_ms = (time.perf_counter() - began) * 1000
    return Overview(now=now, redis_ms=round(took_ms, 2), node=_node_now(node), live=await _live_now(node))


@router.get("/sessions")
async def sessions(
    node: TheNode,
    state: LiveState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> Sessions:
    """Those with a live generation, the one with the newest turn first."""
    found, next_cursor = await list_live(node, state, limit, cursor)
    return Sessions(sessions=await _rows(node, found), next_cursor=next_cursor)


@router.get("/sessions/{sid}")
async def session(node: TheNode, sid: Sid) -> SessionDetail:
    view = await _view(node, sid)
    (row,) = await _rows(node, [(sid, view)])
    return SessionDetail(
        **row.model_dump(),
        crashes=view.crashes,
        stopping=view.live and view.stop == view.generation,
        expired=view.log_gone,
        lease_ms=await node.directory.lease_left(view.worker) if view.live else None,
    )


@router.get("/sessions/{sid}/events", response_class=EventStream)
async def events(
    node: TheNode,
    admin: Admin,
    sid: Sid,
    last_event_id: Annotated[str | None, Header()] = None,
    follow: bool = False,
    merge: bool = True,
) -> EventStream:
    """As `/v1/sessions/{id}/events`. It counts as a stream of the admin's, not of the owner's."""
    cursor = START if last_event_id is None else EventId.parse(last_event_id)
    owner = (await _view(node, sid)).principal
    delivery = Delivery(node.hub, sid, admin, cursor, follow=follow, merge=merge, owner=owner)
    return EventStream(delivery, native.NativeEncoder(node.settings.retry_ms))


@router.post("/sessions/{sid}/stop")
async def stop(
    node: TheNode, admin: Admin, sid: Sid, body: Annotated[schemas.StopRequest | None, Body()] = None
) -> schemas.Stopped:
    """As `/v1/sessions/{id}/stop`."""
    view = await _view(node, sid)
    _log.info("an admin stops a generation", session=sid, generation=view.generation, admin=admin)
    commands = Commands(node, view.principal, by=BY)
    return await replies.stopped(node, commands, sid, body or schemas.StopRequest())


@router.get("/workers")
async def workers(node: TheNode) -> Workers:
    """Those that are alive, in the order of their names."""
    now = await node.directory.now_ms()
    leases = await node.directory.leases(WORKERS + 1)
    rows = sorted((_worker(node, lease) for lease in leases[:WORKERS]), key=lambda row: row.name)
    return Workers(now=now, workers=rows, more=len(leases) > WORKERS)


# -- inside


async def _view(node: Node, sid: str) -> SessionView:
    """Whosever it is. Raises SessionNotFound."""
    view = await node.log.view(sid)
    if view is None:
        raise SessionNotFound(sid)
    return view


def _node_now(node: Node) -> NodeNow:
    hub, counts = node.hub, node.hub.counts
    return NodeNow(
        name=process_name(),
        readers=len(hub.readers),
        feeds=hub.feeds,
        draining=hub.draining,
        delivered=counts.live + counts.from_ring + counts.from_log,
    )


async def _live_now(node: Node) -> LiveNow:
    newest = await node.directory.newest_live(None, 0, LOOKED_AT)
    views = await node.log.views([sid for sid, _ in newest]) if newest else []
    states = Counter(view.state.value for view in views if view is not None and view.live)
    total = await node.directory.count_live()
    counted = {state.value: states[state.value] for state in sorted(LIVE)}
    return LiveNow(total=total, looked_at=len(newest), states=counted)


async def _rows(node: Node, found: Sequence[tuple[str, SessionView]]) -> list[SessionRow]:
    times = await node.log.times([(sid, view.last) for sid, view in found])
    now = await node.directory.now_ms()
    return [_row(node, sid, view, at, now) for (sid, view), at in zip(found, times, strict=True)]


def _row(node: Node, sid: str, view: SessionView, at: int | None, now: int) -> SessionRow:
    return SessionRow(
        id=sid,
        state=view.state,
        owner=view.principal,
        model=view.model,
        pipeline=view.pipeline,
        generation=view.generation,
        attempt=view.attempt,
        worker=view.worker,
        age_ms=max(0, now - view.created),
        state_ms=max(0, now - view.since),
        quiet_ms=None if at is None else max(0, now - at),
        readers=node.hub.readers_of(sid),
        last_event_id=str(view.last),
    )


def _worker(node: Node, lease: Lease) -> WorkerRow:
    return WorkerRow(
        name=lease.worker_id, lease_ms=lease.left_ms, lease_s=node.settings.lease_s, about=_object(lease.about)
    )


def _object(text: str) -> dict[str, Any]:
    """What another version of a worker says may be anything."""
    try:
        value = from_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
