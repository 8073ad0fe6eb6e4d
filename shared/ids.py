"""Identifiers: sessions, generations, and event ids with the rule that chains them."""

import re
import secrets
from typing import NamedTuple, Self

from shared.errors import InvalidEventId

EVENT_ID = r"(0|[1-9][0-9]{0,15})-(0|[1-9][0-9]{0,15})"
"""The syntax of an event id: epoch, seq."""
_EVENT_ID = re.compile(EVENT_ID)
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

EPOCH_JUMP = 1 << 20
"""Upper bound of the random jump of a new epoch. A counter would be reused after a failover that rolled it back."""


class EventId(NamedTuple):
    """`<epoch>-<seq>`: the Redis entry id, the SSE `id`, and a reader's cursor.

    `epoch` says who held the pen, `seq` counts from 1 within it. An epoch is no clock: it may only be compared.
    """

    epoch: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<epoch>-<seq>`. Raises InvalidEventId for anything else, also for `-1`, `$` and leading zeros."""
        found = _EVENT_ID.fullmatch(text)
        if found is None:
            raise InvalidEventId(text)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


START = EventId(0, 0)
"""The cursor of a reader that has nothing yet."""


def chains(cursor: EventId, event_id: EventId, prev: EventId | None) -> bool:
    """Whether a reader at `cursor` may take this event: it is the next of its epoch, or opens one right after it.

    `prev` is what the first event of an epoch names as the id before it; None for all others.
    """
    epoch, seq = event_id
    if epoch == cursor[0]:
        return seq == cursor[1] + 1
    return seq == 1 and prev == cursor


def is_session_id(text: str) -> bool:
    return _SESSION_ID.fullmatch(text) is not None


def new_session_id() -> str:
    return secrets.token_hex(12)


def new_token() -> str:
    """A secret or nonce that nobody else makes: 128 random bits."""
    return secrets.token_hex(16)


def epoch_jump() -> int:
    return secrets.randbelow(EPOCH_JUMP)


def generation_number(generation: str) -> int:
    """`g3` → 3."""
    return int(generation[1:])


def generation_before(generation: str) -> str:
    """`g3` → `g2`."""
    return f"g{generation_number(generation) - 1}"
