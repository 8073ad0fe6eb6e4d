"""One trace for each turn: from the request, over queue, worker and model, to the first delivery."""

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import keys, tracing
from shared.errors import ConfigurationError
from shared.log import Log
from tests.support import sessions
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sessions import SID
from tests.support.sse import read_all
from tests.support.ws import WS

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
LOREM = {"model": "demo/lorem", "input": "hi", "options": {"tokens": 20, "rate": 100}}


class Exported:
    """The spans that node and workers have sent. Meaningful once those have ended."""

    def __init__(self) -> None:
        self._exporters: list[InMemorySpanExporter] = []

    def one(self) -> InMemorySpanExporter:
        self._exporters.append(InMemorySpanExporter())
        return self._exporters[-1]

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for exporter in self._exporters for span in exporter.get_finished_spans()]

    def named(self, name: str) -> ReadableSpan:
        """The only one of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def parents(self) -> dict[str, str]:
        """Name of each span → name of the one it is a part of."""
        names = {span.context.span_id: span.name for span in self.spans if span.context}
        return {s.name: names.get(s.parent.span_id, f"{s.parent.span_id:016x}") if s.parent else "" for s in self.spans}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    found = Exported()
    monkeypatch.setattr(tracing, "exporter", found.one)
    return found


def _attributes(span: ReadableSpan, *names: str) -> list[Any]:
    attributes = span.attributes or {}
    return [attributes.get(f"holdfast.{name}") for name in names]


async def _settled(node: LiveNode) -> None:
    """What the node does beside its readers is done."""
    async with asyncio.timeout(20):
        while len(node.node.hub._tasks) > len(node.node.hub._standing):
            await asyncio.sleep(0.01)


async def test_one_trace_from_the_request_to_the_first_delivery(redis_url: str, exported: Exported) -> None:
    """The trace that a client has begun goes on through everything that its turn goes through, in order."""
    async with (
        live_node(redis_url, traces=True) as node,
        live_worker(redis_url, traces=True),
        httpx.AsyncClient(base_url=node.url) as client,
    ):
        sid = (await client.post("/v1/sessions", json=LOREM, headers=HEADERS)).json()["id"]
        await read_all(node.url, sid)
        await _settled(node)
    assert exported.parents() == {
        "POST /v1/sessions": PARENT,
        "queue wait": "POST /v1/sessions",
        "generation": "POST /v1/sessions",
        "provider call": "generation",
        "first token": "provider call",
        "first delivery": "POST /v1/sessions",
    }
    assert {f"{span.context.trace_id:032x}" for span in exported.spans if span.context} == {TRACE}
    about = ("session", "generation", "attempt", "model", "outcome", "code")
    assert _attributes(exported.named("generation"), *about) == [sid, "g1", 1, "demo/lorem", "completed", "stop"]
    assert _attributes(exported.named("POST /v1/sessions"), "session", "generation", "status") == [sid, "g1", "201"]
    assert _attributes(exported.named("first delivery"), "session", "generation", "attempt") == [sid, "g1", 1]
    assert all((span.start_time or 0) <= (span.end_time or 0) for span in exported.spans)
    assert {span.resource.attributes["service.name"] for span in exported.spans} == {"holdfast-api", "holdfast-worker"}


async def test_a_takeover_goes_on_with_the_trace(
    redis_url: str, exported: Exported, log: Log, directory: Any, redis: Any
) -> None:
    """The next attempt, of another worker, is a part of the same trace, though no job has carried it."""
    await directory.expect_live(SID)
    await sessions.create(log)
    await redis.hset(keys.session(SID), tracing.FIELD, HEADERS["traceparent"])
    await sessions.claim(log, worker="gone")
    changes = {"lease_s": 0.6, "heartbeat_s": 0.1, "traces": True}
    async with live_node(redis_url) as node, live_worker(redis_url, **changes):
        await read_all(node.url, SID)
    span = exported.named("generation")
    assert span.context is not None
    assert (f"{span.context.trace_id:032x}", _attributes(span, "attempt")) == (TRACE, [2])


async def test_a_turn_over_a_socket_is_a_trace_of_its_own(redis_url: str, exported: Exported) -> None:
    """Each message over a WebSocket begins one, and what follows is a part of it."""
    async with (
        live_node(redis_url, traces=True) as node,
        live_worker(redis_url, traces=True),
        WS(node.url, "/ws/chat") as socket,
    ):
        await socket._connection.send("hello")
        await socket.until("done")
        await _settled(node)
    parents = exported.parents()
    assert (parents["turn"], parents["generation"], parents["first delivery"]) == ("", "turn", "turn")


async def test_what_fails_is_marked_as_failed(redis_url: str, exported: Exported) -> None:
    """A generation that failed is an error in its trace, with its code."""
    async with (
        live_node(redis_url, traces=True) as node,
        live_worker(redis_url, traces=True),
        httpx.AsyncClient(base_url=node.url) as client,
    ):
        body = {**LOREM, "pipeline": "no-such"}
        sid = (await client.post("/v1/sessions", json=body, headers=HEADERS)).json()["id"]
        await read_all(node.url, sid)
    span = exported.named("generation")
    assert _attributes(span, "outcome") == ["failed"]
    assert not span.status.is_ok


async def test_reads_are_no_spans_and_a_trace_that_is_none_begins_anew(redis_url: str, exported: Exported) -> None:
    """What only reads has no span; a `traceparent` that cannot be read is as if there were none."""
    async with live_node(redis_url, traces=True) as node, httpx.AsyncClient(base_url=node.url) as client:
        sid = (await client.post("/v1/sessions", json=LOREM, headers={"traceparent": "0x\ty"})).json()["id"]
        await client.get(f"/v1/sessions/{sid}", headers=HEADERS)
    assert exported.parents() == {"POST /v1/sessions": ""}


async def test_without_traces_nothing_is_stored(redis_url: str, redis: Any, exported: Exported) -> None:
    """The session has no such field, and nobody makes a span."""
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as client:
        sid = (await client.post("/v1/sessions", json=LOREM, headers=HEADERS)).json()["id"]
    assert not await redis.hexists(keys.session(sid), tracing.FIELD)
    assert exported.spans == []


def test_without_traces_nothing_is_imported() -> None:
    """A node and a worker that are not asked for traces do not import OpenTelemetry."""
    code = "import api.main, worker.main, sys; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_traces_without_the_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants traces is told what to install."""
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"\.\[otel\]"):
        tracing.check(True)
    tracing.check(False)
