"""What the admin page asks: for admins alone, over the sessions of everybody, a bounded part at a time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api import admin as admin_module
from api.main import create_app
from shared import keys
from shared.directory import UNHEARD_MS, Directory
from shared.errors import ConfigurationError
from shared.events import encode
from shared.log import Log
from shared.settings import Settings
from tests.support.credentials import ALICE, BOB, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sessions import FIELDS, HELLO, claim, finish, say
from tests.support.sse import SSE, Frame

API = "/admin/api"
CALLS = [
    ("GET", f"{API}/overview"),
    ("GET", f"{API}/sessions"),
    ("GET", f"{API}/workers"),
    ("GET", f"{API}/sessions/s1"),
    ("GET", f"{API}/sessions/s1/events"),
    ("POST", f"{API}/sessions/s1/stop"),
]
SLOW = {"tokens": 100_000, "rate": 50}


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    """Alice is an admin, Bob is not."""
    async with live_node(redis_url, **settings_of_keys(admin="alice")) as node:
        yield node


@pytest.fixture
async def alice(node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as client:
        yield client


@pytest.fixture
async def bob(node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(BOB)) as client:
        yield client


async def open_session(log: Log, directory: Directory, sid: str, owner: str = "bob") -> None:
    await directory.expect_live(sid)
    await log.create(sid, f"nonce-{sid}", "body", [HELLO], {**FIELDS, "principal": owner})


async def frames_of(url: str, path: str, headers: dict[str, str]) -> list[Frame]:
    async with SSE(url, path, headers) as stream:
        return [frame async for frame in stream.frames()]


# -- who may


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_everything_under_admin_wants_an_admin(node: LiveNode, method: str, path: str) -> None:
    """Nobody: 401. Somebody who is no admin, even of their own session: 403. Neither is told more than that."""
    async with httpx.AsyncClient(base_url=node.url) as http:
        mine = await http.post("/v1/sessions", json={"id": "s1", "input": "x"}, headers=bearer(BOB))
        token = mine.json()["stream_token"]
        answers = [
            await http.request(method, path),
            await http.request(method, path, headers=bearer("made-up")),
            await http.request(method, f"{path}?token={token}"),
            await http.request(method, path, headers=bearer(BOB)),
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 403]
    assert answers[3].json()["error"]["code"] == "not_an_admin"
    assert "s1" not in "".join(answer.text for answer in answers)


@pytest.mark.parametrize(("method", "path"), [("GET", "/admin"), *CALLS])
@pytest.mark.parametrize("changes", [{}, settings_of_keys()], ids=["none", "keys"])
async def test_nothing_is_there_unless_admins_are_named(
    redis_url: str, changes: dict[str, Any], method: str, path: str
) -> None:
    """Without HOLDFAST_ADMIN there is no page and no call, for nobody: as with a path that was never there."""
    async with live_node(redis_url, **changes) as node, httpx.AsyncClient(base_url=node.url) as http:
        response = await http.request(method, path, headers=bearer(ALICE))
        unknown = await http.request(method, "/nowhere", headers=bearer(ALICE))
    assert (response.status_code, response.json()) == (404, unknown.json())


async def test_the_page_itself_is_anybodys_and_holds_no_data(node: LiveNode, bob: httpx.AsyncClient) -> None:
    """A browser sends no header with a page: it is served to all, may load nothing from elsewhere, run no other script,
    and be in no frame."""
    await bob.post("/v1/sessions", json={"id": "the-session", "input": "x"})
    async with httpx.AsyncClient(base_url=node.url) as http:
        response = await http.get("/admin")
    assert response.status_code == 200
    assert "the-session" not in response.text
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_without_authentication_it_is_for_this_machine(redis_url: str) -> None:
    """On loopback whoever is there may, but no page of another origin, and no foreign name of the host."""
    async with live_node(redis_url, admin="anonymous") as node, httpx.AsyncClient(base_url=node.url) as http:
        assert (await http.get(f"{API}/overview")).status_code == 200
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example.com"}, {"Host": "evil.com"}):
            for method, path in CALLS:
                assert (await http.request(method, path, headers=headers)).status_code == 403, (path, headers)
        assert (await http.get("/admin", headers={"Host": "evil.com"})).status_code == 403


WRONG: list[dict[str, Any]] = [
    {"admin": "alice"},
    {"admin": "anonymous", "host": "0.0.0.0", "allow_anonymous": True},
    {"admin": "anonymous", "host": "10.0.0.1", "allow_anonymous": True},
    settings_of_keys(admin="anonymous"),
    settings_of_keys(admin="alice, *"),
    settings_of_keys(admin="a b"),
]


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: f"{changes['admin']} {changes.get('host', '')}")
def test_admins_that_cannot_be_are_said_at_start(changes: dict[str, Any]) -> None:
    """Nobody's name, everybody's, or whoever reaches a node from elsewhere: the node does not start."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_ADMIN"):
        create_app(Settings(**changes))


