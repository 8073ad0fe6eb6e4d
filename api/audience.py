"""The audience of a feed: its readers that have everything, and take what comes next without being asked."""

from typing import Protocol

from api.dialects import native
from api.http_chunks import chunk
from shared.ids import START, EventId

WRITE_BYTES = 8 << 10
"""About the most that one write of live events holds: what a client does not take of it waits in the node."""


class Listener(Protocol):
    """A connection in the audience. Nothing runs for it, and none of it waits to be sent."""

    def write(self, data: bytes) -> None:
        """Send what is ready to be sent. May leave the audience meanwhile, but not another listener's."""

    def recall(self) -> None:
        """Something came that is not for all: leave the audience, and let the delivery decide."""


class Audience:
    """All of it stands at one cursor. What is published once is encoded once, and written to each of them; in doing so
    the cursor of each has moved, and nobody was woken up."""

    __slots__ = ("_listeners", "_spoken", "at")

    def __init__(self) -> None:
        self.at: EventId = START
        """Where all listeners are. Meaningful while there are any."""
        self._listeners: set[Listener] = set()
        self._spoken = False
        """Something was written since the last keep-alive tick."""

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, listener: Listener, at: EventId) -> bool:
        """False: the others are elsewhere, and will be recalled; so this one has to ask its delivery again."""
        if not self._listeners:
            self.at = at
        elif at != self.at:
            return False
        self._listeners.add(listener)
        return True

    def leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    def tell(self, payload: bytes, last: EventId) -> None:
        """Everybody gets a published batch whose first event follows on `at`; `last` is the id of its last one."""
        self.at, self._spoken = last, True
        self._write(chunk(payload))

    def keep_alive(self) -> None:
        """A comment to each, unless they were told something since the last time."""
        if self._listeners and not self._spoken:
            self._write(chunk(native.KEEP_ALIVE))
        self._spoken = False

    def recall(self) -> None:
        for listener in tuple(self._listeners):
            listener.recall()

    def _write(self, data: bytes) -> None:
        for listener in tuple(self._listeners):
            listener.write(data)
