"""What is measured: counts move by exactly what has happened."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.counts import Lag
from api.feed import Feed
from shared import keys
from shared.events import EventType
from shared.ids import EventId
from shared.log import Log
from shared.metrics import Distribution, histogram
from tests.support import sessions, workers
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.scraped import Scraped, until
from tests.support.sessions import SID, Snapshot
from tests.support.sse import SSE, events_path, read_all
from tests.support.system import create
from tests.support.ws import WS

LOREM = {"model": "demo/lorem", "options": {"tokens": 30, "rate": 60}}
NATIVE = {"transport": "sse", "dialect": "native"}


@contextlib.asynccontextmanager
async def node_and_worker(redis_url: str, **changes: Any) -> AsyncIterator[tuple[LiveNode, str]]:
    """A node, and the URL of a worker's metrics."""
    port = free_port()
    async with live_node(redis_url) as node, live_worker(redis_url, metrics_port=port, **changes):
        yield node, f"http://127.0.0.1:{port}"


async def test_every_event_is_counted_once_per_reader(redis_url: str, log: Log) -> None:
    """Three who watch an answer are given three times the log, and node and worker together have appended it."""
    async with node_and_worker(redis_url) as (node, worker):
        sid = await create(node.url, **LOREM)
        await asyncio.gather(*(read_all(node.url, sid) for _ in range(3)))
        events = len(await log.events(sid))
        of_node = await until(node.url, lambda found: found.total("readers") == 0)
        of_worker = await until(worker, lambda found: found.total("generations_total") == 1)
    assert of_node.total("events_delivered_total") == 3 * events
    assert of_node.value("events_delivered_total", way="live") > 0
    assert of_node.value("events_appended_total") + of_worker.value("events_appended_total") == events
    assert of_node.value("streams_total", **NATIVE) == of_node.value("replay_events_count") == 3
    assert of_node.value("replay_events_sum") == of_node.value("events_delivered_total", way="log")
    assert of_worker.value("generations_total", outcome="completed", code="stop") == 1
    assert of_worker.value("attempts_total") == of_worker.value("queue_wait_seconds_count") == 1
    assert of_worker.value("first_token_seconds_count") == 1
    assert of_worker.value("first_token_seconds_sum") >= of_worker.value("queue_wait_seconds_sum")
    assert 0 < of_worker.value("append_seconds_count") <= of_worker.value("events_appended_total")


async def test_a_merged_replay_counts_the_events_it_is_made_of(redis_url: str, log: Log) -> None:
    """Thirty deltas that come back as one frame are thirty events, whether they were merged or not."""
    async with live_node(redis_url) as node:
        await sessions.finished(log, *(f"w{n} " for n in range(30)))
        merged = await read_all(node.url, SID)
        assert len(merged) < 10
        await read_all(node.url, SID, merge=0)
        found = await until(node.url, lambda found: found.total("readers") == 0)
    assert found.value("events_delivered_total", way="log") == 2 * 33
    assert found.value("replay_events_sum") == 2 * 33
    assert found.value("resumes_total", **NATIVE) == 0


async def test_a_resume_is_counted_with_what_it_had_missed(redis_url: str, log: Log) -> None:
    """Who comes back with a cursor has resumed, and is given only the rest."""
    async with live_node(redis_url) as node:
        held = await sessions.finished(log, "a", "b", "c")
        await read_all(node.url, SID, f"{held.epoch}-3")
        found = await until(node.url, lambda found: found.total("readers") == 0)
    assert found.value("resumes_total", **NATIVE) == 1
    assert found.value("replay_events_sum") == 2


async def test_readers_are_counted_by_transport_and_dialect(redis_url: str, log: Log) -> None:
    """Whoever reads at this moment is there, under the protocol they speak; and is no longer, once they have gone."""
    await sessions.started(log)
    async with live_node(redis_url) as node:
        async with (
            SSE(node.url, events_path(SID)),
            SSE(node.url, events_path(SID)),
            WS(node.url, f"/v1/sessions/{SID}/ws"),
            WS(node.url, f"/ws/chat?session={SID}"),
        ):
            found = await until(node.url, lambda found: found.total("readers") == 4)
            assert found.value("readers", **NATIVE) == 2
            assert found.value("readers", transport="websocket", dialect="packets") == 1
            assert found.value("readers", transport="websocket", dialect="chat") == 1
            assert found.value("open_streams") == 4
            assert found.value("feeds") == 1
        gone = await until(node.url, lambda found: found.total("readers") == 0 and found.value("open_streams") == 0)
        assert gone.total("streams_total") == 4


