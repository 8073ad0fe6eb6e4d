"""Pages of other origins: those on the list may, the others may not; where a node serves without asking who calls."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from api.main import create_app
from shared.errors import ConfigurationError
from shared.exposure import check_exposure, is_loopback
from shared.settings import Settings
from tests.support.credentials import ALICE, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.ports import free_port
from tests.support.sse import SSE

FRIEND, STRANGER = "https://app.example.com", "https://evil.example.com"
ASK = "/api/chat/stream?message=hello&model=demo/echo"


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    """Without authentication, and with one foreign origin on the list."""
    async with live_node(redis_url, cors_origins=(FRIEND,)) as node, live_worker(redis_url):
        yield node


@pytest.fixture
async def http(node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url) as client:
        yield client


def preflight(origin: str, method: str, *headers: str) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return {**asked, "Access-Control-Request-Headers": ",".join(headers)} if headers else asked


async def test_preflight_of_a_friend(http: httpx.AsyncClient) -> None:
    """A page on the list is allowed all calls and headers there are, and its browser remembers that."""
    for method in ("GET", "POST", "DELETE"):
        asked = preflight(FRIEND, method, "authorization", "content-type", "idempotency-key", "last-event-id")
        response = await http.options("/v1/sessions/x", headers=asked)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert int(response.headers["access-control-max-age"]) >= 600
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origin", [STRANGER, "null", f"{FRIEND}.evil.com", f"{FRIEND}:444", FRIEND.replace("s:", ":")])
async def test_preflight_of_a_stranger(http: httpx.AsyncClient, origin: str) -> None:
    """No other page is, not even one whose origin looks like it."""
    response = await http.options("/v1/sessions", headers=preflight(origin, "POST"))
    assert response.status_code == 400
    assert response.headers.get("access-control-allow-origin") != origin


async def test_friend_reads_answers(node: LiveNode, http: httpx.AsyncClient) -> None:
    """Answers, errors and streams carry what the page needs to read them, and the headers it is to see."""
    headers = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}
    created = await http.post("/v1/sessions", json={"input": "x", "model": "demo/echo"}, headers=headers)
    unknown = await http.get("/v1/sessions/unknown", headers=headers)
    assert (created.status_code, unknown.status_code) == (201, 404)
    async with SSE(node.url, ASK, headers) as stream:
        frames = [frame.type async for frame in stream.frames()]
    assert frames[-1] == "generation.completed"
    for given in (created.headers, unknown.headers, stream.headers):
        assert given["access-control-allow-origin"] == FRIEND
        assert "Origin" in given["vary"]
        assert {"Holdfast-Session", "Retry-After"} <= set(given["access-control-expose-headers"].split(", "))


FOREIGN: list[dict[str, str]] = [
    {"Origin": STRANGER},
    {"Origin": "null"},
    {"Origin": STRANGER, "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://["},
    {"Origin": "http://{host}", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=repr)
async def test_foreign_page_drives_no_local_node(http: httpx.AsyncClient, redis: Any, headers: dict[str, str]) -> None:
    """Without authentication a foreign page can start nothing, stop nothing and list nothing: not by an image, a link,
    an EventSource, a form. The stream that begins with a GET is the one that matters."""
    headers = {name: value.format(host=http.base_url.netloc.decode()) for name, value in headers.items()}
    for method, path in (
        ("GET", ASK),
        ("POST", "/v1/sessions"),
        ("POST", "/v1/sessions/x/stop"),
        ("GET", "/v1/sessions"),
    ):
        response = await http.request(method, path, headers=headers, json={"input": "x"} if method == "POST" else None)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed"), path
    assert await redis.keys("*events") == []


OWN: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://{host}"},
    {"Origin": "https://front.example.com", "Sec-Fetch-Site": "same-origin"},
]


@pytest.mark.parametrize("headers", OWN, ids=repr)
async def test_own_page_and_no_page(node: LiveNode, headers: dict[str, str]) -> None:
    """The node's own page, one on the list, what a person types, and what is no browser at all go on as ever; also
    behind a proxy that gives the node another name."""
    given = {name: value.format(host=node.url.removeprefix("http://")) for name, value in headers.items()}
    async with SSE(node.url, ASK, given) as stream:
        assert stream.status == 200


async def test_link_to_the_page_itself(http: httpx.AsyncClient) -> None:
    """A link from elsewhere leads to the page, and health is nobody's secret."""
    for path in ("/", "/docs", "/livez"):
        response = await http.get(path, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
        assert response.status_code == 200


HOSTS = [("127.0.0.1:80", 200), ("[::1]:80", 200), ("localhost", 200), ("a.localhost:1", 200), ("10.1.2.3", 200),
         ("LOCALHOST:80", 200), ("proxy.internal", 200), ("evil.example.com", 403), ("127.0.0.1.evil.com:80", 403),
         ("localhost.evil.com", 403), ("proxy.internal.evil.com", 403), ("[", 403), ("", 403)]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS)
