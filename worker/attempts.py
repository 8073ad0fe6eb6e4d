"""What is told of an attempt that begins: its counts, and its part of the trace."""

import time
from collections.abc import Sequence

from shared.events import Event, EventType
from shared.log import Claimed
from shared.tracing import NOTHING, Span
from shared.views import SessionView
from worker.context import WorkerContext


def begun(
    context: WorkerContext, sid: str, claimed: Claimed, view: SessionView, events: Sequence[Event]
) -> tuple[Span, float | None]:
    """The span of the attempt, beside one of the waiting; and for how many seconds the turn was queued, by Redis'
    clock. None for a later attempt: the log does not say when that was queued."""
    counts = context.counts
    waited_s = _waited_s(events) if claimed.attempt == 1 else None
    counts.attempts += 1
    counts.appended += 1  # generation.started: by the claim
    if claimed.attempt > 1:
        counts.takeovers[("crash" if view.crashes else "handover",)] += 1
    if waited_s is not None:
        counts.queue_wait.observe(waited_s)
    if not context.tracing.on:
        return NOTHING, waited_s
    about = {"session": sid, "generation": view.generation, "attempt": claimed.attempt}
    now = time.time_ns()
    queued = now - int((waited_s or 0) * 1e9)
    context.tracing.begin("queue wait", view.trace, "consumer", queued, **about).end(now)
    span = context.tracing.begin("generation", view.trace, "consumer", now, model=view.model, **about)
    return span, waited_s


def _waited_s(events: Sequence[Event]) -> float | None:
    """From the newest message to the start."""
    started_at = None
    for event in reversed(events):
        if event.type == EventType.STARTED:
            started_at = event.at
        elif event.type == EventType.MESSAGE and started_at is not None:
            return max(0, started_at - event.at) / 1000
    return None
