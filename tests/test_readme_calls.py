"""README.md's table of calls and its frames: each is made as it stands there."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.ids import EventId, new_session_id
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.readme import block, table
from tests.support.ws import WS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

CALLS = table("call", "meaning")
FRAMES = block("json", '"ref"').splitlines()
SLOW = {"tokens": 10_000, "rate": 50}
SHORT = {"tokens": 4}
Web = httpx.AsyncClient


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(module_redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(module_redis_url) as running, live_worker(module_redis_url):
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def web(node: LiveNode) -> AsyncIterator[Web]:
    async with Web(base_url=node.url) as client:
        yield client


async def _create(web: Web, **what: Any) -> str:
    """Gives the session's id."""
    made = await web.post("/v1/sessions", json={"input": "Lisbon", **what})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def _stream(web: Web, path: str, until: str, **request: Any) -> list[str]:
    """Lines of the stream up to the first that has `until`."""
    got: list[str] = []
    async with web.stream(request.pop("method", "GET"), path, **request) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            got.append(line)
            if until in line:
                return got
    raise AssertionError((until, got))


def _ids(lines: list[str]) -> list[str]:
    return [line[4:] for line in lines if line.startswith("id: ")]


async def _asks(web: Web) -> tuple[str, str]:
    """A session that waits for its user; gives its id and the question's."""
    sid = await _create(web, pipeline="trip")
    said = await _stream(web, f"/v1/sessions/{sid}/events", until='"choices"')
    return sid, str(json.loads(said[-1].removeprefix("data: "))["id"])


async def _begins(web: Web, path: str) -> None:
    body = {"id": new_session_id(), "model": "demo/echo", "input": "Hi", "pipeline": "chat", "on_crash": "fail"}
    for _ in range(2):
        made = await web.post(path, json={**body, "options": SHORT}, headers={"Idempotency-Key": body["id"]})
        assert (made.status_code, made.json()["id"]) == (201, body["id"])
    assert (await web.post(path, json={"messages": [{"role": "user", "content": "Hi"}]})).status_code == 201


async def _goes_on(web: Web, path: str) -> None:
    sid = await _create(web, options=SLOW)
    path = path.replace("{id}", sid)
    assert (await web.post(path, json={"input": "More"})).status_code == 422
    assert (await web.post(path, json={"input": "More", "interrupt": True})).json()["generation"] == "g2"


async def _streams(web: Web, path: str) -> None:
    sid = await _create(web, options=SHORT)
    path = path.replace("{id}", sid)
    whole = _ids(await _stream(web, f"{path}?merge=0", until="generation.completed"))
    seqs = [EventId.parse(told).seq for told in whole[1:]]
    assert seqs == list(range(1, len(seqs) + 1))
    cursor = whole[2]
    by_header = await _stream(web, path, until="generation.completed", headers={"Last-Event-ID": cursor})
    by_query = await _stream(web, f"{path}?after={cursor}", until="generation.completed")
    assert _ids(by_header) == _ids(by_query)
    assert _ids(by_header)[-1] > cursor
    assert cursor not in _ids(by_header)
    async with web.stream("GET", f"{path}?follow=1") as answer:
        lines = answer.aiter_lines()
        assert [line async for line in _until(lines, "caught_up")]
        await web.post(f"/v1/sessions/{sid}/messages", json={"input": "And coral?"})
        assert "And coral?" in [line async for line in _until(lines, "And coral?")][-1]


async def _until(lines: AsyncIterator[str], last: str) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if last in line:
            return


async def _tells(web: Web, path: str) -> None:
    found = (await web.get(path.replace("{id}", await _create(web)))).json()
    assert found["state"]
    assert found["messages"][0]["content"] == "Lisbon"


