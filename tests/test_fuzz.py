"""Anything at all, over HTTP and WebSocket: always an answer, never a failure of the node's own.

`HOLDFAST_TEST_FUZZ=10000` sends as many inputs; without it there are some hundreds.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from api.auth.stream_tokens import StreamTokens
from tests.support.credentials import ALICE, SECRET, bearer, environment_of_keys
from tests.support.loud import Loud
from tests.support.ports import free_port
from tests.support.raw_http import CLOSE, RawHttp, RawSocket
from tests.support.redis_server import redis_server
from tests.support.sse import SSE
from tests.support.system import Process

INPUTS = int(os.environ.get("HOLDFAST_TEST_FUZZ", "500"))
ANSWER_S = 10.0
OPEN_LIMITS = {"HOLDFAST_TURNS_PER_MINUTE": "0", "HOLDFAST_LIVE_SESSIONS": "0", "HOLDFAST_OPEN_STREAMS": "0"}


def fuzz(share: float) -> settings:
    return settings(
        max_examples=max(20, int(INPUTS * share)),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # what hangs would hang again and again while it is made smaller
        suppress_health_check=list(HealthCheck),
    )


# -- what is sent

TOKEN = StreamTokens((SECRET,), 86_400).issue("alice", "done")
TEXT = st.text(max_size=40)
KNOWN = st.sampled_from(["done", "asks", "nobodys"])
IDS = st.one_of(KNOWN, KNOWN, st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"), TEXT)
NUMBERS = st.one_of(st.integers(-2, 2**64), st.sampled_from([10**15, 10**16 - 1, 10**16, 2**53]))
EVENT_IDS = st.one_of(
    st.builds("{}-{}".format, NUMBERS, NUMBERS),
    st.sampled_from(
        ["0-0", "-", "+", "$", "*", "-1", "1", "1-", "-1-1", "01-1", "1-01", "1-1-1", "(1-1", "١-١", " 1-1"]
    ),
    TEXT,
)
CURSORS = st.one_of(EVENT_IDS, st.builds("{}/{}".format, IDS, EVENT_IDS))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), TEXT, EVENT_IDS, IDS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": IDS, "model": st.sampled_from(["demo/echo", "demo/", "/", "openai", "demo/echo\0"]) | TEXT, "input": TEXT,
    "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": TEXT})),
    "pipeline": st.sampled_from(["chat", "trip", "."]) | TEXT, "options": st.dictionaries(TEXT, VALUES, max_size=3),
    "on_crash": st.sampled_from(["restart", "fail", "x"]), "interrupt": st.booleans(), "message": TEXT, "session": IDS,
    "generation": st.sampled_from(["g0", "g1", "g2", "g999999999"]) | TEXT, "question": TEXT, "text": TEXT,
    "wait_s": st.sampled_from([0, 0.01, -1, 31, "x", None, 1e308]), "stray": VALUES,
}  # fmt: skip
"""Of all bodies. `wait_s` is short, or wrong: a request may last as long as it asks for."""


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """Looks like a body: known names, mostly with values of their kind."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=4, unique=True))
    return {name: draw(FIELDS[name] if draw(st.integers(0, 3)) else _short(name)) for name in names}


def _short(name: str) -> st.SearchStrategy[Any]:
    return VALUES if name != "wait_s" else st.sampled_from([[], {}, "1e9", True])


ASKED = [{"role": "user", "id": "u1", "parts": [{"type": "text", "text": "x"}]}]
BASES: list[dict[str, Any]] = [
    {"input": "x", "model": "demo/echo"}, {"input": "x"}, {"message": "x", "model": "demo/echo"}, {"wait_s": 0},
    {"question": "q", "text": "x"}, {}, {"id": "done", "messages": ASKED, "model": "demo/echo"},
]  # fmt: skip
"""What some call takes, so that not everything fails at the first field."""


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    body = draw(st.sampled_from(BASES)) | draw(objects())
    return body if draw(st.booleans()) else {name: value for name, value in body.items() if name != "stray"}


