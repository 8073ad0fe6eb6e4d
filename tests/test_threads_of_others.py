"""Threads under authentication: what is somebody else's is as unknown as what is not there."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.credentials import ALICE, BOB, bearer, settings_of_keys
from tests.support.inprocess import live_node

RUN = {"assistant_id": "demo/echo", "input": {"messages": "mine"}}
MINE = "mine"


@pytest.fixture
async def node_url(redis_url: str) -> AsyncIterator[str]:
    """Alice has a run in a thread; no worker takes it."""
    async with live_node(redis_url, **settings_of_keys()) as node:
        async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as alice:
            assert (await alice.post(f"/threads/{MINE}/runs", json=RUN)).status_code == 200
        yield node.url


@pytest.mark.parametrize("path", ["", "/state", "/runs"])
async def test_threads_of_others_look_empty(node_url: str, path: str) -> None:
    """Their owner sees messages and runs; to anybody else they are as threads that were never used."""
    async with httpx.AsyncClient(base_url=node_url) as client:
        hers = await client.get(f"/threads/{MINE}{path}", headers=bearer(ALICE))
        his = await client.get(f"/threads/{MINE}{path}", headers=bearer(BOB))
        nobodys = await client.get(f"/threads/unused{path}", headers=bearer(BOB))
    assert "mine_g1" in hers.text
    assert "_g1" not in his.text
    assert his.status_code == nobodys.status_code == 200
    timeless = ("created_at", "updated_at", "thread_id", "checkpoint")
    seen, unused = his.json(), nobodys.json()
    if isinstance(seen, dict):
        seen, unused = ({k: v for k, v in each.items() if k not in timeless} for each in (seen, unused))
    assert seen == unused


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/threads/mine/runs/mine_g1"),
        ("GET", "/threads/mine/runs/mine_g1/stream"),
        ("GET", "/threads/mine/runs/mine_g1/join"),
        ("POST", "/threads/mine/runs/mine_g1/cancel"),
        ("GET", "/threads/mine/stream"),
        ("DELETE", "/threads/mine"),
        ("POST", "/threads/mine/runs"),
        ("POST", "/threads/mine/runs/stream"),
        ("POST", "/threads/mine/runs/wait"),
        ("POST", "/ag-ui"),
    ],
)
async def test_runs_of_others_are_unknown(node_url: str, method: str, path: str) -> None:
    """Whatever is asked of somebody else's run or thread: there is none. Who is nobody is not told even that."""
    body = {"threadId": MINE, "runId": "r1", "messages": [{"id": "u1", "role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(base_url=node_url) as client:
        for headers, status in ((bearer(BOB), 404), ({}, 401)):
            request = client.build_request(method, path, headers=headers)
            if method == "POST":
                asked = body if path == "/ag-ui" else RUN
                request = client.build_request(method, path, headers=headers, json=asked)
            assert (await client.send(request)).status_code == status


async def test_ids_that_do_not_fit_are_the_callers_own(node_url: str) -> None:
    """A name that no session can have becomes an id that is different for each caller."""
    async with httpx.AsyncClient(base_url=node_url) as client:
        runs = [await client.post("/threads/my%20thread/runs", json=RUN, headers=bearer(key)) for key in (ALICE, BOB)]
    assert [run.status_code for run in runs] == [200, 200]
    assert len({run.json()["run_id"] for run in runs}) == 2
    assert {run.json()["thread_id"] for run in runs} == {"my thread"}