async def _stops(web: Web, path: str) -> None:
    sid = await _create(web, options=SLOW)
    await _stream(web, f"/v1/sessions/{sid}/events", until="text.delta")
    assert (await web.post(path.replace("{id}", sid))).json()["state"] == "cancelled"
    assert (await web.get(f"/v1/sessions/{sid}")).json()["messages"][-1]["content"]


async def _answers(web: Web, path: str) -> None:
    sid, question = await _asks(web)
    path = path.replace("{id}", sid)
    for text, status in (("A week", 202), ("A weekend", 410)):
        assert (await web.post(path, json={"question": question, "text": text})).status_code == status


async def _lists(web: Web, path: str) -> None:
    sid = await _create(web)
    assert sid in [session["id"] for session in (await web.get(path)).json()["sessions"]]


async def _forgets(web: Web, path: str) -> None:
    sid = await _create(web, options=SLOW)
    assert (await web.delete(path.replace("{id}", sid))).status_code == 204
    assert (await web.get(f"/v1/sessions/{sid}")).status_code == 404


async def _follows_by_socket(web: Web, path: str) -> None:
    sid = await _create(web, options=SHORT)
    async with WS(str(web.base_url), path.replace("{id}", sid) + "0-0") as ws:
        assert (await ws.until("generation.completed"))[0]["type"] == "message"


async def _streams_at_once(web: Web, path: str) -> None:
    said = await _stream(web, f"{path}Hello", until="text.delta")
    sid, _, event_id = _ids(said)[-1].partition("/")
    assert EventId.parse(event_id)
    back = await _stream(web, f"{path}Hello", until="id: ", headers={"Last-Event-ID": _ids(said)[0]})
    assert back[-1].startswith(f"id: {sid}/")


async def _streams_a_post(web: Web, path: str) -> None:
    await _stream(web, path, until="generation.completed", method="POST", json={"message": "Hi", "options": SHORT})


async def _chats(web: Web, path: str) -> None:
    async with WS(str(web.base_url), path) as ws:
        await ws.text("Hello")
        assert (await ws.get())["type"] == "session"
        await ws.until("chunk")
        await ws.text("STOP")
        await ws.until("stopped")


MADE: dict[str, Callable[[Web, str], Awaitable[None]]] = {
    "POST /v1/sessions": _begins,
    "POST /v1/sessions/{id}/messages": _goes_on,
    "GET /v1/sessions/{id}/events": _streams,
    "GET /v1/sessions/{id}": _tells,
    "POST /v1/sessions/{id}/stop": _stops,
    "POST /v1/sessions/{id}/answer": _answers,
    "GET /v1/sessions": _lists,
    "DELETE /v1/sessions/{id}": _forgets,
    "WS /v1/sessions/{id}/ws?after=": _follows_by_socket,
    "GET /api/chat/stream?message=": _streams_at_once,
    "POST /api/chat/stream": _streams_a_post,
    "WS /ws/chat": _chats,
}


@pytest.mark.parametrize("call", [call for row in CALLS for call in row.code])
async def test_each_call_does_what_the_table_says(web: Web, call: str) -> None:
    """At the path that the table has."""
    await MADE[call](web, call.partition(" ")[2])


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: json.loads(frame)["type"])
async def test_each_frame_is_answered(web: Web, frame: str) -> None:
    """As it stands there, but for the name of the question; with what the text below it says."""
    kind = json.loads(frame)["type"]
    sid, question = await _asks(web) if kind == "answer" else (await _create(web, options=SLOW), "")
    async with WS(str(web.base_url), f"/v1/sessions/{sid}/ws") as ws:
        await ws.until("caught_up")
        await ws.text(frame.replace('"q1"', f'"{question}"'))
        answer = await ws.get()
        while "ref" not in answer:
            answer = await ws.get()
    assert answer["ref"] == json.loads(frame)["ref"]
    assert set(answer) == ({"type", "ref"} if kind == "ping" else {"type", "ref", "data"})
    assert answer["type"] == ("pong" if kind == "ping" else "reply")
