"""What the admin page is told. Times are ms since 1970 by Redis' clock, ages in ms."""

from typing import Any, Literal

from pydantic import BaseModel

from shared.events import State

LiveState = Literal[State.QUEUED, State.RUNNING, State.WAITING]


class NodeNow(BaseModel):
    """The node that answers. Its counts go on from its start: two answers make a rate."""

    name: str
    readers: int
    feeds: int
    draining: bool
    delivered: int
    """Events given to readers."""


class LiveNow(BaseModel):
    total: int
    """Of the index: some may have ended a moment ago."""
    looked_at: int
    """The newest of them, of which these states are."""
    states: dict[str, int]


class Overview(BaseModel):
    now: int
    redis_ms: float
    """What one question to Redis took."""
    node: NodeNow
    live: LiveNow


class SessionRow(BaseModel):
    id: str
    state: State
    owner: str
    model: str
    pipeline: str
    generation: str
    attempt: int
    worker: str
    age_ms: int
    """Of the session."""
    state_ms: int
    """Since the last change of state."""
    quiet_ms: int | None
    """Since the last event; None where the log has it no longer."""
    readers: int
    """On this node."""
    last_event_id: str


class Sessions(BaseModel):
    sessions: list[SessionRow]
    next_cursor: str | None


class SessionDetail(SessionRow):
    crashes: int
    stopping: bool
    """Its generation was asked to stop."""
    expired: bool
    lease_ms: int | None
    """What is left of its worker's lease; None: nobody holds it, or nobody alive."""


class WorkerRow(BaseModel):
    """A worker that is alive. What it says of itself is as of its newest heartbeat."""

    name: str
    lease_ms: int
    """What is left of its lease."""
    lease_s: float
    """What a lease begins with, by this node's settings."""
    about: dict[str, Any]
    """`host`, `pid`, `generations`, `room`, and counts from its start as of `at`, by its own clock: `attempts`,
    `appended`, `failed`."""


class Workers(BaseModel):
    now: int
    workers: list[WorkerRow]
    more: bool
    """There are more workers than are shown."""
