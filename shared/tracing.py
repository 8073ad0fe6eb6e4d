"""Traces by OpenTelemetry: one from the request that opens a turn, over queue and worker, to the first delivery.

Off, nothing is imported and nothing is made: every span is `NOTHING`. On, spans go where the `OTEL_EXPORTER_OTLP_*`
variables say. A trace travels with its session, as a W3C `traceparent` beside the turn: so whichever worker takes the
turn, or takes it over, goes on with it, also where the job was lost and a reaper has queued it again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, Literal

from shared.errors import ConfigurationError

_EXTRA = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter")
FIELD = "trace"
"""Of the session's hash: the `traceparent` of its newest turn."""

Kind = Literal["internal", "server", "client", "consumer"]


class Span:
    """A part of a trace, or nothing."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Any = None, span: Any = None) -> None:
        self._tracer, self._span = tracer, span

    @property
    def traceparent(self) -> str:
        """What a part elsewhere is begun with; empty for nothing."""
        if self._span is None:
            return ""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent", "")

    def begin(self, name: str, kind: Kind = "internal", start_ns: int | None = None, **attributes: Any) -> "Span":
        """A part of this one. `start_ns`: since 1970; None: now."""
        if self._span is None:
            return self
        from opentelemetry import trace

        return _begun(self._tracer, trace.set_span_in_context(self._span), name, kind, start_ns, attributes)

    def set(self, **attributes: Any) -> None:
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def rename(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def failed(self, why: str) -> None:
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, why))

    def end(self, end_ns: int | None = None) -> None:
        if self._span is not None:
            self._span.end(end_ns)


NOTHING = Span()
_here: ContextVar[Span] = ContextVar("span", default=NOTHING)


def here() -> Span:
    """What is under way in this task, or in the one that started it."""
    return _here.get()


@contextmanager
def inside(span: Span) -> Iterator[Span]:
    """Meanwhile it is what is under way; it ends with the block."""
    token = _here.set(span)
    try:
        yield span
    finally:
        _here.reset(token)
        span.end()


class Tracing:
    """One process' traces."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("holdfast")

    @classmethod
    def of(cls, wanted: bool, service: str, instance: str) -> "Tracing":
        """`service` and `instance` are what the spans are said to come from. Raises what `check` does."""
        check(wanted)
        return cls(_provider(service, instance) if wanted else None)

    @property
    def on(self) -> bool:
        return self._provider is not None

    def begin(
        self, name: str, traceparent: str = "", kind: Kind = "internal", start_ns: int | None = None, **attributes: Any
    ) -> Span:
        """A part of the trace that `traceparent` names; of a new one, where it names none."""
        if self._tracer is None:
            return NOTHING
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        return _begun(self._tracer, parent, name, kind, start_ns, attributes)

    async def aclose(self) -> None:
        """What was not sent yet is sent, if that is possible."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


def _begun(tracer: Any, parent: Any, name: str, kind: Kind, start_ns: int | None, attributes: dict[str, Any]) -> Span:
    from opentelemetry.trace import SpanKind

    span = tracer.start_span(
        name, parent, kind=SpanKind[kind.upper()], attributes=_named(attributes), start_time=start_ns
    )  # fmt: skip
    return Span(tracer, span)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"holdfast.{name}": value for name, value in attributes.items()}


def check(wanted: bool) -> None:
    """Raises ConfigurationError where the extra is wanted and not installed."""
    if wanted and not all(map(find_spec, _EXTRA)):
        raise ConfigurationError("HOLDFAST_TRACES needs the extra otel: pip install '.[otel]' in Holdfast's folder")


def exporter() -> Any:
    """Where spans go: OTLP over HTTP, as OTEL_EXPORTER_OTLP_ENDPOINT and its siblings say."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _provider(service: str, instance: str) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.instance.id": instance}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider
