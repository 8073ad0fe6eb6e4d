"""Interruption, by any way, from anywhere, at any moment: one end, the provider let go, the next turn knows it all."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from shared.directory import Directory
from shared.events import Event, EventType
from shared.ids import new_token
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import Stage, piped, upto
from tests.support.inprocess import LiveNode, live_node
from tests.support.sessions import FIELDS
from tests.support.sockets import Client, session
from tests.upstream import STALL, Reply, Request, Step, Upstream, reply
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire
from worker.pipelines import Run
from worker.providers.base import Text, ToolCall
from worker.providers.source import Sdk

SESSIONS, AT_ONCE = 100, 10
STOPS, STOPS_AT_ONCE = 500, 50
CHAINS, TURNS = 20, 10
SEED = 23
LET_GO_S = 2.0
Turns = list[tuple[str, str]]
"""Role and text of each message of a conversation."""


class Scripted(Upstream):
    """Answers by what the user said last."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Reply] = {}

    async def _answer(self, connection: Any, writer: Any) -> bool:
        self.plan(self.answers[_turns(self.requests[-1])[-1][1]])
        return await super()._answer(connection, writer)

    def asked(self, text: str) -> list[Request]:
        return [request for request in self.requests if _turns(request)[-1] == ("user", text)]


def _turns(request: Request) -> Turns:
    return [(turn["role"], _plain(turn["content"])) for turn in request.body.get("messages") or request.body["input"]]


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


@pytest.fixture
async def up() -> AsyncIterator[Scripted]:
    async with Scripted() as upstream:
        yield upstream


@pytest.fixture
async def nodes(stage: Stage) -> AsyncIterator[list[LiveNode]]:
    async with (
        live_node(stage.redis_url, models=stage.models) as one,
        live_node(stage.redis_url, models=stage.models) as other,
    ):
        yield [one, other]


# -- what goes on when it is interrupted


async def _asking(run: Run) -> None:
    """Asks in its first turn; later ones are plain."""
    if run.generation != "g1":
        await run.answer()
        return
    await run.text("Let me ask. ")
    await run.text(await run.ask("Which?"))


async def _forever() -> None:
    await asyncio.Event().wait()


async def _calling(run: Run) -> None:
    await run.answer(tools=[_forever])


CALL = ToolCall("t1", "_forever", {})


@dataclass(frozen=True)
class Moment:
    """What the provider says up to then, and what stands in the log by then."""

    steps: Callable[[Wire, random.Random], list[Step | list[bytes]]]
    seen: EventType
    pipeline: str = "chat"
    open: bool = True
    """The provider is still at it."""


def _some_words(wire: Wire, chance: random.Random) -> list[Step | list[bytes]]:
    return [wire.head(*[f"word{n} " for n in range(chance.randint(1, 60))]), STALL]


def _mid_arguments(wire: Wire, _: random.Random) -> list[Step | list[bytes]]:
    call = ToolCall("t1", "weather", {"city": "Kraków", "days": 3})
    begun, _rest = upto(wire.answer([Text("So."), call], "tool_calls"), '"{\\"city')
    return [begun, STALL]


MOMENTS = {
    "queued": Moment(lambda *_: [], EventType.MESSAGE, open=False),
    "before the first word": Moment(lambda wire, _: [wire.head(), STALL], EventType.STARTED),
    "mid text": Moment(_some_words, EventType.TEXT),
    "in a flood of text": Moment(lambda wire, _: [wire.head(*["kelp "] * 800), STALL], EventType.TEXT),
    "mid arguments": Moment(_mid_arguments, EventType.TEXT),
    "in a tool": Moment(
        lambda wire, _: [wire.answer([Text("Looking."), CALL], "tool_calls")],
        EventType.TOOL_CALL, piped(_calling), open=False,
    ),
    "at a question": Moment(lambda *_: [], EventType.QUESTION, piped(_asking), open=False),
    "at the natural end": Moment(lambda *_: [], EventType.TEXT, open=False),
}  # fmt: skip


