"""A worker over a real Redis: pick-up, stop, batching, hand-over, and generations that end badly."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from api.commands import Commands
from api.node import ANONYMOUS, Node, open_node
from api.schemas import CreateSession, NextMessage
from shared import keys
from shared.events import DELTAS, Event
from shared.log import Log
from shared.views import SessionView
from tests.support.inprocess import live_worker, settings
from worker.pipelines import Run, pipeline
from worker.providers.demo import lorem

END_S = 20


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[Node]:
    async with open_node(settings(redis_url)) as opened:
        yield opened


@pytest.fixture
def run(node: Node) -> Callable[..., Awaitable[str]]:
    """Start a session; gives its id."""

    async def start(**body: Any) -> str:
        sid, _ = await Commands(node, ANONYMOUS).create(CreateSession(input="hi", **body), None)
        return sid

    return start


async def when(log: Log, sid: str, true: Callable[[SessionView], bool]) -> SessionView:
    async with asyncio.timeout(END_S):
        while not ((view := await log.view(sid)) and true(view)):
            await asyncio.sleep(0.005)
        return view


async def over(log: Log, sid: str) -> list[Event]:
    """The log of a session whose generation has ended."""
    await when(log, sid, lambda view: not view.live)
    return await log.events(sid)


def text(events: list[Event]) -> str:
    return "".join(event.value["text"] for event in events if event.type == "text.delta")


async def test_a_generation_goes_from_queue_to_end(redis_url: str, log: Log, run: Any) -> None:
    """Message, start, text, usage, end: in this order, each once; the index and the queue are left clean."""
    async with live_worker(redis_url):
        sid = await run(options={"tokens": 40, "seed": 3})
        events = await over(log, sid)
    kinds = [event.type for event in events if event.type not in DELTAS]
    assert kinds == ["message", "generation.started", "usage", "generation.completed"]
    assert text(events) == "".join(lorem(40, 3))


async def test_a_waiting_worker_is_woken(redis_url: str, log: Log, run: Any) -> None:
    """Pick-up does not wait for arq's polling interval of half a second: ten in a row take less than one of it."""
    async with live_worker(redis_url):
        await over(log, await run(options={"tokens": 1}))
        delays = []
        for _ in range(10):
            message, started, *_ = await over(log, await run(options={"tokens": 1}))
            delays.append(started.at - message.at)
    assert sorted(delays)[5] < 100, delays


async def test_one_worker_holds_many_generations(redis_url: str, log: Log, run: Any) -> None:
    """Far more than arq's ten: all of them are running at the same time."""
    async with live_worker(redis_url):
        sids = [await run(options={"tokens": 2000, "rate": 100}) for _ in range(50)]
        for sid in sids:
            await when(log, sid, lambda view: view.state == "running")
        views = await log.views(sids)
        assert {view.state for view in views if view} == {"running"}


async def test_jobs_are_not_pickled(redis_url: str, redis: Any, run: Any) -> None:
    """What lies in the queue is JSON: reading it cannot run anything."""
    sid = await run()
    (job,) = await redis.keys("arq:job:*")
    assert sid.encode() in job
    assert (await redis.get(job)).startswith(b"{")


async def test_deltas_are_batched_and_the_first_is_not(redis_url: str, log: Log, run: Any) -> None:
    """The first delta is an event by itself; later ones share events, in far fewer entries than tokens."""
    async with live_worker(redis_url):
        events = await over(log, await run(options={"tokens": 300, "rate": 1000, "seed": 1}))
    deltas = [event for event in events if event.type == "text.delta"]
    assert deltas[0].value["text"] == lorem(300, 1)[0]
    assert len(deltas) < 60


async def test_stop_is_confirmed_and_keeps_what_was_said(redis_url: str, node: Node, log: Log, run: Any) -> None:
    """`generation.cancelled` comes at once, says by whom, and that the provider is closed."""
    async with live_worker(redis_url):
        sid = await run(options={"tokens": 5000, "rate": 50, "seed": 2})
        await when(log, sid, lambda view: view.last.seq > 5)
        await Commands(node, ANONYMOUS).stop(sid, "g1")
        events = await over(log, sid)
    assert events[-1].type == "generation.cancelled"
    assert events[-1].value == {"generation": "g1", "by": "user", "confirmed": True}
    assert "".join(lorem(5000, 2)).startswith(text(events))
    assert text(events)


async def test_a_stop_whose_announcement_is_lost_lands_with_the_next_append(redis_url: str, log: Log, run: Any) -> None:
    """It is stored with the session first: the writer reads it in the answer to its own append."""
    async with live_worker(redis_url):
        sid = await run(options={"tokens": 5000, "rate": 50})
        await when(log, sid, lambda view: view.last.seq > 3)
        await log.stop(sid, "user", "g1")  # and nobody is told
        assert (await over(log, sid))[-1].type == "generation.cancelled"


async def test_a_lost_stop_reaches_a_silent_generation_with_the_heartbeat(redis_url: str, log: Log, run: Any) -> None:
    """One that appends nothing for a long time is stopped too."""

    @pipeline("silent")
    async def silent(run: Run) -> None:
        await run.status("Thinking")
        await asyncio.sleep(3600)

    async with live_worker(redis_url, heartbeat_s=0.05):
        sid = await run(pipeline="silent")
        await when(log, sid, lambda view: view.last.seq == 2)
        await log.stop(sid, "user", "g1")
        assert (await over(log, sid))[-1].type == "generation.cancelled"


