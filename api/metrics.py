"""What a node says of itself to Prometheus: its counts, as they are when it is asked."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from api.hub import Hub
from shared.metrics import (
    LoopLag,
    common,
    counter,
    counters,
    exposed,
    gauge,
    gauges,
    histogram,
    histograms,
    redis_errors,
    registry,
)
from shared.reading import Reading
from shared.redis import RedisError
from shared.telemetry import get_logger

_log = get_logger(__name__)

SAMPLE_S = 1.0
"""Of the events that are delivered, one in so long is asked after."""


class NodeMetrics:
    """Its registry. `probe` and `lag.run` are to run beside it."""

    def __init__(self, hub: Hub, log: Reading, errors: Callable[[], Mapping[str, int]]) -> None:
        """`errors`: of all clients of Redis, by kind."""
        self._hub = hub
        self._log = log
        self._errors = errors
        self._ready = False
        self.lag = LoopLag()
        self._registry = registry(self._families)

    def exposed(self, accept: str, *, ready: bool) -> tuple[bytes, str]:
        """The text and its content type. `ready`: what `/readyz` would say."""
        self._ready = ready
        return exposed(self._registry, accept)

    async def probe(self) -> None:
        """Measures the way of an event now and then, until cancelled: all of it by Redis' clock, to a ms."""
        loop = asyncio.get_running_loop()
        lag = self._hub.counts.lag
        while True:
            sid, event_id, written = await lag.next()
            asked = loop.time()
            try:
                said = await self._log.said(sid, event_id)
            except RedisError as error:
                _log.debug("the lag of a delivery could not be measured", session=sid, error=str(error))
            else:
                if said is not None:  # Redis was asked, about, in the middle between question and answer
                    lag.seconds.observe(max(0.0, said.age_ms / 1000 - ((asked + loop.time()) / 2 - written)))
            await asyncio.sleep(SAMPLE_S)

    def _families(self) -> Iterator[Metric]:
        yield from common("api", self.lag)
        yield redis_errors(self._errors())
        yield from self._node()
        yield from self._readers()
        yield from self._events()
        yield from self._requests()

    def _node(self) -> Iterator[Metric]:
        hub = self._hub
        yield gauge("ready", "1 while the process may be given work", self._ready)
        yield gauge("draining", "1 while the process sends its clients or generations away", hub.draining)
        yield gauge("open_streams", "Streams that are counted against their callers' limits", hub.streams.total)
        yield gauge("feeds", "Sessions this node follows", hub.feeds)

    def _readers(self) -> Iterator[Metric]:
        counts, kind = self._hub.counts, ("transport", "dialect")
        yield gauges("readers", "Clients that are reading a session now", kind, counts.readers)
        yield counters("streams", "Streams that have begun", kind, counts.opened)
        yield counters("resumes", "Streams that have begun at a cursor", kind, counts.resumed)
        yield counters("gaps", "Readers that were told of a gap", ("reason",), counts.gaps)
        yield histogram("replay_events", "Events a reader was given from the log until it was live", counts.replays)

    def _events(self) -> Iterator[Metric]:
        counts = self._hub.counts
        by_way = {("live",): counts.live, ("ring",): counts.from_ring, ("log",): counts.from_log}
        yield counters(
            "events_delivered", "Events given to readers: at once, from memory, or from the log; a merged one counts "
            "as those it was made of", ("way",), by_way,
        )  # fmt: skip
        yield counter("events_received", "Published events that feeds have taken", counts.taken)
        yield counter("events_appended", "Events this process has put into logs", counts.appended)
        yield counters(
            "generations", "Generations that this process has ended, by how and why", ("outcome", "code"), counts.ended
        )
        yield counter("feed_looks", "Looks of a feed at the log because something did not fit", counts.looks)
        repairs = {("refilled",): counts.refilled, ("dropped",): counts.dropped}
        yield counters("feed_repairs", "Feeds that the log had more for, or begun anew", ("kind",), repairs)
        yield histogram(
            "delivery_lag_seconds", "From the append of an event to its write to readers; one a second is measured",
            counts.lag.seconds,
        )  # fmt: skip

    def _requests(self) -> Iterator[Metric]:
        counts, labels = self._hub.counts, ("method", "route")
        yield counters("http_requests", "Requests, by template of their route", (*labels, "status"), counts.requests)
        yield histograms("http_response_seconds", "Until a response begins; a stream's too", labels, counts.responses)
