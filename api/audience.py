"""The audience of a feed: its readers that have everything, and take what comes next without being asked."""

from typing import Protocol

from api.dialects import native
from api.http_chunks import chunk
from shared.ids import START, EventId

WRITE_BYTES = 8 << 10
"""About the most that one write of live events holds: what a client does not take of it waits in the node."""


class Listener(Protocol):
    """A connection in the audience. Nothing runs for it."""

    def write(self, data: bytes) -> None:
        """Send what is ready to be sent. May leave the audience meanwhile, but not another listener's."""

    def recall(self) -> None:
        """Something came that is not for all: leave the audience, and let the delivery decide."""

    def failed(self, error: Exception) -> None:
        """`write` raised: leave the audience for good. The client comes back with the last that it got."""


class Audience:
    """All of it stands at one cursor. What is published once is encoded once, and written to each of them; in doing so
    the cursor of each has moved, and nobody was woken up."""

    __slots__ = ("_listeners", "at")

    def __init__(self) -> None:
        self.at: EventId = START
        """Where all listeners are. Meaningful while there are any."""
        self._listeners: set[Listener] = set()

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
        self.at = last
        self._write(chunk(payload))

    def keep_alive(self) -> None:
        """A comment to each, also to those that were told something a moment ago: nobody hears nothing for longer than
        from one tick to the next."""
        self._write(chunk(native.KEEP_ALIVE))

    def recall(self) -> None:
        for listener in tuple(self._listeners):
            listener.recall()

    def _write(self, data: bytes) -> None:
        for listener in tuple(self._listeners):
            try:
                listener.write(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must not miss theirs
                listener.failed(error)
