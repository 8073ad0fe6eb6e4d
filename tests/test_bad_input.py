"""What a node answers to requests it cannot serve: one table of cases, over a real node, worker and Redis."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared import keys
from shared.ids import EventId
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sse import SSE, events_path, parse, read_all, text_of
from tests.support.system import System, create, system

SESSIONS = "/v1/sessions"
MAX_CHARS, MAX_BYTES = 1000, 10_000
SETTINGS = {
    "HOLDFAST_MAX_INPUT_CHARS": str(MAX_CHARS),
    "HOLDFAST_MAX_BODY_BYTES": str(MAX_BYTES),
    "HOLDFAST_HEAL_WAIT_S": "0.5",
}
JSON = {"content-type": "application/json"}
HELLO = {"input": "hello"}
USER = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def redis_process() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_system(redis_process: RedisServer) -> AsyncIterator[System]:
    """With three sessions: `done` is over, `gone` has expired, `busy` runs for longer than the tests do."""
    async with system(redis_process.url, environment=SETTINGS) as running:
        for sid in ("done", "gone"):
            await create(running.url, id=sid, options={"tokens": 3})
            await read_all(running.url, sid)
        with redis_process.client() as client:
            client.delete(keys.events("gone"))
        await create(running.url, id="busy", options={"tokens": 100_000, "rate": 5})
        async with SSE(running.url, events_path("busy")) as stream:
            async for frame in stream.frames():
                if frame.type == "text.delta":
                    break
        yield running


@pytest.fixture
def url(running_system: System) -> str:
    return running_system.url


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


async def send(http: httpx.AsyncClient, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
    """`body` is sent as it is where it is bytes, and as JSON otherwise."""
    if isinstance(body, bytes):
        return await http.request(method, path, content=body, headers=JSON | headers)
    return await http.request(method, path, json=body, headers=headers)


def assert_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert response.json() == {"error": {"code": code, "message": error["message"]}}
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["message"]


INVALID = "invalid_request"
BODIES: list[tuple[str, object, int, str]] = [
    ("not JSON", b"{", 400, "invalid_json"),
    ("not UTF-8", b'{"input": "\xff"}', 400, "invalid_json"),
    ("no body", b"", 422, INVALID),
    ("null", b"null", 422, INVALID),
    ("a list", [], 422, INVALID),
    ("a string", "hello", 422, INVALID),
    ("nothing to say", {}, 422, INVALID),
    ("empty input", {"input": ""}, 422, INVALID),
    ("input of a wrong type", {"input": 5}, 422, INVALID),
    ("input with a lone surrogate", rb'{"input": "\ud800"}', 422, INVALID),
    ("both input and messages", HELLO | {"messages": [USER]}, 422, INVALID),
    ("no messages", {"messages": []}, 422, INVALID),
    ("the assistant speaks last", {"messages": [USER, {"role": "assistant", "content": "no"}]}, 422, INVALID),
    ("unknown role", {"messages": [{"role": "tool", "content": "x"}]}, 422, INVALID),
    ("extra field", HELLO | {"inputs": "x"}, 422, INVALID),
    ("extra field of no UTF-8", rb'{"input": "x", "\ud800": 1}', 422, INVALID),
    ("options of a wrong type", HELLO | {"options": [1]}, 422, INVALID),
    ("too many options", HELLO | {"options": {str(n): n for n in range(51)}}, 422, INVALID),
    ("option name with a lone surrogate", rb'{"input": "x", "options": {"\ud800": 1}}', 422, INVALID),
    ("option too deep", b'{"input": "x", "options": {"a": %b%b}}' % (b"[" * 300, b"]" * 300), 422, INVALID),
    ("too deep for JSON", b'{"input": %b%b}' % (b"[" * 4900, b"]" * 4900), 400, "invalid_json"),
    ("a number too long to read", b'{"input": "x", "options": {"seed": %b}}' % (b"9" * 5000), 400, "invalid_json"),
    ("unknown provider", HELLO | {"model": "nobody/x"}, 422, "unknown_model"),
    ("provider without a model", HELLO | {"model": "openai/"}, 422, "unknown_model"),
    ("no provider", HELLO | {"model": "lorem"}, 422, "unknown_model"),
    ("unknown demo model", HELLO | {"model": "demo/ipsum"}, 422, "unknown_model"),
    ("bad pipeline name", HELLO | {"pipeline": "a b"}, 422, INVALID),
    ("unknown on_crash", HELLO | {"on_crash": "explode"}, 422, INVALID),
    ("id with a space", HELLO | {"id": "a b"}, 422, INVALID),
    ("id with a brace", HELLO | {"id": "a}b"}, 422, INVALID),
    ("id with a newline", HELLO | {"id": "ab\n"}, 422, INVALID),
    ("empty id", HELLO | {"id": ""}, 422, INVALID),
    ("id too long", HELLO | {"id": "x" * 65}, 422, INVALID),
    ("id not ASCII", HELLO | {"id": "é"}, 422, INVALID),
    ("id taken", HELLO | {"id": "done"}, 422, "session_exists"),
    ("input too long", {"input": "x" * (MAX_CHARS + 1)}, 400, INVALID),
    ("messages too long together", {"messages": [{"role": "user", "content": "x" * 600}] * 2}, 400, INVALID),
    ("body too large", {"input": "x" * MAX_BYTES}, 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), [pytest.param(*case[1:], id=case[0]) for case in BODIES])
async def test_create_refuses(http: httpx.AsyncClient, body: object, status: int, code: str) -> None:
    """A body that makes no session is answered with the status and code of the table."""
    assert_error(await send(http, "POST", SESSIONS, body), status, code)


NOBODY, DONE, GONE, BUSY = (f"{SESSIONS}/{sid}" for sid in ("nobody", "done", "gone", "busy"))
ANSWER = {"question": "q1", "text": "yes"}
REQUESTS: list[tuple[str, str, str, object, int, str]] = [
    ("show unknown", "GET", NOBODY, None, 404, "session_not_found"),
    ("events of unknown", "GET", f"{NOBODY}/events", None, 404, "session_not_found"),
    ("events of unknown from a cursor", "GET", f"{NOBODY}/events?after=1-1", None, 404, "session_not_found"),
    ("message to unknown", "POST", f"{NOBODY}/messages", HELLO, 404, "session_not_found"),
    ("stop unknown", "POST", f"{NOBODY}/stop", {}, 404, "session_not_found"),
    ("answer to unknown", "POST", f"{NOBODY}/answer", ANSWER, 404, "session_not_found"),
    ("delete unknown", "DELETE", NOBODY, None, 404, "session_not_found"),
    *(
        (f"{method} {end} of a bad id", method, f"{SESSIONS}/a%20b{end}", body, 422, INVALID)
        for method, end, body in [
            ("GET", "", None), ("GET", "/events", None), ("POST", "/messages", HELLO), ("POST", "/stop", {}),
            ("POST", "/answer", ANSWER), ("DELETE", "", None),
        ]
    ),
    ("id with a slash", "GET", f"{SESSIONS}/a%2Fb", None, 404, "not_found"),
    ("events of expired", "GET", f"{GONE}/events", None, 410, "session_expired"),
    ("events of expired from before", "GET", f"{GONE}/events?after=1-1", None, 410, "session_expired"),
    ("events of expired from ahead", "GET", f"{GONE}/events?after=9999999999999999-1", None, 410, "session_expired"),
    ("message to expired", "POST", f"{GONE}/messages", HELLO, 410, "session_expired"),
    ("id of expired", "POST", SESSIONS, HELLO | {"id": "gone"}, 422, "session_exists"),
    ("message while one runs", "POST", f"{BUSY}/messages", HELLO, 422, "generation_running"),
    ("message without input", "POST", f"{DONE}/messages", {}, 422, INVALID),
    ("message too long", "POST", f"{DONE}/messages", {"input": "x" * (MAX_CHARS + 1)}, 400, INVALID),
    ("message to an unknown model", "POST", f"{DONE}/messages", HELLO | {"model": "x"}, 422, "unknown_model"),
    ("stop a generation to come", "POST", f"{DONE}/stop", {"generation": "g2"}, 422, "other_generation"),
    ("stop a generation that is none", "POST", f"{DONE}/stop", {"generation": "first"}, 422, INVALID),
    ("stop and wait too long", "POST", f"{DONE}/stop", {"wait_s": 31}, 422, INVALID),
    ("stop and wait no number", "POST", f"{DONE}/stop", b'{"wait_s": NaN}', 422, INVALID),
    ("stop with no JSON", "POST", f"{DONE}/stop", b"now", 400, "invalid_json"),
    ("answer to no question", "POST", f"{BUSY}/answer", ANSWER, 410, "question_gone"),
    ("answer after the end", "POST", f"{DONE}/answer", ANSWER, 410, "question_gone"),
    ("answer too long", "POST", f"{BUSY}/answer", ANSWER | {"text": "x" * (MAX_CHARS + 1)}, 400, INVALID),
    ("answer without a question", "POST", f"{BUSY}/answer", {"text": "yes"}, 422, INVALID),
    ("follow is no boolean", "GET", f"{DONE}/events?follow=maybe", None, 422, INVALID),
    ("list none", "GET", f"{SESSIONS}?limit=0", None, 422, INVALID),
    ("list an unknown state", "GET", f"{SESSIONS}?state=asleep", None, 422, INVALID),
    ("list from a cursor that is none", "GET", f"{SESSIONS}?cursor=x", None, 400, INVALID),
    ("no such place", "GET", "/v1/nothing", None, 404, "not_found"),
    ("no such file", "GET", "/web/..%2f..%2fmain.py", None, 404, "not_found"),
    *((f"{method} {path}", method, path, None, 405, "method_not_allowed")
      for method in ("PUT", "PATCH", "OPTIONS", "TRACE") for path in (SESSIONS, DONE, f"{DONE}/events", "/livez")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"), [pytest.param(*case[1:], id=case[0]) for case in REQUESTS]
)
async def test_refuses(http: httpx.AsyncClient, method: str, path: str, body: object, status: int, code: str) -> None:
    """A request that cannot be served is answered with the status and code of the table."""
    assert_error(await send(http, method, path, body), status, code)


@pytest.mark.parametrize("path", [SESSIONS, DONE, f"{DONE}/events", "/livez", "/", "/v1/nothing"])
async def test_head_has_no_body(http: httpx.AsyncClient, path: str) -> None:
    """HEAD is answered without a body, and never with a failure of the node."""
    response = await http.head(path)
    assert response.status_code < 500
    assert response.content == b""


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [2 * MAX_BYTES, 500 * MAX_BYTES])
async def test_body_too_large(http: httpx.AsyncClient, size: int, declared: bool) -> None:
    """A body beyond the limit gets 413, with and without a declared length, also while much of it is still unsent."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * (size // 10)

    content = b"x" * size if declared else parts()
    assert_error(await http.post(SESSIONS, content=content, headers=JSON), 413, "body_too_large")