@dataclass
class Scene:
    """One session, and all that is random about it."""

    number: int
    chance: random.Random
    moment: str
    way: str
    sdk: Sdk
    here: LiveNode
    """Where it is interrupted from."""
    there: LiveNode
    """Where somebody reads along."""
    sid: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets the natural end come."""

    @property
    def first(self) -> str:
        return f"first {self.number}"

    @property
    def second(self) -> str:
        return f"and now {self.number}"


def _scene(number: int, nodes: list[LiveNode]) -> Scene:
    chance = random.Random(SEED * 1000 + number)
    moment, way = chance.choice(list(MOMENTS)), chance.choice(list(WAYS))
    if moment == "at a question" and way == "text in a chat":
        way = "STOP and text in a chat"  # text alone answers it
    return Scene(number, chance, moment, way, chance.choice(list(WIRES)), chance.choice(nodes), chance.choice(nodes))


def _ending(wire: Wire, gate: asyncio.Event) -> Reply:
    """An answer in two words, the second of them when the gate opens."""
    begun, rest = upto(wire.answer([Text("Once "), Text("more")]), "Once")
    return reply(begun, gate, rest)


async def _begin(stage: Stage, up: Scripted, scene: Scene) -> None:
    """Bring the session to its moment."""
    moment, wire = MOMENTS[scene.moment], WIRES[scene.sdk]
    up.answers[scene.first] = reply(*moment.steps(wire, scene.chance))
    if scene.moment == "at the natural end":
        up.answers[scene.first] = _ending(wire, scene.gate)
    up.answers[scene.second] = reply(wire.answer([Text(f"Answer {scene.number}.")]))
    model = f"{scene.sdk}/m"
    if scene.moment == "queued":
        scene.sid = f"queued-{scene.number}"
        said = [{"role": "user", "content": scene.first}]
        await stage.log.create(scene.sid, new_token(), "body", said, {**FIELDS, "model": model})
    else:
        scene.sid = await stage.start(model=model, pipeline=moment.pipeline, input=scene.first)
    await stage.until_event(scene.sid, moment.seen)
    async with asyncio.timeout(LET_GO_S * 5):
        while moment.open and not up.asked(scene.first):
            await asyncio.sleep(0.001)


# -- ways to interrupt


async def _stop_and_message(scene: Scene) -> None:
    async with session(scene.here.url, scene.sid) as speaker:
        await speaker.send(type="stop", ref="s")
        await speaker.send(type="message", ref="m", input=scene.second)
        stopped, opened = await speaker.answer("s"), await speaker.answer("m")
    assert stopped["type"] == "reply", stopped
    assert stopped["data"]["state"] in ("cancelled", "completed")
    _opened(opened)


async def _message(scene: Scene) -> None:
    async with session(scene.here.url, scene.sid) as speaker:
        _opened(await speaker.call("message", input=scene.second, interrupt=True))


def _opened(answer: dict[str, Any]) -> None:
    assert answer["type"] == "reply", answer
    assert answer["data"]["generation"] == "g2"


async def _post(scene: Scene) -> None:
    async with httpx.AsyncClient(base_url=scene.here.url) as client:
        body = {"input": scene.second, "interrupt": True}
        response = await client.post(f"/v1/sessions/{scene.sid}/messages", json=body)
    assert response.status_code == 201, response.text
    assert response.json()["generation"] == "g2"


async def _chat(scene: Scene, *texts: str) -> None:
    async with Client(scene.here.url, f"/ws/chat?session={scene.sid}") as speaker:
        await speaker.event("caught_up")
        for text in texts:
            await speaker.text(text)
        assert (await speaker.event("session"))["generation"] == "g2"


async def _text(scene: Scene) -> None:
    await _chat(scene, scene.second)


async def _stop_and_text(scene: Scene) -> None:
    await _chat(scene, "STOP", scene.second)


WAYS = {
    "stop and message on one socket": _stop_and_message,
    "message that interrupts": _message,
    "message that interrupts, over HTTP": _post,
    "text in a chat": _text,
    "STOP and text in a chat": _stop_and_text,
}


# -- what must come of it


async def test_sessions_interrupted_at_random_moments_from_a_random_node(
    stage: Stage, up: Scripted, nodes: list[LiveNode]
) -> None:
    """A hundred: one end each, the provider let go, the next turn told what was said, readers sent just the log."""
    scenes = [_scene(n, nodes) for n in range(SESSIONS)]
    assert {s.moment for s in scenes} == MOMENTS.keys()
    assert {s.way for s in scenes} == WAYS.keys()
    async with stage.worker():
        for start in range(0, SESSIONS, AT_ONCE):
            await asyncio.gather(*(_played(stage, up, scene) for scene in scenes[start : start + AT_ONCE]))


async def _played(stage: Stage, up: Scripted, scene: Scene) -> None:
    try:
        await _play(stage, up, scene)
    except BaseException as error:
        error.add_note(f"seed {SEED}, session {scene.number}: {scene.way} ({scene.moment}, {scene.sdk})")
        raise


async def _play(stage: Stage, up: Scripted, scene: Scene) -> None:
    await _begin(stage, up, scene)
    async with session(scene.there.url, scene.sid, merge=0) as reader:
        await asyncio.sleep(scene.chance.uniform(0, 0.01))  # a random point after the moment
        asyncio.get_running_loop().call_later(scene.chance.uniform(0, 0.02), scene.gate.set)
        await WAYS[scene.way](scene)
        events = await stage.until(scene.sid, lambda events: len(_ends(events)) > 1 and events[-1].terminal)
        await reader.first(lambda frame: frame.get("id") == str(events[-1].id))
    await _check_log(stage, scene, events)
    await _check_provider(up, scene, events)
    assert [(e["id"], e["type"], e["data"]) for e in reader.events] == [(str(e.id), e.type, e.value) for e in events]


def _ends(events: list[Event]) -> list[Event]:
    return [event for event in events if event.terminal]


def _course(events: list[Event]) -> list[tuple[str, str]]:
    """Where generations begin and end."""
    return [
        ("end" if event.terminal else "message", event.value["generation"])
        for event in events
        if event.terminal or event.type == EventType.MESSAGE
    ]


def _said(events: list[Event], generation: str) -> str:
    """The text that came between this generation's start and its end."""
    end = next(n for n, event in enumerate(events) if event.terminal and event.value["generation"] == generation)
    begin = max((n for n, event in enumerate(events[:end]) if event.type == EventType.STARTED), default=end)
    return "".join(event.value["text"] for event in events[begin:end] if event.type == EventType.TEXT)


