"""Pages of a principal's sessions."""

import re

from api.node import Node, Principal
from shared.errors import InvalidRequest
from shared.events import State
from shared.views import SessionView

_CURSOR = re.compile(r"([0-9]{1,16})\.([0-9]{1,6})")
BATCH = 100
SCANNED = 1000
"""Most entries looked at for one page: a rare state must not make one request read everything."""


async def list_sessions(
    node: Node, principal: Principal, state: State | None, limit: int, cursor: str | None
) -> tuple[list[tuple[str, SessionView]], str | None]:
    """The sessions of one page, and the cursor of the next (None: there is none). Forgets those that are gone.

    A cursor is `<ms>.<n>`: the entry's time, and how many of the same ms came before. Raises InvalidRequest.
    """
    top_ms, skip = _parse(cursor)
    found: list[tuple[str, SessionView]] = []
    gone: list[str] = []
    for _ in range(SCANNED // BATCH):
        batch = await node.directory.owned(principal, top_ms, skip, BATCH)
        views = await node.log.views([sid for sid, _ in batch]) if batch else []
        for (sid, touched), view in zip(batch, views, strict=True):
            skip = skip + 1 if touched == top_ms else 1
            top_ms = touched
            if view is None:
                gone.append(sid)
                skip -= 1
            elif view.principal == principal and state in (None, view.state):
                found.append((sid, view))
                if len(found) == limit:
                    await node.directory.remove_owned(principal, *gone)
                    return found, f"{top_ms}.{skip}"
        await node.directory.remove_owned(principal, *gone)
        gone.clear()
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