async def test_stopping_a_queued_generation_needs_no_worker(log: Log, run: Any) -> None:
    """It is cancelled on the spot, and a worker that comes later does not run it."""
    sid = await run()
    assert (await log.stop(sid, "user", "g1")).outcome == "cancelled"
    assert await log.claim(sid, "t", "g1", "w") is None
    assert (await log.events(sid))[-1].type == "generation.cancelled"


async def test_on_shutdown_a_generation_goes_to_another_worker(redis_url: str, log: Log, run: Any) -> None:
    """Handed over at once, as the next attempt, which costs no crash; the text is complete."""
    async with live_worker(redis_url):
        sid = await run(options={"tokens": 200, "rate": 100, "seed": 4})
        await when(log, sid, lambda view: view.last.seq > 5)
    view = await log.view(sid)
    assert view is not None
    assert (view.state, view.crashes, view.worker) == ("queued", 0, "")
    async with live_worker(redis_url):
        events = await over(log, sid)
    starts = [n for n, event in enumerate(events) if event.type == "generation.started"]
    assert [events[n].value["attempt"] for n in starts] == [1, 2]
    assert text(events[starts[1] :]) == "".join(lorem(200, 4))
    assert events[-1].type == "generation.completed"


async def test_within_its_grace_time_a_worker_finishes(redis_url: str, log: Log, run: Any) -> None:
    """A generation that ends soon is not handed over."""
    async with live_worker(redis_url, worker_grace_s=10):
        sid = await run(options={"tokens": 50, "rate": 100})
        await when(log, sid, lambda view: view.last.seq > 2)
    view = await log.view(sid)
    assert view is not None
    assert (view.state, view.attempt) == ("completed", 1)


async def test_a_worker_that_left_is_gone_at_once(redis_url: str, redis: Any) -> None:
    """Its lease ends with it, so that nobody waits for it to run out."""
    async with live_worker(redis_url):
        async with asyncio.timeout(END_S):
            while not await redis.keys(keys.WORKERS):
                await asyncio.sleep(0.005)
    assert await redis.keys(keys.WORKERS) == []


class Boom(Exception):
    pass


@pipeline("boom")
async def boom(run: Run) -> None:
    await run.text("before")
    raise Boom("secret detail")


@pipeline("cancels-itself")
async def cancels_itself(run: Run) -> None:
    await run.text("before")
    raise asyncio.CancelledError


@pipeline("endless")
async def endless(run: Run) -> None:
    while True:
        await run.text("x" * 1000)
        await asyncio.sleep(0)


@pipeline("slow")
async def slow(run: Run) -> None:
    await run.text("before")
    await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("body", "changes", "code"),
    [
        ({"pipeline": "boom"}, {}, "internal"),
        ({"pipeline": "cancels-itself"}, {}, "internal"),
        ({"pipeline": "endless"}, {"max_output_bytes": 100_000}, "output_limit"),
        ({"pipeline": "slow"}, {"generation_timeout_s": 0.2}, "timeout"),
        ({"pipeline": "nobody-knows-it"}, {}, "unknown_pipeline"),
        ({"options": {"tokens": "many"}}, {}, "invalid_request"),
        ({"model": "openai/gpt-4o"}, {}, "authentication"),
    ],
)
async def test_every_bad_end_is_one_clear_event(
    redis_url: str, log: Log, run: Any, monkeypatch: pytest.MonkeyPatch, body: Any, changes: Any, code: str
) -> None:
    """Whatever happens in a pipeline becomes one `generation.failed` with its code; what was said before is kept."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with live_worker(redis_url, **changes):
        events = await over(log, await run(**body))
    assert [event.type for event in events].count("generation.failed") == 1
    assert events[-1].value["code"] == code
    assert "secret" not in events[-1].value["message"]
    if body.get("pipeline") in ("boom", "cancels-itself", "slow"):
        assert text(events) == "before"


async def test_the_provider_is_not_slowed_by_redis(redis_url: str, log: Log, run: Any, redis: Any) -> None:
    """While Redis is away the pipeline goes on; what it says waits, and arrives whole."""
    done = asyncio.Event()

    @pipeline("brisk")
    async def brisk(run: Run) -> None:
        await redis.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        began = time.monotonic()
        for n in range(200):
            await run.text(f"<{n}>")
            await asyncio.sleep(0.001)
        assert time.monotonic() - began < 1.4, "the loop waited for Redis"
        done.set()

    async with live_worker(redis_url):
        sid = await run(pipeline="brisk")
        await asyncio.wait_for(done.wait(), END_S)
        events = await over(log, sid)
    assert events[-1].type == "generation.completed"
    assert text(events) == "".join(f"<{n}>" for n in range(200))


async def test_the_second_turn_knows_the_first(redis_url: str, node: Node, log: Log) -> None:
    """A pipeline's messages are the whole conversation, in the model's form."""
    heard: list[list[dict[str, Any]]] = []

    @pipeline("listens")
    async def listens(run: Run) -> None:
        heard.append(run.messages)
        await run.text(f"answer {len(heard)}")

    commands = Commands(node, ANONYMOUS)
    async with live_worker(redis_url):
        sid, _ = await commands.create(CreateSession(input="one", pipeline="listens"), None)
        await over(log, sid)
        await commands.message(sid, NextMessage(input="two"), None)
        await over(log, sid)
    assert heard[1] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": "two"},
    ]
