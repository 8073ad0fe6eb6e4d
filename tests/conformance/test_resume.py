"""Every case of the list, over every transport, on the node that the client has left and on another one."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shared.events import DELTAS
from tests.conformance.cases import CASES, Case, Raw
from tests.conformance.scene import Scene
from tests.conformance.transports import (
    FINAL,
    TRANSPORTS,
    CaughtUp,
    Cut,
    Ended,
    Got,
    KeepAlive,
    Nothing,
    Reader,
    Refused,
    Seen,
    Socket,
    Transport,
    Whole,
)  # fmt: skip
from tests.support.inprocess import LiveNode

WITHIN_S = 20
NODES = {"same node": 0, "other node": 1}

TABLE = [
    pytest.param(case, transport, node, id=f"{case.name} | {transport.name} | {where}")
    for case in CASES
    for transport in TRANSPORTS.values()
    for where, node in NODES.items()
    if transport.name not in case.left_out
]


def test_what_is_left_out_of_the_table_is_there_at_all() -> None:
    """Each case has a name of its own, and what it leaves out is a transport."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert {name for case in CASES for name in case.left_out} <= TRANSPORTS.keys()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "transport", "node"), TABLE)
async def test_resume(case: Case, transport: Transport, node: int, nodes: list[LiveNode], scene: Scene) -> None:
    """What arrives is what the case says; it is what the log has; and nothing was started by coming back."""
    async with asyncio.timeout(WITHIN_S):
        await _first_visit(case, transport, nodes[0].url, scene)
        for step in case.away:
            await step(scene)
        sessions, generations = await scene.sessions(), await scene.generations()
        sid, cursor = case.session or scene.sid, _cursor(case, scene)
        nodes[node].node.hub._kept.clear()  # what it read for the first visit: the case is about the log of now
        async with transport.reader(nodes[node].url, sid, cursor) as reader:
            seen = await _come_back(case, transport, reader, scene)
            assert [_told(item, scene) for item in seen] == _expected(case, transport, scene)
            assert await scene.sessions() == sessions
            assert set(await scene.generations()) <= set(generations)
            await _assert_of_the_log(seen, transport, scene)
            if transport.stays and not isinstance(seen[-1], FINAL):
                await _assert_stays(reader, scene)


async def _first_visit(case: Case, transport: Transport, url: str, scene: Scene) -> None:
    """The client sees how the session begins, and vanishes."""
    await scene.open()
    async with transport.reader(url, scene.sid, "0-0") as reader:
        await reader.until(str(scene.last))
        for step in case.seen:
            before = scene.last
            await step(scene)
            if scene.last != before:
                await reader.until(str(scene.last))
        reader.kill()


def _cursor(case: Case, scene: Scene) -> str | None:
    literal = case.cursor is None or isinstance(case.cursor, Raw | Whole)
    return case.cursor if literal or case.cursor is None else scene.id_of(case.cursor)


async def _come_back(case: Case, transport: Transport, reader: Reader, scene: Scene) -> list[Seen]:
    """All that arrives until the end; on a socket, which has none, until the log's last event and `caught_up`."""
    seen: list[Seen] = []
    to_come = list(case.back)
    while True:
        item = await reader.get()
        if not isinstance(item, KeepAlive):
            seen.append(item)
        if isinstance(item, FINAL):
            return seen
        if isinstance(item, KeepAlive) and len(to_come) == len(case.back):
            await to_come.pop(0)(scene)
        if isinstance(item, CaughtUp):
            while to_come:
                await to_come.pop(0)(scene)
        if transport.stays and not to_come and _is_all(case, seen, scene):
            return seen


def _is_all(case: Case, seen: Sequence[Seen], scene: Scene) -> bool:
    """A socket that is to be closed is read until it is."""
    ids = [item.id if isinstance(item, Got) else item.last for item in seen if isinstance(item, Got | CaughtUp)]
    caught_up = any(isinstance(item, CaughtUp) for item in seen)
    return case.expect[-1] in ("end", "nothing") and caught_up and ids[-1] == str(scene.last)


def _expected(case: Case, transport: Transport, scene: Scene) -> list[str]:
    """In the transport's words: a socket stays, where a stream ends."""
    if not transport.stays or case.expect[-1] not in ("end", "nothing"):
        return list(case.expect)
    said = list(case.expect[:-1])
    if not any(line.startswith("caught_up") for line in said):
        said.append(f"caught_up {scene.place_of(str(scene.last))}")
    return said


def _told(item: Seen, scene: Scene) -> str:
    match item:
        case Got(event_id, "gap", data):
            assert data["latest"] == event_id
            return f"{scene.place_of(event_id)} gap {_gap(data, scene)}"
        case Got(event_id, kind, data):
            return f"{scene.place_of(event_id)} {kind} {_gist(kind, data)}"
        case CaughtUp(last):
            return f"caught_up {scene.place_of(last)}"
        case Refused(status, code):
            return f"refused {status} {code}"
        case Ended():
            return "end"
        case Nothing():
            return "nothing"
        case Cut():
            return "cut"
    raise AssertionError(item)


def _gap(data: dict[str, Any], scene: Scene) -> str:
    places = [scene.place_of(data[name]) for name in ("requested", "earliest")]
    messages = data["transcript"]["messages"]
    said, question = (messages[-1]["content"], messages[-1]["question"]) if messages else ("", None)
    return " ".join([data["reason"], *places, repr(said), *(["asks", question["text"]] if question else [])])


def _gist(kind: str, data: dict[str, Any]) -> str:
    match kind:
        case "message":
            return f"{data['generation']} {data['content']}"
        case "generation.started":
            return f"{data['generation']}/{data['attempt']}"
        case "tool.call":
            return str(data["name"])
    return str(data.get("text", data.get("generation")))


async def _assert_of_the_log(seen: Sequence[Seen], transport: Transport, scene: Scene) -> None:
    """Whole data, not only the gist: as stored; of merged deltas, the texts together."""
    events = {str(event.id): event.value for event in await scene.log.events(scene.sid)}
    for item in seen:
        if isinstance(item, Got) and item.type != "gap" and item.type not in DELTAS:
            stored = events[item.id]
            assert item.data == {name: value for name, value in stored.items() if transport.says_prev or name != "prev"}
        elif isinstance(item, Got) and item.type in DELTAS:
            assert item.data.keys() == {"text"}


async def _assert_stays(reader: Reader, scene: Scene) -> None:
    """Open, and what it sends next is the next turn."""
    assert isinstance(reader, Socket)
    await reader.ping()
    if scene.goes_on:
        await scene.next_turn()
        item = await reader.get()
        assert isinstance(item, Got)
        assert (item.id, item.type, item.data["content"]) == (str(scene.last), "message", "more")