async def _check_log(stage: Stage, scene: Scene, events: list[Event]) -> None:
    assert _course(events) == [("message", "g1"), ("end", "g1"), ("message", "g2"), ("end", "g2")]
    cut, whole = _ends(events)
    assert whole.type == EventType.COMPLETED
    assert cut.type == EventType.CANCELLED or scene.moment == "at the natural end"
    async with httpx.AsyncClient(base_url=scene.there.url) as client:
        shown = (await client.get(f"/v1/sessions/{scene.sid}")).json()["messages"]
    _, answer, _, last = ((m["role"], m["content"], m["state"]) for m in shown)
    assert answer == ("assistant", _said(events, "g1"), cut.type.removeprefix("generation."))
    assert last == ("assistant", f"Answer {scene.number}.", "completed")


async def _check_provider(up: Scripted, scene: Scene, events: list[Event]) -> None:
    """Each turn was asked for once; the one cut off was let go; the next was told everything."""
    asked = up.asked(scene.first)
    assert len(asked) == (0 if scene.moment in ("queued", "at a question") else 1)
    if MOMENTS[scene.moment].open:
        async with asyncio.timeout(LET_GO_S):
            await up.closed(asked[0].connection)
    (request,) = up.asked(scene.second)
    cut = _said(events, "g1")
    told = [("user", scene.first), *([("assistant", cut)] if cut else []), ("user", scene.second)]
    assert _turns(request) == told


