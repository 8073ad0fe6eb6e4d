"""Nothing that lets somebody in is ever logged, answered or stored: everything a node and a worker say is searched."""

import asyncio
import io
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared.credentials import new_key
from shared.telemetry import configure, get_logger, without_secrets
from tests.support.credentials import ALICE, SECRET, bearer, environment_of_keys
from tests.support.loud import Loud
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sse import SSE
from tests.support.system import Node

PASSWORD = "the-password-of-redis"
WRONG_KEY = new_key()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzZWNyZXQifQ.c2lnbmF0dXJlLW9mLXNvbWVib2R5"


@pytest.fixture(scope="module")
def redis_with_password() -> Iterator[RedisServer]:
    with redis_server() as server:
        with server.client() as client:
            client.acl_setuser(
                "holdfast", True, passwords=[f"+{PASSWORD}"], categories=["+@all"], keys=["*"], channels=["*"]
            )
        yield server


@pytest.fixture
async def running(redis_with_password: RedisServer, tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A node and a worker that log everything: the node's URL, and where they log."""
    log = tmp_path / "log"
    redis_url = f"redis://holdfast:{PASSWORD}@127.0.0.1:{redis_with_password.port}/0"
    environment = {"HOLDFAST_REDIS_URL": redis_url, "HOLDFAST_REDIS_TIMEOUT_S": "1", **environment_of_keys()}
    node = Node(redis_url, {})
    node_environment = {**environment, "HOLDFAST_PORT": str(node.port)}
    processes = [Loud("api", node_environment, log), Loud("worker", environment, log)]
    for process in processes:
        process.start()
    try:
        async with httpx.AsyncClient() as http, asyncio.timeout(30):
            while not await _ready(http, node.url):
                await asyncio.sleep(0.05)
        yield node.url, log
    finally:
        for process in processes:
            await process.kill()


async def _ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_secrets_are_never_said(running: tuple[str, Path], redis_with_password: RedisServer) -> None:
    """With everything logged there is, no key, token, secret or password is in a log, an answer or in Redis: whether
    it was right or wrong, in a header or in a URL, over HTTP or WebSocket, with Redis there or gone."""
    url, log = running
    said: list[str] = []
    async with httpx.AsyncClient(base_url=url) as http:
        created = await http.post(
            "/v1/sessions", json={"id": "s1", "input": "x", "model": "demo/echo"}, headers=bearer(ALICE)
        )
        token = created.json()["stream_token"]
        other = (await http.post("/v1/sessions/s1/token", headers=bearer(ALICE))).json()["stream_token"]
        secrets = [ALICE, WRONG_KEY, JWT, SECRET, PASSWORD, token, other]
        for credential in (WRONG_KEY, JWT, token):
            for headers in (bearer(credential), {"x-api-key": credential}, {"Authorization": credential}):
                said.append((await http.get("/v1/sessions", headers=headers)).text)
        for query in (
            f"token={token}",
            f"token={JWT}",
            f"token={WRONG_KEY}",
            f"after=x&token={token}",
            f"token={ALICE}",
        ):
            said += [await _streamed(url, query), await _over_socket(url, query)]
        redis_with_password_holds = _everything(redis_with_password)
        redis_with_password.kill()
        said.append((await http.get("/readyz")).text)
        said.append((await http.get("/v1/sessions/s1", headers=bearer(ALICE))).text)
        said.append((await http.post("/v1/sessions", json={"input": "x"}, headers=bearer(ALICE))).text)
        redis_with_password.start()
    logged = log.read_text()
    assert "[accepted]" in logged
    assert "token=…" in logged
    for place, text in (("log", logged), ("answers", " ".join(said)), ("Redis", redis_with_password_holds)):
        assert [secret for secret in secrets if secret in text] == [], place


async def _streamed(url: str, query: str) -> str:
    async with SSE(url, f"/v1/sessions/s1/events?{query}") as stream:
        if stream.status == 200:
            async for _ in stream.frames():
                pass
        return (stream.raw + stream.body).decode()


async def _over_socket(url: str, query: str) -> str:
    got = ""
    for path in ("v1/sessions/s1/ws?", "ws/chat?session=s1&"):
        async with connect(f"{url.replace('http', 'ws')}/{path}{query}") as socket:
            try:
                got += str(await socket.recv())
            except ConnectionClosed:
                got += f"{socket.close_code} {socket.close_reason}"
    return got


def _everything(server: RedisServer) -> str:
    """All that is stored, in the raw."""
    with server.client() as client:
        return " ".join(str(client.dump(key)) + str(key) for key in client.scan_iter())


LINES = [
    (f"GET /v1/sessions/s1/events?after=1-1&token={JWT}&x=1 HTTP/1.1", "events?after=1-1&token=…&x=1 HTTP"),
    (f'"WebSocket /ws/chat?token={WRONG_KEY}" [accepted]', '"WebSocket /ws/chat?token=…" [accepted]'),
    ("GET /x?token=not-even-a-token", "GET /x?token=…"),
    (f"authorization: Bearer {WRONG_KEY}", "authorization: Bearer …"),
    (f"> Authorization: bearer {JWT}", "> Authorization: bearer …"),
    (f"connecting to rediss://user:{PASSWORD}@host:1/0", "rediss://…@host:1/0"),
    (f"redis+sentinel://:{PASSWORD}@a:1,b:2/name", "redis+sentinel://…@a:1,b:2/name"),
]


@pytest.mark.parametrize(("line", "left"), LINES, ids=[left for _, left in LINES])
def test_what_is_left_out(line: str, left: str) -> None:
    """The secret is left out of a line, and the rest stays."""
    assert left in without_secrets(line)


@pytest.mark.parametrize("style", ["console", "json"])
def test_every_logger_is_discreet(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, those of libraries, and the tracebacks that they log."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        configure("debug", style)
        get_logger("ours").info("said", url=f"/x?token={JWT}", key=WRONG_KEY)
        logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "1:2", f"/ws/chat?token={JWT}")
        try:
            raise ValueError(f"no connection to redis://u:{PASSWORD}@h/0")
        except ValueError:
            logging.getLogger("some.library").exception("failed with %s", WRONG_KEY)
    finally:
        root.handlers[:], root.level = before[0], before[1]
        structlog.reset_defaults()
    logged = stream.getvalue()
    assert logged.count("…") >= 5
    assert [secret for secret in (JWT, WRONG_KEY, PASSWORD) if secret in logged] == []


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_no_values(style: str) -> None:
    """Where something failed is logged, and not what the variables held: prompts, answers, credentials."""
    code = (
        "from shared.telemetry import configure, get_logger\n"
        f"configure('info', '{style}')\n"
        "def failing(prompt):\n"
        "    raise ValueError('no')\n"
        "try:\n"
        "    failing('what ' + 'I asked')\n"
        "except ValueError:\n"
        "    get_logger('test').error('failed', exc_info=True)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "ValueError" in shown
    assert "failing" in shown
    assert "what I asked" not in shown