DEEP = [b"[" * 20_000, b'{"options":' * 500 + b"1" + b"}" * 500, b'{"input":"' + b"x" * 20_000 + b'"}']
BODIES = st.one_of(
    bodies().map(lambda body: json.dumps(body).encode(errors="replace")),
    VALUES.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=60),
    st.sampled_from(DEEP),
)
PATHS = [
    "/v1/sessions", "/v1/sessions/{}", "/v1/sessions/{}/events", "/v1/sessions/{}/messages", "/v1/sessions/{}/stop",
    "/v1/sessions/{}/answer", "/v1/sessions/{}/token", "/v1/sessions/{}/ws", "/api/chat/stream", "/ws/chat", "/web/{}",
    "/api/chat", "/api/chat/{}/stream", "/api/chat/{}/stop", "/api/chat/ws", "/{}", "/docs", "/openapi.json", "/livez",
    "/readyz", "/admin", "/admin/api/overview", "/admin/api/workers", "/admin/api/{}",
]  # fmt: skip
OPERATIONS = [
    ("POST", "/v1/sessions"), ("GET", "/v1/sessions"), ("GET", "/v1/sessions/{}"), ("DELETE", "/v1/sessions/{}"),
    ("GET", "/v1/sessions/{}/events"), ("POST", "/v1/sessions/{}/messages"), ("POST", "/v1/sessions/{}/stop"),
    ("POST", "/v1/sessions/{}/answer"), ("POST", "/v1/sessions/{}/token"), ("GET", "/api/chat/stream"),
    ("POST", "/api/chat/stream"), ("POST", "/api/chat"), ("GET", "/api/chat/{}/stream"), ("POST", "/api/chat/{}/stop"),
    ("GET", "/admin/api/sessions"), ("GET", "/admin/api/sessions/{}"), ("GET", "/admin/api/sessions/{}/events"),
    ("POST", "/admin/api/sessions/{}/stop"),
]  # fmt: skip
METHODS = ["GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH", "TRACE", "X"]
QUERIES = [
    "after", "follow", "merge", "state", "limit", "cursor", "message", "session", "model", "pipeline", "key", "token",
    "x",
]  # fmt: skip
HEADERS = [
    "Last-Event-ID", "Idempotency-Key", "Content-Type", "Authorization", "x-api-key", "Origin", "Sec-Fetch-Site",
    "Accept", "Accept-Encoding", "Cookie", "Range", "If-None-Match", "X-Forwarded-For", "Host", "Expect",
    "Upgrade", "Connection",
]  # fmt: skip
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
HEADER_VALUES = st.one_of(
    CURSORS,
    PLAIN,
    st.sampled_from(["application/json", "text/plain", f"Bearer {ALICE}", "Bearer", TOKEN, "null", "*/*"]),
)
QUERY_VALUES = st.one_of(CURSORS, SCALARS.map(str), st.just(TOKEN))


def quoted(text: str) -> bytes:
    return quote_from_bytes(text.encode(errors="surrogatepass")).encode()


@st.composite
def targets(draw: st.DrawFn, paths: list[str]) -> bytes:
    target = draw(st.sampled_from(paths)).encode().replace(b"{}", quoted(draw(IDS)))
    pairs = draw(st.lists(st.tuples(st.sampled_from(QUERIES), QUERY_VALUES), max_size=3))
    query = b"&".join(name.encode() + b"=" + quoted(value) for name, value in pairs)
    return bytes(target + b"?" + query if query else target)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    method, path = draw(st.sampled_from(OPERATIONS))
    if not draw(st.integers(0, 7)):
        method, path = draw(st.sampled_from(METHODS)), draw(st.sampled_from(PATHS))
    lines = [b"%b %b HTTP/1.1" % (method.encode(), draw(targets([path]))), b"host: localhost"]
    if draw(st.integers(0, 7)):
        lines.append(b"authorization: Bearer " + ALICE.encode())
    if draw(st.integers(0, 3)):
        lines.append(b"content-type: application/json")
    for name, value in draw(st.lists(st.tuples(st.sampled_from(HEADERS), HEADER_VALUES), max_size=3)):
        lines.append(name.encode() + b": " + re.sub(rb"[\r\n\0]", b"", value.encode("latin-1", "replace")))
    return b"\r\n".join(lines)


