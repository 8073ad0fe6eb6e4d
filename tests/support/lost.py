"""Workers that are lost, and what readers see of it."""

import asyncio
from typing import Any

from shared import keys
from shared.events import Event, EventType, encode
from shared.log import Log
from shared.transcript import Message, fold
from shared.views import SessionView
from tests.support.sse import Frame
from tests.support.system import Process, System

WITHIN_S = 30.0
QUICK = {"HOLDFAST_LEASE_S": "3", "HOLDFAST_HEARTBEAT_S": "0.5"}
"""A worker is given up soon, but not as soon as a busy machine makes it late."""
REQUEUES = {"HOLDFAST_REQUEUE_AFTER_S": "1"}
"""What is queued and not taken is queued again soon."""


def events_of(frames: list[Frame]) -> list[Event]:
    return [Event(frame.event_id, frame.type, encode(frame.data)) for frame in frames if frame.id]


def answer(events: list[Event]) -> Message:
    """The last message of the transcript, as who read all of these shows it."""
    return fold(events).messages[-1]


def attempts(events: list[Event]) -> list[int]:
    return [event.value["attempt"] for event in events if event.type == EventType.STARTED]


async def when(log: Log, sid: str, true: Any) -> SessionView:
    """The session, as soon as `true` holds of it."""
    async with asyncio.timeout(WITHIN_S):
        while not ((view := await log.view(sid)) and true(view)):
            await asyncio.sleep(0.02)
        return view


async def until_said(log: Log, sid: str, words: str = "", attempt: int = 1) -> None:
    """Until that attempt has said something with these words."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            events = await log.events(sid)
            last = [n for n, event in enumerate(events) if event.type == EventType.STARTED]
            said = "".join(e.value["text"] for e in events[last[-1] :] if e.type == EventType.TEXT) if last else ""
            if attempts(events)[-1:] == [attempt] and said and words in said:
                return
            await asyncio.sleep(0.02)


def holder(running: System, view: SessionView | None) -> Process:
    """The worker process that holds the session."""
    assert view is not None
    return next(worker for worker in running.workers if f"-{worker.pid}-" in view.worker)


async def leased(redis: Any, worker: Process) -> None:
    """Until the worker's lease is there."""
    async with asyncio.timeout(WITHIN_S):
        while not await redis.keys(keys.worker(f"*-{worker.pid}-*")):
            await asyncio.sleep(0.02)
