"""One generation as another server's protocol says it: the base of the dialects that tell of a single answer.

A projection is pure: it is given the events of its session in the log's order, from before the generation's first on,
with no delta merged, and the same events give the same bytes, on every node and however often.
"""

from abc import ABC, abstractmethod

from api.dialects.encoder import Unsayable
from api.outputs import CaughtUp, Events, Gap, KeepAlive, Output
from shared.events import Event, EventType

KEEP_ALIVE = b": ka\n"


class Projection(ABC):
    dialect = "projection"
    """Its name, for the counts."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.over = False
        """The terminal was projected: nothing comes any more."""
        self._inside = False

    def take(self, event: Event) -> bytes:
        """What the client is sent for the next event of the session; nothing for those of other generations."""
        if self.over:
            return b""
        if event.type in (EventType.MESSAGE, EventType.STARTED):
            self._inside = event.value["generation"] == self.generation
        if not self._inside:
            return b""
        data = self.project(event)
        self.over = event.terminal
        return data

    @abstractmethod
    def project(self, event: Event) -> bytes:
        """What the client is sent for the next event of the generation, its messages included."""


class ProjectionEncoder:
    """See `api.dialects.encoder.Encoder`. Ends with the generation, also where the session has gone on since."""

    plain = False

    def __init__(self, projection: Projection, keep_alive: bytes = KEEP_ALIVE) -> None:
        self._projection = projection
        self._keep_alive = keep_alive

    @property
    def dialect(self) -> str:
        return self._projection.dialect

    @property
    def over(self) -> bool:
        return self._projection.over

    @property
    def partial(self) -> bool:
        return not self._projection.over

    def __call__(self, output: Output) -> bytes:
        match output:
            case Events(events):
                return b"".join([self._projection.take(event) for event in events])
            case KeepAlive():
                return self._keep_alive
            case CaughtUp():
                return b""
            case Gap(reason=reason):
                raise Unsayable(f"a gap: {reason}")
        return b""
