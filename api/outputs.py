"""What a delivery gives out, in the order in which it is to be sent. Pure values."""

from dataclasses import dataclass

from shared.errors import HoldfastError
from shared.events import Event
from shared.ids import EventId
from shared.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Events:
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Gap:
    """The log no longer has what follows the cursor. Bears an id, so that the client's cursor moves."""

    id: EventId
    requested: EventId
    earliest: EventId | None
    reason: str
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Replay is over: what follows is live."""

    last: EventId


@dataclass(frozen=True, slots=True)
class KeepAlive:
    pass


@dataclass(frozen=True, slots=True)
class End:
    """The reader has everything: finish cleanly."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """There was nothing to send and nothing will come: 204. Only ever the first output."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Only ever the first output."""

    error: HoldfastError


@dataclass(frozen=True, slots=True)
class Cut:
    """Abort the connection: a clean end would look like success."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to send, and nothing to run for: whoever asked joins the audience of the feed, until it is recalled."""


Output = Events | Gap | CaughtUp | KeepAlive | Idle | End | Nothing | Refused | Cut