DIALECTS = [
    ("/v1/chat/completions", "openai_chat", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/responses", "openai_responses", {"input": "hi"}),
    ("/v1/messages", "anthropic", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    ("/api/chat", "vercel", {
        "id": "c1", "trigger": "submit-message",
        "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}],
    }),
]  # fmt: skip


@pytest.mark.parametrize(("path", "dialect", "body"), DIALECTS)
async def test_each_dialect_has_its_name(redis_url: str, path: str, dialect: str, body: dict[str, Any]) -> None:
    """A stream in another server's protocol is counted under that protocol; an answer given whole is one too."""
    async with live_node(redis_url) as node, live_worker(redis_url), httpx.AsyncClient(base_url=node.url) as client:
        await client.post(path, json={"model": "demo/echo", "stream": True, **body}, timeout=20)
        found = await until(node.url, lambda found: found.total("streams_total") == 1)
        assert found.value("streams_total", transport="sse", dialect=dialect) == 1
        if dialect == "openai_chat":
            await client.post(path, json={"model": "demo/echo", **body}, timeout=20)
            again = await Scraped.of(node.url)
            assert again.value("streams_total", transport="http", dialect="whole") == 1


async def test_a_gap_is_counted_by_its_reason(redis_url: str, redis: Any, log: Log) -> None:
    """A reader whose cursor fell out of the log is a gap, `trimmed`."""
    await sessions.finished(log, "a", "b", "c")
    await redis.xtrim(keys.events(SID), maxlen=2, approximate=False)
    async with live_node(redis_url) as node:
        await read_all(node.url, SID)
        found = await Scraped.of(node.url)
    assert found.value("gaps_total", reason="trimmed") == 1
    assert found.total("gaps_total") == 1


async def test_a_feed_that_missed_a_message_counts_its_repair(redis_url: str, redis: Any, log: Log) -> None:
    """What was appended and never published is found in the log: one repair, and the reader has it."""
    held = await sessions.started(log)
    async with live_node(redis_url) as node, SSE(node.url, events_path(SID)) as stream:
        frames = stream.frames()
        while (await anext(frames)).type != "caught_up":
            pass
        before = await Scraped.of(node.url)
        assert before.total("feed_repairs_total") == 0
        await redis.xadd(keys.events(SID), {"type": "text.delta", "data": '{"text":"a"}', "at": 1}, f"{held.epoch}-2")
        await redis.hset(keys.session(SID), "last", f"{held.epoch}-2")
        assert (await anext(frames)).data == {"text": "a"}
        after = await Scraped.of(node.url)
    assert after.value("feed_repairs_total", kind="refilled") == 1
    assert after.value("feed_repairs_total", kind="dropped") == 0
    assert after.value("feed_looks_total") > before.value("feed_looks_total")


async def test_a_takeover_is_counted_by_its_cause(redis_url: str, log: Log, directory: Any) -> None:
    """A generation whose worker is gone is taken over after a crash; one that was handed back, after a handover."""
    await directory.expect_live(SID)
    await sessions.started(log, worker="gone")
    handed = await sessions.started(log, "s2")
    await directory.expect_live("s2")
    await log.release("s2", handed.token)
    changes = {"lease_s": 0.6, "heartbeat_s": 0.1, "requeue_after_s": 0.1}
    async with node_and_worker(redis_url, **changes) as (_, worker):
        found = await until(worker, lambda found: found.total("generations_total") == 2)
    assert found.value("takeovers_total", reason="crash") == 1
    assert found.value("takeovers_total", reason="handover") == 1
    assert found.value("attempts_total") == 2
    assert found.value("queue_wait_seconds_count") == 0, "only of first attempts it is known"
    assert found.value("requeued_total") >= 1


async def test_the_reaper_counts_live_sessions_and_its_verdicts(redis_url: str, log: Log, directory: Any) -> None:
    """Live sessions are there by state, as every worker sees them; one that gets its verdict has failed by it."""
    for sid in ("s1", "s2"):
        await directory.expect_live(sid)
    await sessions.started(log, "s1", worker="gone")
    await sessions.started(log, "s2", worker="alive")
    await directory.refresh_lease("alive", 60_000, "{}")
    changes = {"lease_s": 0.6, "heartbeat_s": 0.1, "max_attempts": 1}
    async with node_and_worker(redis_url, **changes) as (_, worker):
        found = await until(
            worker,
            lambda found: found.total("generations_total") == 1 and found.value("live_sessions", state="running") == 1,
        )
    assert found.value("generations_total", outcome="failed", code="worker_lost") == 1
    assert found.value("live_sessions", state="queued") == found.value("live_sessions", state="waiting") == 0
    assert found.value("attempts_total") == 0


async def test_generations_that_end_in_the_queue_are_counted_by_the_node(redis_url: str, log: Log) -> None:
    """A stop or an interruption of what no worker has taken yet is an end, and the node's."""
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as client:
        sid = await create(node.url)
        await client.post(f"/v1/sessions/{sid}/messages", json={"input": "no, this", "interrupt": True})
        await client.post(f"/v1/sessions/{sid}/stop")
        found = await Scraped.of(node.url)
        assert found.value("events_appended_total") == len(await log.events(sid)) == 4
    assert found.value("generations_total", outcome="cancelled", code="interrupted") == 1
    assert found.value("generations_total", outcome="cancelled", code="user") == 1


async def test_a_healed_append_is_counted_and_its_events_are_not_twice(log: Log, redis: Any) -> None:
    """A writer that says a lost tail again has healed the log; events that are said again are counted once."""
    await sessions.create(log)
    writer, _ = await workers.writer(log)
    writer.event(EventType.STATUS, {"text": "a"})
    await writer._catch_up()
    before = await Snapshot.of(redis)
    writer.event(EventType.STATUS, {"text": "b"})
    await writer._catch_up()
    await before.restore()
    writer.event(EventType.STATUS, {"text": "c"})
    await writer._catch_up()
    counts = writer._counts
    assert counts.healed == {("behind",): 1}
    assert counts.appended == 3
    assert sum(counts.appends.counts) == 4


async def test_a_claim_that_is_made_again_is_counted(log: Log, redis: Any) -> None:
    """A failover that lost the claim is healed by another one."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    writer, _ = await workers.writer(log)
    await before.restore()
    writer.event(EventType.STATUS, {"text": "a"})
    await writer._catch_up()
    assert writer._counts.healed == {("fenced",): 1}


async def test_metrics_are_there_while_redis_is_not() -> None:
    """Without Redis the node says that it is not ready, and counts what it was not answered."""
    with redis_server() as server:
        async with live_node(server.url, redis_timeout_s=0.2) as node:
            assert (await Scraped.of(node.url)).value("ready") == 1
            server.kill()
            found = await until(node.url, lambda found: found.total("redis_errors_total") > 0)
            assert found.value("ready") == 0
            assert {"kind": "ConnectionError"} in found.labels("redis_errors_total")


async def test_requests_are_counted_by_the_template_of_their_route(redis_url: str) -> None:
    """Two sessions are one route, and what nobody has declared is one too: paths cannot fill the memory."""
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as client:
        for path in ("/v1/sessions/a", "/v1/sessions/b", "/x/1", "/x/2"):
            assert (await client.get(path)).status_code == 404
        await client.request("PROPFIND", "/livez")
        await client.post("/v1/sessions", content=b"{" + b" " * (2 << 20) + b"}")
        found = await Scraped.of(node.url)
    status = "404"
    assert found.value("http_requests_total", method="GET", route="/v1/sessions/{sid}", status=status) == 2
    assert found.value("http_requests_total", method="GET", route="unmatched", status=status) == 2
    assert found.value("http_response_seconds_count", method="GET", route="/v1/sessions/{sid}") == 2
    assert sum(labels["method"] == "other" for labels in found.labels("http_requests_total")) == 1
    assert sum(labels["status"] == "413" for labels in found.labels("http_requests_total")) == 1


async def test_a_request_without_an_answer_is_counted_as_aborted(redis_url: str, monkeypatch: Any) -> None:
    """A client that goes before there is a status leaves a request behind that was aborted."""
    asked = asyncio.Event()

    async def slow(*_: Any) -> None:
        asked.set()
        await asyncio.sleep(60)

    async with live_node(redis_url) as node:
        monkeypatch.setattr(node.node.log, "view", slow)
        stream = SSE(node.url, events_path(SID))
        opening = asyncio.create_task(stream.open())
        await asked.wait()
        stream.kill()
        await asyncio.gather(opening, return_exceptions=True)
        await until(
            node.url,
            lambda found: any(labels["status"] == "aborted" for labels in found.labels("http_requests_total")),
        )


@pytest.mark.parametrize(
    ("accept", "kind", "end"),
    [
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF\n"),
        ("text/plain", "text/plain", "\n"),
    ],
)
async def test_the_form_is_the_one_that_is_asked_for(redis_url: str, accept: str, kind: str, end: str) -> None:
    """OpenMetrics for who asks for it, Prometheus' text for all others."""
    async with live_node(redis_url) as node, httpx.AsyncClient() as client:
        answer = await client.get(f"{node.url}/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(kind)
    assert answer.text.endswith(end)
    assert ("# EOF" in answer.text) == (kind != "text/plain")


async def test_metrics_can_be_turned_off(redis_url: str) -> None:
    """Then there are none, and nothing is asked of Redis for them."""
    async with live_node(redis_url, metrics=False) as node, httpx.AsyncClient() as client:
        assert (await client.get(f"{node.url}/metrics")).status_code == 404
        assert not node.node.hub.counts.lag.wanted


async def test_two_nodes_in_one_process_count_apart(redis_url: str, log: Log) -> None:
    """Each has a registry of its own."""
    await sessions.finished(log, "a")
    async with live_node(redis_url) as one, live_node(redis_url) as other:
        await read_all(one.url, SID)
        assert (await Scraped.of(one.url)).total("streams_total") == 1
        assert (await Scraped.of(other.url)).total("streams_total") == 0


async def test_all_names_and_helps(redis_url: str) -> None:
    """Every metric is `holdfast_…` in base units, and says what it is; those of both kinds of process agree."""
    async with node_and_worker(redis_url) as (node, worker):
        sides = [await Scraped.of(node.url), await Scraped.of(worker)]
    helps: dict[str, str] = {}
    for found in sides:
        for family in found.families:
            assert family.name.startswith("holdfast_")
            assert not family.name.endswith(("_ms", "_kb", "_percent"))
            assert family.documentation
            assert helps.setdefault(family.name, family.documentation) == family.documentation
    assert [found.labels("build_info")[0]["role"] for found in sides] == ["api", "worker"]
    assert all(found.value("ready") == 1 for found in sides)
    assert all(found.value("process_resident_memory_bytes") > 0 for found in sides)
    assert all(found.value("event_loop_lag_seconds_count") >= 0 for found in sides)


async def test_a_node_that_drains_says_so(redis_url: str) -> None:
    """It is draining, and no longer ready."""
    async with live_node(redis_url) as node:
        assert (await Scraped.of(node.url)).value("draining") == 0
        node.node.hub.drain()
        found = await Scraped.of(node.url)
    assert (found.value("draining"), found.value("ready")) == (1, 0)


async def test_the_way_of_an_event_is_measured(redis_url: str, log: Log) -> None:
    """An event that was published to a reader who keeps up has a lag, of Redis' clock alone."""
    held = await sessions.started(log)
    async with live_node(redis_url) as node, SSE(node.url, events_path(SID)) as stream:
        frames = stream.frames()
        while (await anext(frames)).type != "caught_up":
            pass
        await sessions.say(log, held, 2, "a")
        assert (await anext(frames)).data == {"text": "a"}
        found = await until(node.url, lambda found: found.value("delivery_lag_seconds_count") > 0)
    assert 0 <= found.value("delivery_lag_seconds_sum") < 10


async def test_the_age_of_an_event_is_by_the_clock_of_redis(redis: Any, log: Log) -> None:
    """How long ago it was appended; nothing for one that the log does not have."""
    held = await sessions.started(log)
    at = (await log.events(SID))[-1].at
    said = await log.said(SID, EventId(held.epoch, 1))
    seconds, micros = await redis.time()
    assert said is not None
    assert 0 <= said.age_ms <= seconds * 1000 + micros // 1000 - at
    assert (said.epoch, said.generation, said.attempt, said.trace) == (held.epoch, "g1", 1, "")
    assert await log.said(SID, EventId(held.epoch, 9)) is None


async def test_only_one_event_a_second_is_asked_after() -> None:
    """Between two samples nobody notes anything, so a feed does no more than look at a flag."""
    feed = Feed(SID, 10, 1 << 20)
    lag: Lag = feed._counts.lag
    wanted = [lag.wanted]
    waiting = asyncio.create_task(lag.next())
    await asyncio.sleep(0)
    wanted.append(lag.wanted)
    lag.note(SID, EventId(1, 1))
    assert [*wanted, lag.wanted] == [False, True, False]
    sid, event_id, _ = await waiting
    assert (sid, event_id) == (SID, EventId(1, 1))


def test_a_distribution_is_cumulated_as_prometheus_has_it() -> None:
    """A value that is a bound is within it; what is larger than all is in the last bucket alone."""
    spread = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        spread.observe(value)
    samples = {
        s.labels.get("le", s.name.rpartition("_")[2]): s.value for s in histogram("x", "of a test", spread).samples
    }
    assert samples == {"1.0": 2, "2.0": 3, "+Inf": 4, "count": 4, "sum": 12.0}
