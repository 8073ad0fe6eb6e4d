"""FastAPI's own server-sent events, and one XREAD BLOCK per client: what every tutorial shows.

`python -m tests.bench.peers.fastapi_xread REDIS_URL PORT`. On the same server, event loop and Redis client as a node.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from shared.loop import loop_factory

BLOCK_MS = 30_000


def create_app(redis_url: str) -> FastAPI:
    app, client = FastAPI(), redis.asyncio.Redis.from_url(redis_url)

    @app.get("/events/{sid}", response_class=EventSourceResponse)
    async def events(
        sid: str, last_event_id: Annotated[str, Header()] = "0-0"
    ) -> AsyncGenerator[ServerSentEvent, None]:
        cursor: Any = last_event_id
        while True:
            for _, entries in await client.xread({sid: cursor}, count=100, block=BLOCK_MS):
                for entry_id, fields in entries:
                    cursor = entry_id
                    data = fields[b"data"].decode()  # JSON as it is: not even decoded
                    yield ServerSentEvent(id=entry_id.decode(), event=fields[b"type"].decode(), raw_data=data)

    return app


def main(redis_url: str, port: str) -> None:
    config = uvicorn.Config(create_app(redis_url), port=int(port), http="httptools", log_level="warning", backlog=4096)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main(*sys.argv[1:3])
