"""Pages of logs that were read a moment ago, for readers of the same session that come along a moment later."""

from dataclasses import dataclass

from api.feed import Feed
from shared.ids import EventId
from shared.pages import Page
from shared.views import SessionView

KEPT_S = 1.0
"""No page is given out that was read longer ago."""
KEPT_BYTES = 8 << 20
"""Of all pages together; the oldest go first."""

Found = tuple[SessionView | None, Page]
"""What a read found: the session, and then the page."""


@dataclass(frozen=True, slots=True)
class _Kept:
    found: Found
    feed: Feed
    version: int
    """Of the feed when the page was read."""
    size: int
    until: float


class KeptPages:
    """A page that goes on from its cursor says what is past, and stays true: whoever gets it later is in the place of
    a reader that got it at once, and was slow. It is never taken apart from the session that was read before it. What
    the end of the log says, or a log that does not go on, is old in a moment, and is not kept.

    So it would be with a page that a failover has undone; but who can be spared that is spared it. A page is given out
    only while the feed has heard of its last event, and has not had to begin anew since it was read.
    """

    def __init__(self, seconds: float = KEPT_S, most_bytes: int = KEPT_BYTES) -> None:
        self._seconds, self._most_bytes = seconds, most_bytes
        self._pages: dict[tuple[str, EventId], _Kept] = {}
        """In the order in which they were read."""
        self.bytes = 0

    def keep(self, feed: Feed, version: int, cursor: EventId, found: Found, now: float) -> None:
        """`version`: of the feed before the page was read."""
        if not goes_on(cursor, found):
            return
        key = (feed.sid, cursor)
        self._drop(key)
        size = found[1].size
        self._pages[key] = _Kept(found, feed, version, size, now + self._seconds)
        self.bytes += size
        self.tidy(now)

    def get(self, feed: Feed, cursor: EventId, now: float) -> Found | None:
        kept = self._pages.get((feed.sid, cursor))
        if kept is None or kept.until < now or kept.feed is not feed or kept.version != feed.version:
            return None
        heard = feed.last is not None and not feed.dirty and kept.found[1][-1].id <= feed.last
        return kept.found if heard else None

    def tidy(self, now: float) -> None:
        """Forget what is too old, or too much."""
        while self._pages:
            key, oldest = next(iter(self._pages.items()))
            if oldest.until >= now and self.bytes <= self._most_bytes:
                return
            self._drop(key)

    def clear(self) -> None:
        self._pages.clear()
        self.bytes = 0

    def _drop(self, key: tuple[str, EventId]) -> None:
        if (kept := self._pages.pop(key, None)) is not None:
            self.bytes -= kept.size


def goes_on(cursor: EventId, found: Found) -> bool:
    """Whether it is to be sent to whoever is at the cursor, whatever else is known of the session."""
    view, page = found
    return view is not None and bool(page) and page[0].follows(cursor)