async def test_option_value_with_a_lone_surrogate(http: httpx.AsyncClient) -> None:
    """Text that has no UTF-8 is no reason to fail: refused, or mended as in the log."""
    response = await send(http, "POST", SESSIONS, rb'{"input": "x", "options": {"seed": "\ud800"}}')
    assert response.status_code in (201, 422), response.text


BAD_CURSORS = [
    "-1", "$", "+", ">", "0", "1", "1-", "01-1", "1-01", "1-1-1", "a-b", "null", "undefined", "+1-1", "1--1", "1.0-1",
    "1-*", "1-1,2-2", "1" * 17 + "-1", "1-" + "1" * 17, "9" * 5000 + "-1", "1795337152950", "é", "１-１", "1-1\u2028",
]  # fmt: skip


@pytest.mark.parametrize("place", ["header", "query"])
@pytest.mark.parametrize("cursor", [*BAD_CURSORS, ""], ids=lambda cursor: ascii(cursor[:20]))
async def test_malformed_cursor(http: httpx.AsyncClient, cursor: str, place: str) -> None:
    """A cursor that is no event id is refused: never a replay from the start."""
    given: dict[str, Any] = {"params": {"after": cursor}}
    if place == "header":
        given = {"headers": {"Last-Event-ID": cursor.encode()}}
    assert_error(await http.get(f"{DONE}/events", **given), 400, "invalid_last_event_id")