FRAME_TYPES = st.sampled_from(["message", "stop", "answer", "ping", "send", "resume", "abort", "x", ""])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Looks like a command: the fields of a body, and those of a frame."""
    frame = draw(objects())
    frame["type"] = draw(FRAME_TYPES | VALUES)
    if draw(st.booleans()):
        frame |= {"ref": draw(SCALARS), "key": draw(SCALARS)}
    if draw(st.booleans()):
        trigger = draw(st.sampled_from(["submit-message", "regenerate-message"]) | TEXT)
        frame |= {"requestId": draw(TEXT | SCALARS), "body": draw(bodies() | VALUES), "messages": ASKED}
        frame["trigger"] = trigger
    return json.dumps(frame).encode()


FRAMES = st.one_of(frames(), BODIES, TEXT.map(lambda text: text.encode(errors="surrogatepass")))
WIRE = st.one_of(st.binary(max_size=40), st.tuples(st.integers(0, 255), st.binary(max_size=130)))
"""Bytes that need not be frames at all; or an opcode with whatever bits, and a payload."""


# -- to whom


class Target:
    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log
        self.http = RawHttp(port, ANSWER_S)

    def failures(self) -> list[str]:
        """Lines of the log that say that the node itself failed."""
        return [line for line in self.log.read_text().splitlines() if "Traceback" in line or "[error" in line]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A node with a worker, a session that is over, and one that asks a question."""
    log, port = tmp_path_factory.mktemp("fuzz") / "log", free_port()
    with redis_server() as server:
        environment = {
            "HOLDFAST_REDIS_URL": server.url,
            "HOLDFAST_PORT": str(port),
            **environment_of_keys(),
            "HOLDFAST_ADMIN": "alice",
            **OPEN_LIMITS,
        }
        processes: list[Process] = [Loud(module, environment, log, "warning") for module in ("api", "worker")]
        for process in processes:
            process.start()
        target = Target(port, log)
        try:
            await _prepare(target)
            yield target
        finally:
            target.http.close()
            for process in processes:
                await process.kill()


async def _prepare(target: Target) -> None:
    while True:
        try:
            if _call(target, "GET", "/readyz").status == 200:
                break
        except ConnectionError:
            await asyncio.sleep(0.05)
    for sid, pipeline, until in (("done", "chat", "generation.completed"), ("asks", "trip", "question")):
        body = {"id": sid, "input": "hello", "model": "demo/echo", "pipeline": pipeline}
        assert _call(target, "POST", "/v1/sessions", body).status == 201
        async with SSE(f"http://127.0.0.1:{target.port}", f"/v1/sessions/{sid}/events", bearer(ALICE)) as stream:
            async for frame in stream.frames():
                if frame.type == until:
                    break


def _call(target: Target, method: str, path: str, body: Any = None) -> Any:
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}"
    head += "\r\ncontent-type: application/json"
    return target.http.request(head.encode(), b"" if body is None else json.dumps(body).encode())


def test_any_request(target: Target) -> None:
    """Whatever the path, query, headers and body: an answer in time that is no failure, and errors of the one shape."""

    @fuzz(0.6)
    @given(head=heads(), body=BODIES)
    def check(head: bytes, body: bytes) -> None:
        answer = target.http.request(head, body)
        assert 200 <= answer.status < 500
        if answer.status >= 400 and answer.headers.get("content-type") == "application/json" and answer.body:
            assert set(json.loads(answer.body)["error"]) == {"code", "message"}

    check()
    assert target.failures() == []


