"""Stopping: the provider is let go at once, the log ends there, and nothing but a stop ever stops."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.events import EventType
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import (
    Stage,
    Unanswering,
    bad_end,
    cancelled,
    completed,
    counted,
    logged,
    piped,
    started,
    text,
    upto,
)
from tests.support.inprocess import live_node
from tests.support.sse import SSE, events_path
from tests.upstream import STALL, Reply, Step, Upstream, failure, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire
from worker import run as jobs
from worker.pipelines import Run
from worker.providers.base import Text, ToolCall, Usage
from worker.providers.source import Sdk

LET_GO_S = 1.0
STOPS = 50
RACES = 100
CALL = ToolCall("t1", "weather", {"city": "Kraków", "days": 3})


# -- at any moment


@dataclass(frozen=True)
class Moment:
    """A point in an answer: what the provider has said by then, and what the log shows of it."""

    steps: Callable[[Wire], list[Step]]
    seen: EventType = EventType.STARTED


def _mid_arguments(wire: Wire) -> list[Step]:
    begun, _ = upto(wire.answer([Text("So."), CALL], "tool_calls"), '"{\\"city')
    return [*begun, STALL]


MOMENTS = {
    "before the first chunk": Moment(lambda _: [STALL]),
    "before the first word": Moment(lambda wire: [*wire.head(), STALL]),
    "mid text": Moment(lambda wire: [*wire.head("Once ", "upon "), STALL], EventType.TEXT),
    "in a flood of text": Moment(lambda wire: [*wire.head(*["kelp "] * 3000), STALL], EventType.TEXT),
    "mid arguments": Moment(_mid_arguments, EventType.TEXT),
}


async def _let_go(stage: Stage, up: Upstream, sdk: Sdk, moment: Moment, pause_s: float) -> float:
    """Stop a generation at this moment; gives the seconds until the provider saw its socket closed."""
    up.plan(reply(*moment.steps(WIRES[sdk])))
    asked = len(up.requests)
    sid = await stage.start(model=f"{sdk}/m")
    await stage.until_event(sid, moment.seen)
    async with asyncio.timeout(5):
        while len(up.requests) == asked:
            await asyncio.sleep(0)
    await asyncio.sleep(pause_s)  # a random point after the moment: nothing could say when it is reached
    began = time.monotonic()
    await stage.stop(sid)
    async with asyncio.timeout(LET_GO_S):
        await up.closed(up.requests[-1].connection)
    took = time.monotonic() - began
    log = logged(await stage.over(sid))
    assert log[-1] == cancelled()
    assert not {"tool.call", "generation.failed"} & {kind for kind, _ in log}
    return took


async def test_the_provider_is_let_go_within_a_second(stage: Stage, up: Upstream) -> None:
    """Fifty stops at random moments of the three providers' answers: the socket is closed each time."""
    chance = random.Random(7)
    took: list[tuple[float, Sdk, str]] = []
    async with stage.worker():
        for n in range(STOPS):
            sdk = list(WIRES)[n % len(WIRES)]
            name = chance.choice(list(MOMENTS))
            took.append((await _let_go(stage, up, sdk, MOMENTS[name], chance.uniform(0, 0.02)), sdk, name))
    assert len(up.requests) == STOPS, "a stopped request was sent again"
    assert max(took)[0] < LET_GO_S, sorted(took)[-3:]


async def test_a_provider_that_does_not_answer_is_let_go(stage: Stage, sdk: Sdk) -> None:
    """Also while not even a status has come."""
    async with Unanswering() as silent:
        stage.models[sdk]["base_url"] = silent.url
        async with stage.worker():
            sid = await stage.start(model=f"{sdk}/m")
            async with asyncio.timeout(5):
                while not silent.requests:
                    await asyncio.sleep(0.001)
            await stage.stop(sid)
            async with asyncio.timeout(LET_GO_S):
                await silent.closed(0)
            assert logged(await stage.over(sid)) == [started(f"{sdk}/m"), cancelled()]


async def test_a_pause_before_a_retry_is_cut_short(stage: Stage, up: Upstream, sdk: Sdk) -> None:
    """A stop does not wait for the provider's rate limit to pass, and the request is not made again."""
    up.plan(failure(429, {}, retry_after_ms="60000"))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m")
        async with asyncio.timeout(5):
            while not up.requests:
                await asyncio.sleep(0.001)
        await stage.stop(sid)
        async with asyncio.timeout(LET_GO_S):
            assert logged(await stage.over(sid)) == [started(f"{sdk}/m"), cancelled()]
    assert len(up.requests) == 1