async def test_header_goes_before_query(http: httpx.AsyncClient) -> None:
    """Where both cursors are given the header's counts, so a malformed one is not made good by the query's."""
    response = await http.get(f"{DONE}/events?after=1-1", headers={"Last-Event-ID": "-1"})
    assert_error(response, 400, "invalid_last_event_id")


FUTURE = "9999999999999999-9999999999999999"
GAPS = [
    ("done", FUTURE, "ahead"),
    ("done", "9999999999999999-0", "ahead"),
    ("done", "1-1", "lost"),
    ("busy", FUTURE, "ahead"),
]


@pytest.mark.parametrize(("sid", "cursor", "reason"), GAPS)
async def test_cursor_of_another_log(url: str, sid: str, cursor: str, reason: str) -> None:
    """A well-formed cursor that is not of this log gets a gap at once: no replay from the start, no waiting."""
    async with SSE(url, events_path(sid), {"Last-Event-ID": cursor}) as stream:
        gap = await anext(stream.frames())
    assert (gap.type, gap.data["reason"], gap.data["requested"]) == ("gap", reason, cursor)


async def test_cursor_ahead_of_a_finished_session(url: str) -> None:
    """After the gap come the terminal and the end, so that a reader with any cursor learns how it ended."""
    _, *rest = await read_all(url, "done", FUTURE)
    assert [frame.type for frame in rest if frame.id] == ["generation.completed"]


async def test_cursor_ahead_of_a_live_writer(url: str, http: httpx.AsyncClient) -> None:
    """A cursor ahead of the log within the living writer's epoch waits for the writer, and then gets a gap."""
    last = EventId.parse((await http.get(BUSY)).json()["last_event_id"])
    ahead = EventId(last.epoch, last.seq + 1_000_000)
    async with SSE(url, events_path("busy"), {"Last-Event-ID": str(ahead)}) as stream:
        chunks = stream.chunks()
        assert await anext(chunks) == b": ka\n"
        async for chunk in chunks:
            if chunk != b": ka\n":
                break
    assert parse(chunk.removesuffix(b"\n\n")).data["reason"] == "ahead"