def test_any_frame(target: Target) -> None:
    """Whatever a frame says, the socket answers and goes on, or is closed for a reason that is the client's."""
    socket: list[RawSocket] = []

    @fuzz(0.25)
    @given(frame=FRAMES, sid=st.sampled_from(["done", "asks"]))
    def check(frame: bytes, sid: str) -> None:
        if not socket:
            headers = f"\r\nAuthorization: Bearer {ALICE}".encode()
            socket.append(RawSocket(target.port, f"/v1/sessions/{sid}/ws".encode(), headers, ANSWER_S))
        socket[0].send(frame)
        socket[0].send(b'{"type":"ping","ref":"mark"}')
        if (code := _until_mark(socket[0])) is not None:
            socket.pop().__exit__()
            assert code in (1000, 1003, 1007, 1009, 1013, 4404, 4410), code

    try:
        check()
    finally:
        for each in socket:
            each.__exit__()
    assert target.failures() == []


def _until_mark(socket: RawSocket) -> int | None:
    """None: the mark came back. Else how the socket was closed."""
    while (received := socket.receive()) is not None:
        opcode, payload = received
        if opcode == CLOSE:
            return int.from_bytes(payload[:2], "big")
        if payload == b'{"type":"pong","ref":"mark"}':
            return None
    raise AssertionError("the connection was lost")


def test_any_handshake(target: Target) -> None:
    """Whatever a WebSocket is asked for with: it is closed with the code of a refusal, or opened and answers."""

    @fuzz(0.1)
    @given(path=targets(["/v1/sessions/{}/ws", "/ws/chat", "/api/chat/ws", "/ws/{}"]), value=HEADER_VALUES, text=FRAMES)
    def check(path: bytes, value: str, text: bytes) -> None:
        said = re.sub(rb"[\r\n\0]", b"", value.encode("latin-1", "replace"))
        for headers in (
            b"\r\nAuthorization: Bearer " + ALICE.encode(),
            b"\r\nx-api-key: " + said,
            b"\r\nOrigin: " + said,
        ):
            with RawSocket(target.port, path, headers, ANSWER_S) as socket:
                assert socket.status == 101 or 400 <= socket.status < 500
                socket.send(text)
                socket.send((1000).to_bytes(2, "big"), CLOSE)
                code = _until_closed(socket) if socket.status == 101 else 1000
                assert code in (1000, 1003, 1007, 1009, 1013, 4400, 4401, 4403, 4404, 4410), code

    check()
    assert target.failures() == []


def _until_closed(socket: RawSocket) -> int:
    while (received := socket.receive()) is not None:
        if received[0] == CLOSE:
            return int.from_bytes(received[1][:2], "big")
    raise AssertionError("the connection was lost without a word")


def test_any_bytes_after_the_handshake(target: Target) -> None:
    """Bytes that are no frames, frames that break the rules: the connection ends, the node goes on."""

    @fuzz(0.05)
    @given(wire=WIRE)
    def check(wire: bytes | tuple[int, bytes]) -> None:
        headers = b"\r\nAuthorization: Bearer " + ALICE.encode()
        with RawSocket(target.port, b"/ws/chat", headers, ANSWER_S) as socket:
            if isinstance(wire, bytes):
                socket.send_raw(wire)
            else:
                socket.send_raw(bytes([wire[0], 128 | min(len(wire[1]), 125)]) + b"\0\0\0\0" + wire[1])
        assert _call(target, "GET", "/livez").status == 200

    check()
    assert target.failures() == []


async def test_still_serves(target: Target) -> None:
    """After all of that the finished session is there, or was deleted by a request that meant it; a new one runs."""
    assert _call(target, "GET", "/v1/sessions/done").status in (200, 404)
    sid = _call(target, "POST", "/v1/sessions", {"input": "still here", "model": "demo/echo"})
    path = json.loads(sid.body)["events_url"]
    async with SSE(f"http://127.0.0.1:{target.port}", path, bearer(ALICE)) as stream:
        frames = [frame async for frame in stream.frames()]
    assert frames[-1].type == "generation.completed"