def test_admins_by_digest_of_a_subject() -> None:
    """A JWT's subject that is no plain name may be an admin by what it is called here; so may several."""
    create_app(Settings(**settings_of_keys(admin=f"alice,~{'0' * 64}")))


# -- sessions of everybody


async def test_admins_see_sessions_of_others_and_others_do_not(
    log: Log, directory: Directory, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """Under /admin Alice sees Bob's sessions as well as her own; outside of it she is a principal as any other."""
    await open_session(log, directory, "hers", "alice")
    await open_session(log, directory, "his", "bob")
    rows = (await alice.get(f"{API}/sessions")).json()["sessions"]
    assert {(row["id"], row["owner"], row["state"]) for row in rows} == {
        ("hers", "alice", "queued"), ("his", "bob", "queued"),
    }  # fmt: skip
    assert (await alice.get(f"{API}/sessions/his")).json()["owner"] == "bob"
    assert (await alice.get("/v1/sessions/his")).status_code == 404
    assert (await alice.post("/v1/sessions/his/stop")).status_code == 404
    assert (await alice.get("/v1/sessions/his/events")).status_code == 404
    assert (await bob.get(f"{API}/sessions/hers")).status_code == 403


async def test_what_is_told_of_a_session(log: Log, directory: Directory, alice: httpx.AsyncClient) -> None:
    """State, owner, attempt, ages by Redis' clock, readers of this node, its worker's lease: and no secret."""
    await open_session(log, directory, "s1")
    held = await claim(log, "s1")
    await say(log, held, 2, "a", "b", sid="s1")
    await directory.refresh_lease("w1", 60_000, "{}")
    async with SSE(str(alice.base_url), f"{API}/sessions/s1/events?follow=1", bearer(ALICE)) as stream:
        async for frame in stream.frames():
            if frame.type == "caught_up":
                break
        detail = (await alice.get(f"{API}/sessions/s1")).json()
    assert (detail["state"], detail["attempt"], detail["generation"], detail["worker"]) == ("running", 1, "g1", "w1")
    assert detail["last_event_id"] == f"{held.epoch}-3"
    assert detail["readers"] == 1
    assert 0 <= detail["quiet_ms"] <= detail["age_ms"] < 60_000
    assert 0 < detail["lease_ms"] <= 60_000
    assert not detail["stopping"]
    assert held.token not in str(detail)
    assert (await alice.get(f"{API}/sessions/unknown")).status_code == 404


async def test_the_last_event_ages(log: Log, directory: Directory, alice: httpx.AsyncClient, redis: Any) -> None:
    """`quiet_ms` is the time since the append of the last event; where the log has it no longer, it is not known."""
    await open_session(log, directory, "s1")
    before = await directory.now_ms()
    (row,) = (await alice.get(f"{API}/sessions")).json()["sessions"]
    await asyncio.sleep(0.2)
    (later,) = (await alice.get(f"{API}/sessions")).json()["sessions"]
    after = await directory.now_ms()
    assert 200 <= later["quiet_ms"] - row["quiet_ms"] <= after - before
    await redis.delete(keys.events("s1"))
    (gone,) = (await alice.get(f"{API}/sessions")).json()["sessions"]
    assert gone["quiet_ms"] is None


async def test_only_live_sessions_are_listed(log: Log, directory: Directory, alice: httpx.AsyncClient) -> None:
    """What has ended is in the index for a while, but not in the list; `state` narrows it; others are refused."""
    for sid in ("over", "runs", "waits"):
        await open_session(log, directory, sid)
    await finish(log, await claim(log, "over"), 2, "over")
    await claim(log, "runs")
    await directory.expect_live("never-created")

    async def listed(query: str) -> set[str]:
        return {row["id"] for row in (await alice.get(f"{API}/sessions{query}")).json()["sessions"]}

    assert await listed("") == {"runs", "waits"}
    assert await listed("?state=running") == {"runs"}
    assert await listed("?state=queued") == {"waits"}
    assert (await alice.get(f"{API}/sessions?state=completed")).status_code == 422
    live = (await alice.get(f"{API}/overview")).json()["live"]
    assert live["states"] == {"queued": 1, "running": 1, "waiting": 0}
    assert live["total"] == live["looked_at"] == 4


@pytest.mark.parametrize("together", [True, False])
async def test_pages_of_live_sessions(
    redis: Any, log: Log, directory: Directory, alice: httpx.AsyncClient, together: bool
) -> None:
    """Each live session is on one page, newest first, whatever lies between them in the index; also where all of them
    are of one ms."""
    for n in range(7):
        await open_session(log, directory, f"s{n}")
    for n in range(3):
        await directory.expect_live(f"z-never-created{n}")
    if together:
        await redis.zadd(keys.LIVE_INDEX, dict.fromkeys(await directory.live(), 1_000))
    found, cursor = [], ""
    while True:
        page = (await alice.get(f"{API}/sessions?limit=3{cursor}")).json()
        found += [row["id"] for row in page["sessions"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(found) == [f"s{n}" for n in range(7)]
    scores = await directory.live()
    assert [scores[sid] for sid in found] == sorted((scores[sid] for sid in found), reverse=True)
    assert (await alice.get(f"{API}/sessions?cursor=x")).status_code == 400
    assert (await alice.get(f"{API}/sessions?limit=201")).status_code == 422


async def test_one_refresh_reads_a_bounded_part(
    redis: Any, directory: Directory, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sessions and workers there are, one round of the page asks Redis a bounded number of questions, and
    none that walks over all keys."""
    await redis.zadd(keys.LIVE_INDEX, {f"s{n}": n for n in range(5_000)})
    for n in range(20):
        await directory.refresh_lease(f"w{n}", 60_000, "{}")
    monkeypatch.setattr(admin_module, "WORKERS", 10)
    await redis.config_resetstat()
    live = (await alice.get(f"{API}/overview")).json()["live"]
    sessions = (await alice.get(f"{API}/sessions")).json()
    workers = (await alice.get(f"{API}/workers")).json()
    stats = await redis.info("commandstats")
    assert (live["total"], live["looked_at"]) == (5_000, admin_module.LOOKED_AT)
    assert sessions["next_cursor"] is not None
    assert (len(workers["workers"]), workers["more"]) == (10, True)
    assert stats["cmdstat_hmget"]["calls"] <= admin_module.LOOKED_AT + 1_000
    assert stats["cmdstat_pttl"]["calls"] <= 11
    assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_zrange", "cmdstat_zscan"} & set(stats)


# -- events and stop


async def test_events_are_those_of_the_owner(
    redis_url: str, node: LiveNode, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """An admin reads the same frames under the same ids, from any cursor."""
    async with live_worker(redis_url):
        created = await bob.post("/v1/sessions", json={"input": "hello", "model": "demo/echo"})
        sid = created.json()["id"]
        await frames_of(node.url, f"/v1/sessions/{sid}/events", bearer(BOB))
        his = await frames_of(node.url, f"/v1/sessions/{sid}/events", bearer(BOB))
        seen = await frames_of(node.url, f"{API}/sessions/{sid}/events", bearer(ALICE))
        assert [(f.id, f.type, f.data) for f in seen] == [(f.id, f.type, f.data) for f in his]
        rest = {**bearer(ALICE), "Last-Event-ID": str(his[1].id)}
        after = await frames_of(node.url, f"{API}/sessions/{sid}/events", rest)
        assert [f.id for f in after if f.id] == [f.id for f in his[2:] if f.id]
        wrong = await alice.get(f"{API}/sessions/{sid}/events", headers={"Last-Event-ID": "x"})
        assert wrong.status_code == 400
    assert (await alice.get(f"{API}/sessions/unknown/events")).status_code == 404


async def test_an_admins_stream_is_not_the_owners(redis_url: str) -> None:
    """It counts against the admin's open streams: the owner has as many as before."""
    changes = settings_of_keys(admin="alice", open_streams=1)
    async with live_node(redis_url, **changes) as node, httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/sessions", json={"id": "s1", "input": "x"}, headers=bearer(BOB))
        path = f"{API}/sessions/s1/events"
        async with SSE(node.url, path, bearer(ALICE)) as watching:
            await anext(watching.frames())
            assert (await http.get(path, headers=bearer(ALICE))).status_code == 429
            async with SSE(node.url, "/v1/sessions/s1/events", bearer(BOB)) as stream:
                assert stream.status == 200


async def test_stop_ends_the_generation_of_somebody_else(
    redis_url: str, node: LiveNode, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """Its reader is told that the operator has cancelled it; a second stop, and one of another turn, hit nothing."""
    async with live_worker(redis_url):
        await bob.post("/v1/sessions", json={"id": "s1", "input": "x", "options": SLOW})
        async with SSE(node.url, "/v1/sessions/s1/events", bearer(BOB)) as stream:
            frames = stream.frames()
            async for frame in frames:
                if frame.type == "text.delta":
                    break
            other = await alice.post(f"{API}/sessions/s1/stop", json={"generation": "g2"})
            stopped = await alice.post(f"{API}/sessions/s1/stop", json={"generation": "g1", "wait_s": 10})
            last = [frame async for frame in frames][-1]
        again = await alice.post(f"{API}/sessions/s1/stop")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "other_generation")
    assert (stopped.status_code, stopped.json()["state"], stopped.json()["confirmed"]) == (200, "cancelled", True)
    assert (last.type, last.data["by"]) == ("generation.cancelled", "operator")
    assert again.json()["state"] == "cancelled"
    assert (await alice.post(f"{API}/sessions/unknown/stop")).status_code == 404


async def test_stop_of_a_queued_generation(log: Log, directory: Directory, alice: httpx.AsyncClient) -> None:
    """One that no worker has taken is over at once, by the operator, too."""
    await open_session(log, directory, "s1")
    stopped = await alice.post(f"{API}/sessions/s1/stop", json={"wait_s": 0})
    assert stopped.json()["state"] == "cancelled"
    assert (await log.events("s1"))[-1].value["by"] == "operator"


# -- workers


async def test_workers_say_what_they_hold_and_did(
    redis_url: str, node: LiveNode, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """Name, lease, held generations, and counts that grow with what the worker does."""
    async with live_worker(redis_url, heartbeat_s=0.05):
        await bob.post("/v1/sessions", json={"id": "fails", "input": "x", "model": "openai/none"})
        await bob.post("/v1/sessions", json={"id": "runs", "input": "x", "options": SLOW})
        await frames_of(node.url, "/v1/sessions/fails/events", bearer(BOB))
        async with asyncio.timeout(20):
            while True:
                (row,) = (await alice.get(f"{API}/workers")).json()["workers"]
                about = row["about"]
                if (about["attempts"], about["failed"], about["generations"]) == (2, 1, 1) and about["appended"] > 4:
                    break
                await asyncio.sleep(0.02)
        assert row["name"] == (await alice.get(f"{API}/sessions/runs")).json()["worker"]
        assert 0 < row["lease_ms"] <= row["lease_s"] * 1000
        assert about["room"] == node.node.settings.worker_jobs
        await bob.post("/v1/sessions/runs/stop")
    assert (await alice.get(f"{API}/workers")).json()["workers"] == []


async def test_a_worker_that_is_gone_is_not_shown(redis: Any, directory: Directory, alice: httpx.AsyncClient) -> None:
    """The index says where to look, the lease who is alive; and what was not heard of for long leaves the index."""
    await directory.refresh_lease("alive", 60_000, encode({"generations": 3}).decode())
    await directory.refresh_lease("strange", 60_000, "no JSON")
    await redis.zadd(keys.WORKER_INDEX, {"dead": await directory.now_ms(), "forgotten": 1})
    rows = (await alice.get(f"{API}/workers")).json()["workers"]
    assert [(row["name"], row["about"]) for row in rows] == [("alive", {"generations": 3}), ("strange", {})]
    await directory.refresh_lease("alive", 60_000, "{}")
    assert await redis.zscore(keys.WORKER_INDEX, "forgotten") is None
    assert await redis.zscore(keys.WORKER_INDEX, "dead") is not None
    assert UNHEARD_MS > 60_000
    await directory.end_lease("alive")
    assert await redis.zscore(keys.WORKER_INDEX, "alive") is None


# -- counts


async def test_delivered_counts_what_readers_were_given(
    log: Log, directory: Directory, node: LiveNode, alice: httpx.AsyncClient
) -> None:
    """The page makes a rate of it: it grows by the events that a reader gets, and readers are those of now."""
    await open_session(log, directory, "s1")
    held = await claim(log, "s1")
    before = (await alice.get(f"{API}/overview")).json()["node"]
    async with SSE(node.url, f"{API}/sessions/s1/events", bearer(ALICE)) as stream:
        async for frame in stream.frames():
            if frame.type == "caught_up":
                break
        during = (await alice.get(f"{API}/overview")).json()["node"]
        await finish(log, held, 2, "s1")
        assert [frame.type async for frame in stream.frames()] == ["generation.completed"]
    after = (await alice.get(f"{API}/overview")).json()["node"]
    assert (before["readers"], during["readers"]) == (0, 1)
    assert during["delivered"] - before["delivered"] == 2
    assert after["delivered"] - during["delivered"] == 1
