"""Pages of sessions: of one principal, or of all that are live."""

import functools
import re
from collections.abc import Awaitable, Callable

from api.node import Node, Principal
from shared.errors import InvalidRequest
from shared.events import State
from shared.log import Log
from shared.views import SessionView

_CURSOR = re.compile(r"([0-9]{1,16})\.([0-9]{1,6})")
BATCH = 100
SCANNED = 1000
"""Most entries looked at for one page: a rare state must not make one request read everything."""

Found = tuple[list[tuple[str, SessionView]], str | None]
"""The sessions of one page, and the cursor of the next. None: there is none.

A cursor is `<ms>.<n>`: the entry's time, and how many of the same ms came before.
"""


Newest = Callable[[int | None, int, int], Awaitable[list[tuple[str, int]]]]
"""Of an index: (session id, ms) from a ms downwards, without the first few, and how many at most."""


async def list_sessions(node: Node, principal: Principal, state: State | None, limit: int, cursor: str | None) -> Found:
    """Of one principal. Forgets those that are gone. Raises InvalidRequest."""

    def wanted(view: SessionView) -> bool:
        return view.principal == principal and state in (None, view.state)

    newest = functools.partial(node.directory.owned, principal)
    forget = functools.partial(node.directory.remove_owned, principal)
    return await _page(node.log, newest, wanted, limit, cursor, forget)


async def list_live(node: Node, state: State | None, limit: int, cursor: str | None) -> Found:
    """Of all principals, those with a live generation. Raises InvalidRequest."""

    def wanted(view: SessionView) -> bool:
        return view.live and state in (None, view.state)

    return await _page(node.log, node.directory.newest_live, wanted, limit, cursor)


async def _page(
    log: Log,
    newest: Newest,
    wanted: Callable[[SessionView], bool],
    limit: int,
    cursor: str | None,
    forget: Callable[..., Awaitable[None]] | None = None,
) -> Found:
    """`forget` takes sessions that are gone out of the index; None: somebody else does."""
    top_ms, skip = _parse(cursor)
    found: list[tuple[str, SessionView]] = []
    for _ in range(SCANNED // BATCH):
        batch = await newest(top_ms, skip, BATCH)
        views = await log.views([sid for sid, _ in batch]) if batch else []
        if forget is not None:
            await forget(*[sid for (sid, _), view in zip(batch, views, strict=True) if view is None])
        for (sid, at), view in zip(batch, views, strict=True):
            skip = skip + 1 if at == top_ms else 1
            top_ms = at
            if view is None and forget is not None:
                skip -= 1
            elif view is not None and wanted(view):
                found.append((sid, view))
                if len(found) == limit:
                    return found, f"{top_ms}.{skip}"
        if len(batch) < BATCH:
            return found, None
    return found, f"{top_ms}.{skip}"


def _parse(cursor: str | None) -> tuple[int | None, int]:
    if cursor is None:
        return None, 0
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise InvalidRequest(f"not a cursor of this list: {cursor!r}")
    return int(parts[1]), int(parts[2])