# -- what the log says


async def test_nothing_follows_a_stop(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """What was said before is kept, the end is confirmed, and the log stays as it is from then on."""
    gate = asyncio.Event()
    up.plan(reply(wire.head("Once "), gate, wire.answer([Text("more")])))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m")
        await stage.until_event(sid, EventType.TEXT)
        await stage.stop(sid)
        events = await stage.over(sid)
        gate.set()
    assert logged(events)[1:2] == [text("Once ")]
    assert logged(events)[-1] == cancelled()
    after = await stage.log.events(sid)
    assert [event.id for event in after] == [event.id for event in events]
    assert len(up.requests) == 1


async def test_the_last_words_before_a_stop_are_kept(stage: Stage) -> None:
    """Text that still waits for company is said before the end."""
    spoke = asyncio.Event()

    async def speak(run: Run) -> None:
        await run.text("Once ")
        await stage.until_event(run.session_id, EventType.TEXT)
        await run.text("more")
        spoke.set()
        await asyncio.Event().wait()

    async with stage.worker(flush_ms=60_000):
        sid = await stage.start(pipeline=piped(speak))
        await spoke.wait()
        await stage.stop(sid)
        assert logged(await stage.over(sid))[1:] == [text("Once more"), cancelled()]


async def test_a_pipeline_that_clings_says_nothing_after_the_end(stage: Stage, monkeypatch: Any) -> None:
    """One that goes on in spite of a stop is not confirmed, and what it says then is in no log."""
    monkeypatch.setattr(jobs, "CLOSE_S", 0.05)
    over = asyncio.Event()

    async def clings(run: Run) -> None:
        while not over.is_set():
            try:
                await run.status("Still here")
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await run.status("Still here")

    async with stage.worker():
        sid = await stage.start(pipeline=piped(clings))
        await stage.until_event(sid, EventType.STATUS)
        await stage.stop(sid)
        end = await stage.until_event(sid, EventType.CANCELLED)
        over.set()
    assert end.value == {"generation": "g1", "by": "user", "confirmed": False}
    assert (await stage.log.events(sid))[-1].id == end.id


async def test_usage_so_far_is_recorded(stage: Stage, up: Upstream) -> None:
    """What Anthropic counted before the stop was paid for: its input, at the least."""
    wire = WIRES["anthropic"]
    begun, _ = upto(wire.answer([Text("Once ")], usage=Usage(11, 7, cached_tokens=4)), "Once")
    up.plan(reply(begun, STALL))
    async with stage.worker():
        sid = await stage.start(model="anthropic/m")
        await stage.until_event(sid, EventType.TEXT)
        await stage.stop(sid)
        log = logged(await stage.over(sid))
    assert log[1:] == [text("Once "), counted(Usage(11, 1, cached_tokens=4)), cancelled()]


async def test_a_stop_in_a_later_round_keeps_the_usage_of_earlier_ones(stage: Stage, up: Upstream, sdk: Sdk) -> None:
    """Each round's usage is an event of its own, said when it is known."""

    async def nothing() -> None:
        return None

    async def answer(run: Run) -> None:
        await run.answer(tools=[nothing])

    wire, usage = WIRES[sdk], Usage(11, 7, 5, 4)
    up.plan(reply(wire.answer([ToolCall("t1", "nothing", {})], "tool_calls", usage)), reply(STALL))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m", pipeline=piped(answer))
        await stage.until_event(sid, EventType.TOOL_RESULT)
        await stage.stop(sid)
        await stage.over(sid)
    shown = (await stage.answer_of(sid)).usage
    assert shown is not None
    assert (shown.input_tokens, shown.output_tokens, shown.reasoning_tokens, shown.cached_tokens) == (11, 7, 5, 4)


# -- what stops, and what does not


async def test_a_pipeline_that_has_heard_enough(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """The provider is let go, though the loop over its parts was only left."""

    async def first_word(run: Run) -> None:
        async for part in run.model():
            await run.emit(part)
            break

    up.plan(reply(wire.head("Once "), STALL))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m", pipeline=piped(first_word))
        async with asyncio.timeout(LET_GO_S):
            log = logged(await stage.over(sid))
            await up.closed(0)
    assert (log[1], log[-1]) == (text("Once "), completed())


async def test_a_model_that_says_too_much_is_let_go(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """A generation that reached its limit is one failure, and its provider does not talk on."""
    up.plan(reply(wire.head(*["kelp " * 100] * 20), STALL))
    async with stage.worker(max_output_bytes=4000, flush_ms=0):
        sid = await stage.start(model=f"{sdk}/m")
        async with asyncio.timeout(LET_GO_S):
            log = logged(await stage.over(sid))
            await up.closed(0)
    assert log[-1] == bad_end("output_limit", retryable=False)


async def test_a_stop_may_be_repeated(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Twice at once, and again after the end: the same end, and no event more."""
    up.plan(reply(wire.head("Once "), STALL))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m")
        await stage.until_event(sid, EventType.TEXT)
        await asyncio.gather(stage.stop(sid), stage.stop(sid))
        events = await stage.over(sid)
        again = await stage.stop(sid)
    assert (again.outcome, again.state) == ("done", "cancelled")
    assert logged(await stage.log.events(sid)) == logged(events)
    assert logged(events)[-1] == cancelled()


async def test_a_stop_after_the_natural_end_changes_nothing(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """It says how the generation ended, and does not touch the next one."""
    up.plan(reply(wire.answer([Text("hi")])))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m")
        events = await stage.over(sid)
        late = await stage.stop(sid)
        assert (late.outcome, late.state) == ("done", "completed")
        assert [event.id for event in await stage.log.events(sid)] == [event.id for event in events]
        await stage.next_turn(sid)
        await stage.until_event(sid, EventType.COMPLETED, 2)


async def _read_a_word(url: str, sid: str) -> None:
    """A reader that sees the first text, and vanishes."""
    async with SSE(url, events_path(sid)) as reader:
        async for frame in reader.frames():
            if frame.type == "text.delta":
                return


async def test_readers_that_leave_stop_nothing(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """All of a generation's readers vanish in the middle: the provider is heard to its end."""
    gate = asyncio.Event()
    up.plan(_ending(wire, gate))
    async with live_node(stage.redis_url) as node, stage.worker():
        sid = await stage.start(model=f"{sdk}/m")
        for _ in range(3):
            await _read_a_word(node.url, sid)
        assert not up.connections[0].gone.is_set()
        gate.set()
        log = logged(await stage.over(sid))
    assert log[1] == text("Once more")
    assert log[-1] == completed()


# -- races


def _ending(wire: Wire, gate: asyncio.Event) -> Reply:
    """An answer in two words, the second of them when the gate opens."""
    begun, rest = upto(wire.answer([Text("Once "), Text("more")]), "Once")
    return reply(begun, gate, rest)


async def _race(stage: Stage, up: Upstream, sdk: Sdk, pauses_s: list[float]) -> list[str]:
    """Generations that end all at once, each stopped a little before or after; gives how they ended."""
    gate = asyncio.Event()
    up.plan(_ending(WIRES[sdk], gate))
    sids = [await stage.start(model=f"{sdk}/m") for _ in pauses_s]
    for sid in sids:
        await stage.until_event(sid, EventType.TEXT)

    async def stop(sid: str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await stage.stop(sid)

    asyncio.get_running_loop().call_later(0.005, gate.set)
    await asyncio.gather(*map(stop, sids, pauses_s))
    return [await _only_end(stage, sid) for sid in sids]


async def _only_end(stage: Stage, sid: str) -> str:
    events = await stage.over(sid)
    (end,) = [event for event in events if event.terminal]
    view = await stage.log.view(sid)
    assert view is not None
    assert end.type == f"generation.{view.state}"
    return end.type


async def test_a_stop_races_the_natural_end(stage: Stage, up: Upstream) -> None:
    """A hundred times: exactly one end, the state agrees with it, and it stays the only one."""
    chance = random.Random(11)
    ends: list[str] = []
    async with stage.worker():
        for n in range(RACES // 20):
            pauses_s = [chance.uniform(0, 0.015) for _ in range(20)]
            ends += await _race(stage, up, list(WIRES)[n % len(WIRES)], pauses_s)
    assert len(ends) == RACES
    assert set(ends) <= {"generation.cancelled", "generation.completed"}
    assert len(set(ends)) == 2, "no race: all ended alike"