async def test_foreign_name_of_this_host(redis_url: str, host: str, status: int) -> None:
    """A page may point its own name here; a node without authentication does not answer to it."""
    async with live_node(redis_url, hosts=("proxy.internal",)) as node, httpx.AsyncClient(base_url=node.url) as http:
        response = await http.get("/v1/sessions", headers={"Host": host})
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "host_not_allowed"


async def test_foreign_name_over_websocket(node: LiveNode) -> None:
    """The same over a WebSocket, before it is one."""
    url = f"{node.url.replace('http', 'ws')}/ws/chat"
    async with httpx.AsyncClient() as http:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        response = await http.get(url.replace("ws:", "http:"), headers={"Host": "evil.example.com", **upgrade, **key})
    assert response.status_code == 403


@pytest.mark.parametrize("path", ["/v1/sessions/s1/ws", "/ws/chat?session=s1"])
@pytest.mark.parametrize("changes", [{}, settings_of_keys()], ids=["none", "keys"])
async def test_foreign_page_over_websocket(redis_url: str, path: str, changes: dict[str, Any]) -> None:
    """A browser lets any page open a WebSocket: one of a foreign page is closed as such, with authentication, too."""
    async with live_node(redis_url, cors_origins=(FRIEND,), **changes) as node:
        url = node.url.replace("http", "ws") + path
        assert await closed_as(url, STRANGER) == (4403, "origin_not_allowed")
        assert await closed_as(url, FRIEND) == (4404, "session_not_found")


async def closed_as(url: str, origin: str) -> tuple[int | None, str | None]:
    async with connect(url, additional_headers={"Origin": origin, **bearer(ALICE)}) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    return socket.close_code, socket.close_reason


async def test_without_a_list_no_page_is_told_anything(redis_url: str) -> None:
    """With authentication and no list a page of another origin is told nothing that its browser would let it read."""
    async with live_node(redis_url, **settings_of_keys()) as node, httpx.AsyncClient(base_url=node.url) as http:
        response = await http.get("/v1/sessions", headers={"Origin": STRANGER, **bearer(ALICE)})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


WRONG: list[dict[str, Any]] = [
    {"cors_origins": "*"}, {"cors_origins": "app.example.com"}, {"cors_origins": f"{FRIEND}/"},
    {"cors_origins": f"{FRIEND}/path"}, {"cors_origins": "https://"}, {"cors_origins": f"{FRIEND}, null"},
    {"cors_origins": "HTTPS://App.example.com"},
]  # fmt: skip


@pytest.mark.parametrize("changes", WRONG, ids=repr)
def test_what_is_no_origin_is_said_at_start(changes: dict[str, Any]) -> None:
    """A list that no browser's origin would ever match, or that lets every page use an open node, is refused."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_CORS_ORIGINS"):
        create_app(Settings(**changes))


def test_every_origin_with_authentication() -> None:
    """With authentication `*` is fine: a foreign page has no credential to ride on."""
    create_app(Settings(**settings_of_keys(cors_origins="*")))


LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "localhost", "::ffff:127.0.0.1"]
ELSEWHERE = ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "example.com", "127.0.0.1.evil.com", "", "1"]


def test_what_is_loopback() -> None:
    """Addresses that only this machine reaches, and no name that could be anything."""
    assert [host for host in LOOPBACK if not is_loopback(host)] == []
    assert [host for host in ELSEWHERE if is_loopback(host)] == []


@pytest.mark.parametrize("host", ELSEWHERE)
def test_open_node_stays_on_this_machine(host: str) -> None:
    """Without authentication a node serves nobody else, unless it is told to."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_ALLOW_ANONYMOUS"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, allow_anonymous=True))
    check_exposure(Settings(host=host, **settings_of_keys()))


@pytest.mark.parametrize("command", ["api", "dev"])
def test_commands_refuse_to_serve_everybody(command: str) -> None:
    """Both commands end at once, and say what to set."""
    environment = {**os.environ, "HOLDFAST_HOST": "0.0.0.0", "HOLDFAST_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-m", "shared.cli", command], env=environment, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 2
    assert "HOLDFAST_ALLOW_ANONYMOUS" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ended at once" not in ended.stderr  # nothing was started in vain
