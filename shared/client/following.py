"""Following a session over any number of connections: everything about it but the connections themselves."""

import httpx
from httpx_sse import ServerSentEvent

from shared.client.calls import Call, lost, session_path
from shared.client.errors import ClientError, Unreachable, refusal
from shared.client.events import Event, Terminal, parsed
from shared.client.patience import is_passing, retry_after_s
from shared.client.place import Place, number


class Following:
    """One iteration over a session's events.

    Per connection: ask `call`; tell `answered`; where that is true, `take` each block of it, and tell `ended`. Then
    it is `over`, or is tried again after `wait_s`.
    """

    def __init__(self, place: Place, after: str | None, *, follow: bool, merge: bool) -> None:
        self._place = place
        self._cursor = place.cursor if after is None else after
        self._follow = follow
        self._merge = merge
        self._silent_s = place.options.silent_s
        self._patience = place.options.follow_patience()
        self._target = 0 if follow else number(place.generation)
        """Number of the generation whose end is the end; 0 where the server is to tell."""
        self._ended = False
        """The last event ended a generation."""
        self._error: ClientError = Unreachable("the stream was cut")
        self._at_least_s = 0.0
        self.over = False

    @property
    def call(self) -> Call:
        """A server says something every 15 s, if only a keep-alive: nothing for longer means that nobody is there."""
        headers = {"accept": "text/event-stream", "accept-encoding": "identity", "cache-control": "no-store"}
        if self._cursor is not None:
            headers["last-event-id"] = self._cursor
        query = {"follow": "1" if self._follow else None, "merge": None if self._merge else "0"}
        path = session_path(self._place.id, "events")
        return Call("GET", path, query=query, headers=headers, within_s=self._silent_s)

    def answered(self, response: httpx.Response, body: bytes) -> bool:
        """Whether there is a stream to read. `body` is that of a refusal. Raises Refused for what will not change."""
        self._at_least_s = 0.0
        status = response.status_code
        if status == 204:
            self.over = True
            return False
        if status == 200 and response.headers.get("content-type", "").startswith("text/event-stream"):
            return True
        # A proxy's own page in the place of the stream is passing trouble as well.
        self._error = refusal(status, body) if status >= 300 else Unreachable(f"no stream, but {status}")
        if status >= 300 and not is_passing(status):
            raise self._error
        self._at_least_s = retry_after_s(response.headers)
        return False

    def take(self, block: ServerSentEvent) -> Event | None:
        """The event to hand out. The cursor moves with it: what was not finished does not count."""
        if block.retry is not None:
            self._patience.base_s = max(0, block.retry) / 1000
        if not block.data:
            return None
        event = parsed(block.id, block.event, block.data)
        self._patience.renewed()
        if event.id is None:
            return event
        self._cursor = self._place.cursor = event.id
        self._place.heard(event)
        self._ended = isinstance(event, Terminal)
        self.over = isinstance(event, Terminal) and 0 < self._target <= number(event.generation)
        return event

    def ended(self, error: httpx.RequestError | None) -> None:
        """The connection ended; None: cleanly. That is the end of the answer only right after a terminal."""
        if error is not None:
            self._error = lost(error)
        else:
            self._error = Unreachable("the stream ended before the answer did")
            self.over = self.over or (self._ended and not self._follow and not self._target)

    def wait_s(self) -> float:
        """Seconds until the next connection. Raises why there was none for longer than patience lasts."""
        return self._patience.wait_s(self._error, self._at_least_s)
