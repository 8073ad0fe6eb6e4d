"""Clients of Redis, for as long as a block lasts."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from shared.redis import connect


@contextlib.asynccontextmanager
async def connected(url: str, *, connections: int = 4, timeout_s: float = 5) -> AsyncIterator[Any]:
    """A client whose connections are closed with the block, however it ends."""
    client = connect(url, connections=connections, timeout_s=timeout_s)
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)
