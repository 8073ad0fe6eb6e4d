"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 1.0
"""`asyncio.wait_for` of Python 3.11 may swallow a cancellation that meets the end of what it waits for (gh-81839), and
redis-py uses it for every command: a task that goes on is cancelled once more. Later, so as not to disturb a task that
is cleaning up."""


async def cancel(tasks: Iterable[asyncio.Task[Any]], within_s: float | None = None, again_s: float = AGAIN_S) -> bool:
    """Cancel tasks and wait until they are over; False if some are not, in time. Their errors stay theirs."""
    running = {task for task in tasks if not task.done()}
    loop = asyncio.get_running_loop()
    deadline = None if within_s is None else loop.time() + within_s
    while running:
        for task in running:
            task.cancel()
        left = again_s if deadline is None else min(again_s, deadline - loop.time())
        if left <= 0:
            return False
        _, running = await asyncio.wait(running, timeout=left)
    return True
