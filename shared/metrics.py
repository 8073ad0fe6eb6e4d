"""Measuring: plain numbers where things happen, made into what Prometheus reads when it asks.

A count is an integer that its owner adds to; a `Distribution` is a list of them. Nothing else happens where something
is measured, so that the paths every event takes stay what they were. Each node and each worker has its own registry.
"""

import asyncio
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString

PREFIX = "holdfast"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
LAG_PERIOD_S = 0.25

Labelled = Mapping[Any, float]
"""Values by the values of their labels."""
Families = Callable[[], Iterable[Metric]]


class Distribution:
    """How values are spread over buckets, each of which has an upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class LoopLag:
    """How late an event loop comes to what is due."""

    def __init__(self) -> None:
        self.seconds = Distribution()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.seconds.observe(max(0.0, loop.time() - due))


# -- families


def counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", documentation, value=value)


def counters(name: str, documentation: str, labels: Sequence[str], values: Labelled) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", documentation, labels=labels)
    for of, value in dict(values).items():  # copied in one step: whoever reads may be another thread
        family.add_metric(of, value)
    return family


def gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, value=value)


def gauges(name: str, documentation: str, labels: Sequence[str], values: Labelled) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", documentation, labels=labels)
    for of, value in dict(values).items():
        family.add_metric(of, value)
    return family


def histogram(name: str, documentation: str, of: Distribution) -> Metric:
    return histograms(name, documentation, (), {(): of})


def histograms(name: str, documentation: str, labels: Sequence[str], values: Mapping[Any, Distribution]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", documentation, labels=labels)
    for of, one in dict(values).items():
        family.add_metric(of, list(_buckets(one)), one.total)
    return family


def _buckets(of: Distribution) -> Iterator[tuple[str, float]]:
    """Cumulated, as Prometheus has them."""
    so_far = 0
    for bound, count in zip((*of.bounds, INF), list(of.counts), strict=True):
        so_far += count
        yield floatToGoString(bound), so_far  # type: ignore[no-untyped-call]


# -- what both kinds of process say


def common(role: str, lag: LoopLag) -> Iterator[Metric]:
    about = {(role, version(PREFIX), platform.python_version()): 1.0}
    yield gauges("build_info", "What runs here; always 1", ("role", "version", "python"), about)
    yield histogram("event_loop_lag_seconds", "How late the event loop came to what was due", lag.seconds)


def redis_errors(errors: Mapping[str, int]) -> Metric:
    """`errors`: by the name of the error; see `shared.topology.client`."""
    by_kind = {(kind,): count for kind, count in dict(errors).items()}
    return counters("redis_errors", "Tries that Redis did not answer, or refused", ("kind",), by_kind)


class _Once(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


def registry(*families: Families) -> CollectorRegistry:
    """One of its own, with the process beside them."""
    made = CollectorRegistry()
    ProcessCollector(namespace=PREFIX, registry=made)
    for each in families:
        made.register(_Once(each))
    return made


def exposed(of: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The text, and its content type, in the form that `accept` asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(of), content_type
