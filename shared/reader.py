"""The reader's decision table (one pure function): what to do at a cursor, given the session and the log after it."""

from dataclasses import dataclass
from enum import Enum

from shared.events import LIVE, Event
from shared.ids import EventId
from shared.views import SessionView


class Verdict(Enum):
    SEND = "send"
    """The page continues the cursor."""
    WAIT = "wait"
    """Nothing is missing and more may come."""
    END = "end"
    """Nothing is missing and nothing more comes."""
    HEALING = "healing"
    """The cursor is ahead of the log, whose live writer will say the tail again. Wait, but not for ever."""
    GAP = "gap"
    MISSING = "missing"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Decision:
    verdict: Verdict
    reason: str = ""
    """Of a gap: `lost`, `trimmed` or `ahead`."""


_SEND, _WAIT, _END = Decision(Verdict.SEND), Decision(Verdict.WAIT), Decision(Verdict.END)
_HEALING = Decision(Verdict.HEALING)
_MISSING, _EXPIRED = Decision(Verdict.MISSING), Decision(Verdict.EXPIRED)


def gap(reason: str) -> Decision:
    return Decision(Verdict.GAP, reason)


def decide(cursor: EventId, view: SessionView | None, page: list[Event], owner_alive: bool) -> Decision:
    """Decide for a reader at `cursor`.

    `view` and `page` (the log after the cursor) come from one atomic read, or the view was read first; a view
    newer than its page would call an event that was just appended a gap.
    """
    if view is None:
        return _MISSING
    if page:
        return _judge_page(cursor, page[0])
    live = view.state in LIVE
    if cursor == view.last:
        return _WAIT if live else _END
    if cursor < view.last:
        return gap("trimmed") if live or view.log_exists else _EXPIRED
    if live and owner_alive and cursor.epoch == view.epoch:
        return _HEALING
    return gap("ahead")


def _judge_page(cursor: EventId, first: Event) -> Decision:
    if first.follows(cursor):
        return _SEND
    return gap("lost" if first.prev is not None and first.prev < cursor else "trimmed")
