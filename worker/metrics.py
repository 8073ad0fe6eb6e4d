"""What a worker says of itself to Prometheus: its counts, as they are when it is asked, on a port of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from prometheus_client import start_http_server
from prometheus_client.core import Metric

from shared.errors import ConfigurationError
from shared.metrics import (
    LoopLag,
    common,
    counter,
    counters,
    gauge,
    gauges,
    histogram,
    redis_errors,
    registry,
)
from shared.telemetry import get_logger
from worker.context import WorkerContext
from worker.heartbeat import Contact

_log = get_logger(__name__)


class WorkerMetrics:
    """Its registry. `lag.run` is to run beside it."""

    def __init__(self, context: WorkerContext, contact: Contact) -> None:
        self._context = context
        self._contact = contact
        self.lag = LoopLag()
        self._registry = registry(self._families)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Meanwhile `/metrics` is answered, where a port is set; by a thread, which the event loop does not wait for.

        Raises ConfigurationError where the port cannot be had."""
        settings = self._context.settings
        if not settings.metrics_port:
            yield
            return
        try:
            server, _ = start_http_server(settings.metrics_port, settings.metrics_host, self._registry)
        except OSError as error:
            raise ConfigurationError(f"HOLDFAST_METRICS_PORT: {error}") from None
        _log.info("metrics are served", host=settings.metrics_host, port=settings.metrics_port)
        try:
            yield
        finally:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    def _families(self) -> Iterator[Metric]:
        yield from common("worker", self.lag)
        yield redis_errors(self._context.redis_errors())
        yield from self._worker()
        yield from self._generations()
        yield from self._log_of()
        yield from self._all_workers()

    def _worker(self) -> Iterator[Metric]:
        context = self._context
        ready = self._contact.made.is_set() and not context.leaving
        yield gauge("ready", "1 while the process may be given work", ready)
        yield gauge("draining", "1 while the process sends its clients or generations away", context.leaving)
        yield gauge(
            "held_generations", "Generations this worker holds, with those that have just ended", len(context.held)
        )
        yield gauge("held_generations_limit", "How many it takes at once", context.settings.worker_jobs)
        yield gauge("held_output_bytes", "Output it keeps, to say it again if need be", context.budget.bytes)

    def _generations(self) -> Iterator[Metric]:
        counts = self._context.counts
        yield counters(
            "generations", "Generations that this process has ended, by how and why", ("outcome", "code"), counts.ended
        )
        yield counter("attempts", "Generations that were claimed", counts.attempts)
        yield counters("takeovers", "Of these, attempts after the first, by the end of the one before", ("reason",),
                       counts.takeovers)  # fmt: skip
        yield counters("attempts_given_up", "Attempts that ended before their generation", ("reason",), counts.given_up)
        yield counter("requeued", "Sessions that were queued for long, and were queued again", counts.requeued)
        yield histogram(
            "queue_wait_seconds", "From a turn's message to its first attempt, by Redis' clock", counts.queue_wait
        )
        yield histogram("first_token_seconds", "From a turn's message to the first delta of its first attempt",
                        counts.first_token)  # fmt: skip

    def _log_of(self) -> Iterator[Metric]:
        counts = self._context.counts
        yield counter("events_appended", "Events this process has put into logs", counts.appended)
        yield histogram("append_seconds", "Of an append, until Redis has answered it; outages count", counts.appends)
        yield counters("appends_healed", "Appends that found the log behind, or the claim gone, after a failover",
                       ("kind",), counts.healed)  # fmt: skip

    def _all_workers(self) -> Iterator[Metric]:
        """Every worker says the same: of the whole deployment."""
        counts = self._context.counts
        yield gauges("live_sessions", "Sessions with a live generation, by state, in the whole deployment", ("state",),
                     counts.live)  # fmt: skip
        yield gauge("oldest_queued_seconds", "How long the oldest queued generation of the deployment has waited",
                    counts.oldest_queued_s)  # fmt: skip
