"""The end of a trace: the first delta of an attempt that this node has written to a reader."""

import time
from collections import OrderedDict
from collections.abc import Sequence

from api.sharing import Spawn
from shared.events import Event, EventType
from shared.ids import EventId
from shared.reading import Reading
from shared.redis import RedisError
from shared.telemetry import get_logger
from shared.tracing import Tracing

_log = get_logger(__name__)

MOST = 10_000
"""Sessions that are remembered; one that was forgotten may be told of again."""
DELTAS = (EventType.TEXT, EventType.REASONING)


class FirstDeliveries:
    def __init__(self, tracing: Tracing, log: Reading, spawn: Spawn) -> None:
        self._tracing = tracing
        self._log = log
        self._spawn = spawn
        self._seen: OrderedDict[str, int] = OrderedDict()
        """Session → epoch whose first delta was delivered."""

    def told(self, sid: str, events: Sequence[Event]) -> None:
        """These are written now."""
        for event in events:
            if event.type in DELTAS and self._seen.get(sid) != event.id.epoch:
                self._seen[sid] = event.id.epoch
                self._seen.move_to_end(sid)
                if len(self._seen) > MOST:
                    self._seen.popitem(last=False)
                self._spawn(self._say(sid, event.id, time.time_ns()))

    async def _say(self, sid: str, event_id: EventId, written_ns: int) -> None:
        """From the append to the write. Nothing where no trace is known, or the session has gone on since."""
        try:
            said = await self._log.said(sid, event_id)
        except RedisError as error:
            _log.debug("the first delivery is not in its trace", session=sid, error=str(error))
            return
        if said is None or said.epoch != event_id.epoch or not said.trace:
            return
        appended_ns = time.time_ns() - said.age_ms * 1_000_000
        span = self._tracing.begin(
            "first delivery", said.trace, start_ns=min(appended_ns, written_ns),
            session=sid, generation=said.generation, attempt=said.attempt, event=str(event_id),
        )  # fmt: skip
        span.end(written_ns)
