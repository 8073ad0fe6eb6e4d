"""A script of `tests/node`, with a client in it, and what it says: a JSON value in each line."""

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any

from tests.support.tools import NODE_MODULES, node

WITHIN_S = 30
LINE_BYTES = 1 << 24


@contextlib.asynccontextmanager
async def speaking(script: str, *arguments: str) -> AsyncIterator[AsyncIterator[Any]]:
    """What it says, as it comes. Afterwards it must end, and well."""
    command = (node(), str(NODE_MODULES.with_name(script)), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, limit=LINE_BYTES)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            yield _values(process.stdout)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def all_said(script: str, *arguments: str) -> list[Any]:
    """All that it says."""
    async with speaking(script, *arguments) as values:
        return [value async for value in values]


async def _values(lines: asyncio.StreamReader) -> AsyncIterator[Any]:
    async for line in lines:
        yield json.loads(line)