async def test_expired_session(http: httpx.AsyncClient) -> None:
    """The state of a session outlives its log; who has seen its end is told that there is nothing more."""
    shown = (await http.get(GONE)).json()
    assert (shown["state"], shown["expired"], shown["messages"]) == ("completed", True, [])
    assert (await http.get(f"{GONE}/events?after={shown['last_event_id']}")).status_code == 204


@pytest.mark.parametrize("key", ["", "k" * 256])
@pytest.mark.parametrize("path", [SESSIONS, f"{DONE}/messages"])
async def test_bad_idempotency_key(http: httpx.AsyncClient, path: str, key: str) -> None:
    """An Idempotency-Key that is empty or too long is refused before anything happens."""
    response = await send(http, "POST", path, HELLO, **{"Idempotency-Key": key})
    assert response.status_code in (400, 422)
    assert_error(response, response.status_code, INVALID)
    assert (await http.get(DONE)).json()["generation"] == "g1"


async def test_idempotency_key(url: str, http: httpx.AsyncClient) -> None:
    """A repeated create answers as the first did, also after the end; with another body it is refused."""
    first = await send(http, "POST", SESSIONS, HELLO, **{"Idempotency-Key": "create"})
    await read_all(url, first.json()["id"])
    again = await send(http, "POST", SESSIONS, HELLO, **{"Idempotency-Key": "create"})
    assert again.status_code == 201
    for name in ("id", "generation", "events_url", "last_event_id"):
        assert again.json()[name] == first.json()[name], name
    other = await send(http, "POST", SESSIONS, {"input": "other"}, **{"Idempotency-Key": "create"})
    assert_error(other, 422, "idempotency_key_reused")


async def test_idempotency_key_of_a_message(url: str, http: httpx.AsyncClient) -> None:
    """A repeated message opens no second turn; with another body it is refused."""
    sid = await create(url, options={"tokens": 3})
    await read_all(url, sid)
    path, key = f"{SESSIONS}/{sid}/messages", {"Idempotency-Key": "message"}
    opened = [await send(http, "POST", path, HELLO, **key) for _ in range(2)]
    assert [response.json()["generation"] for response in opened] == ["g2", "g2"]
    assert_error(await send(http, "POST", path, {"input": "other"}, **key), 422, "idempotency_key_reused")


async def test_old_generation_and_delete(url: str, http: httpx.AsyncClient) -> None:
    """An old generation cannot be stopped any more; a deleted session is unknown, also to a second delete."""
    sid = await create(url, options={"tokens": 3})
    await read_all(url, sid)
    path = f"{SESSIONS}/{sid}"
    assert (await send(http, "POST", f"{path}/messages", HELLO)).json()["generation"] == "g2"
    assert_error(await send(http, "POST", f"{path}/stop", {"generation": "g1"}), 422, "other_generation")
    assert (await http.delete(path)).status_code == 204
    for method, where in (("DELETE", path), ("GET", path), ("GET", f"{path}/events")):
        assert_error(await http.request(method, where), 404, "session_not_found")


BAD_OPTIONS: list[dict[str, object]] = [
    {"tokens": -1}, {"tokens": "many"}, {"tokens": True}, {"tokens": 10**9}, {"tokens": 1.5}, {"tokens": [[[]]]},
    {"rate": -1}, {"rate": "fast"}, {"seed": "x"}, {"nothing": 1}, {"\0": 1},
]  # fmt: skip
FAILURES = [({"pipeline": "nobodys"}, "unknown_pipeline"), *(({"options": bad}, INVALID) for bad in BAD_OPTIONS)]


@pytest.mark.parametrize(("body", "code"), FAILURES, ids=repr)
async def test_generation_fails(url: str, http: httpx.AsyncClient, body: dict[str, object], code: str) -> None:
    """What only a worker can judge ends the generation with one clear `generation.failed`."""
    response = await http.post(SESSIONS, content=json.dumps(HELLO | body), headers=JSON)
    assert response.status_code == 201, response.text
    frames = await read_all(url, response.json()["id"])
    assert [frame.type for frame in frames if frame.id] == ["message", "generation.started", "generation.failed"]
    assert (frames[-1].data["code"], frames[-1].data["retryable"]) == (code, False)
    assert frames[-1].data["message"]


async def test_still_serves(url: str, http: httpx.AsyncClient) -> None:
    """After all of the above node and worker serve a session as ever."""
    sid = await create(url, model="demo/echo", input="still here")
    frames = await read_all(url, sid)
    assert text_of(frames) == "still here"
    assert frames[-1].type == "generation.completed"
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.get(BUSY)).json()["state"] == "running"