# -- a worker that was not told


@pytest.mark.parametrize("way", ["stop and message on one socket", "message that interrupts"])
@pytest.mark.parametrize("talks", [False, True], ids=["by its heartbeat", "by its next append"])
async def test_a_worker_that_was_not_told_finds_out(
    stage: Stage, up: Scripted, nodes: list[LiveNode], monkeypatch: pytest.MonkeyPatch, way: str, talks: bool
) -> None:
    """The announcement is lost: the provider is let go all the same, and nothing it said since is in the log."""

    async def lost(*_: object) -> None: ...

    monkeypatch.setattr(Directory, "tell", lost)
    scene = Scene(1, random.Random(SEED), "mid text", way, "openai-chat", nodes[0], nodes[1])
    wire = WIRES[scene.sdk]
    async with stage.worker(heartbeat_s=30.0 if talks else 0.1, lease_s=90.0):
        await _begin(stage, up, scene)
        up.answers[scene.first] = reply(wire.head("Once "), scene.gate, wire.head("more"), STALL)
        scene.sid = await stage.start(model="openai-chat/m", input=scene.first)
        await stage.until_event(scene.sid, EventType.TEXT)
        interrupting = asyncio.create_task(WAYS[way](scene))
        if talks:
            await _stored(stage, scene.sid)
            scene.gate.set()
        await interrupting
        events = await stage.until(scene.sid, lambda events: len(_ends(events)) > 1 and events[-1].terminal)
        async with asyncio.timeout(LET_GO_S):
            await up.closed(up.asked(scene.first)[-1].connection)
    assert _course(events) == [("message", "g1"), ("end", "g1"), ("message", "g2"), ("end", "g2")]
    assert _turns(up.asked(scene.second)[-1])[1] == ("assistant", _said(events, "g1"))
    assert "interrupts" not in way or _said(events, "g1") == "Once "


async def _stored(stage: Stage, sid: str) -> None:
    """Until the wish to stop, or the next turn, stands with the session."""
    async with asyncio.timeout(LET_GO_S * 5):
        while (view := await stage.log.view(sid)) and not view.stop and view.generation == "g1":
            await asyncio.sleep(0.002)


# -- races with the natural end


async def test_a_stop_races_the_natural_end(stage: Stage, up: Scripted, nodes: list[LiveNode]) -> None:
    """Five hundred times, over the sockets of two nodes: exactly one end, and it is the one the reply tells."""
    chance = random.Random(SEED)
    ends: Counter[str] = Counter()
    spread_s = 0.06
    async with stage.worker():
        for n in range(STOPS // STOPS_AT_ONCE):
            came = await _stop_race(stage, up, nodes, chance, list(WIRES)[n % len(WIRES)], spread_s)
            spread_s *= 2 if len(came) == 1 else 1  # this machine needs longer for either
            ends += came
    assert ends.total() == STOPS
    assert ends.keys() == {EventType.CANCELLED, EventType.COMPLETED}, "no race: all ended alike"


async def _stop_race(
    stage: Stage, up: Scripted, nodes: list[LiveNode], chance: random.Random, sdk: Sdk, spread_s: float
) -> Counter[str]:
    """Generations that end all at once, each stopped a little before or after; gives how they ended."""
    gate = asyncio.Event()
    up.answers["race"] = _ending(WIRES[sdk], gate)
    sids = [await stage.start(model=f"{sdk}/m", input="race") for _ in range(STOPS_AT_ONCE)]

    async def stop(sid: str, pause_s: float) -> str:
        async with session(chance.choice(nodes).url, sid) as speaker:
            await speaker.event("text.delta")
            await everybody.wait()
            await asyncio.sleep(pause_s)
            told = await speaker.call("stop")
        (end,) = _ends(await stage.over(sid))
        assert told["data"]["state"] == end.type.removeprefix("generation."), (SEED, told)
        return end.type

    everybody = asyncio.Barrier(STOPS_AT_ONCE + 1)
    stops = [asyncio.create_task(stop(sid, chance.uniform(0, spread_s))) for sid in sids]
    async with asyncio.timeout(30):
        await everybody.wait()
    asyncio.get_running_loop().call_later(spread_s / 4, gate.set)
    return Counter(await asyncio.gather(*stops))


async def test_an_interruption_races_the_natural_end(stage: Stage, up: Scripted, nodes: list[LiveNode]) -> None:
    """Two hundred times: every turn has one end, and it stands before the next one's message."""
    chance = random.Random(SEED)
    ends: Counter[str] = Counter()
    async with stage.worker():
        for events in await asyncio.gather(*(_chain(stage, up, nodes, chance, n) for n in range(CHAINS))):
            turns = [f"g{n + 1}" for n in range(TURNS + 1)]
            assert _course(events) == [(what, turn) for turn in turns for what in ("message", "end")], SEED
            ends.update(end.type for end in _ends(events)[:-1])
    assert ends.total() == CHAINS * TURNS
    assert ends.keys() == {EventType.CANCELLED, EventType.COMPLETED}, "no race: all ended alike"


async def _chain(stage: Stage, up: Scripted, nodes: list[LiveNode], chance: random.Random, number: int) -> list[Event]:
    """A session whose turns are interrupted one after the other, each about as it ends by itself; gives its log."""
    sdk = list(WIRES)[number % len(WIRES)]
    gates = [asyncio.Event() for _ in range(TURNS + 1)]
    for n, gate in enumerate(gates):
        up.answers[f"turn {number}.{n}"] = _ending(WIRES[sdk], gate)
    sid = await stage.start(model=f"{sdk}/m", input=f"turn {number}.0")
    spread_s, before = 0.01, ""
    for n in range(TURNS):
        await stage.until(sid, lambda events: _speaks(events, f"g{n + 1}"))  # noqa: B023 - awaited in this round
        async with session(chance.choice(nodes).url, sid) as speaker:
            asyncio.get_running_loop().call_later(chance.uniform(0, spread_s), gates[n].set)
            await asyncio.sleep(chance.uniform(0, spread_s))
            opened = await speaker.call("message", input=f"turn {number}.{n + 1}", interrupt=True)
            assert opened["data"]["generation"] == f"g{n + 2}"
        ended = _ends(await stage.log.events(sid))[n].type
        spread_s *= 2 if ended == before else 0.75  # stays where both happen, whatever the machine is
        before = ended
    gates[-1].set()
    return await stage.until(sid, lambda events: len(_ends(events)) > TURNS and events[-1].terminal)


def _speaks(events: list[Event], generation: str) -> bool:
    kinds = [event.type for event in events]
    if (EventType.STARTED, generation) not in [(event.type, event.value.get("generation")) for event in events]:
        return False
    return EventType.TEXT in kinds[len(kinds) - kinds[::-1].index(EventType.STARTED) :]


async def test_text_after_stop_asks_though_a_question_is_open(
    stage: Stage, up: Scripted, nodes: list[LiveNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the next turn, and no answer to what was just stopped, also where the stop has not yet been heeded."""

    async def lost(*_: object) -> None: ...

    monkeypatch.setattr(Directory, "tell", lost)
    scene = Scene(1, random.Random(SEED), "at a question", "STOP and text in a chat", "anthropic", nodes[0], nodes[1])
    async with stage.worker(heartbeat_s=30.0, lease_s=90.0):
        await _begin(stage, up, scene)
        await WAYS[scene.way](scene)
        events = await stage.until(scene.sid, lambda events: len(_ends(events)) > 1 and events[-1].terminal)
    assert not [event for event in events if event.type == EventType.ANSWER]
    assert _ends(events)[-1].type == EventType.COMPLETED
