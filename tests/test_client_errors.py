"""The Python client: what it raises at once, and what it tries again for how long."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.client import (
    AsyncClient,
    BadRequest,
    Client,
    Forbidden,
    NotFound,
    Overloaded,
    Question,
    Unauthorized,
    Unreachable,
)
from shared.client.patience import CAP_S, Patience, retry_after_s
from shared.credentials import digest, new_key
from tests.support.canned import answer, canned
from tests.support.clients import CLIENTS, Connect, Waits
from tests.support.generations import piped
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.ports import free_port
from tests.support.proxy import proxy
from tests.support.swallowing import swallowing
from worker.pipelines import Run

WITHIN_S = 20.0
OPENED = '{"id":"s1","generation":"g1","state":"queued","last_event_id":"5-1","stream_token":null}'


async def _asks(run: Run) -> None:
    await run.text(f"You like {await run.ask('Which colour?')}.")


ASKS = piped(_asks)


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running, live_worker(redis_url), asyncio.timeout(WITHIN_S):
        yield running


# -- refusals


async def test_what_cannot_be_is_raised_at_once(connect: Connect, node: LiveNode) -> None:
    """With status, code and words of the server, for calls and streams alike, and without a second try."""
    waits = Waits()
    async with connect(node.url, on_wait=waits) as client:
        for unknown in (client.session("nobody").get, client.session("nobody").stop, client.session("no/body").delete):
            with pytest.raises(NotFound) as missing:
                await unknown()
            assert missing.value.status == 404
        with pytest.raises(NotFound, match="session_not_found"):
            await anext(client.session("nobody").events())
        with pytest.raises(BadRequest) as wrong:
            await client.create(model="nobody/knows", input="hello")
        assert (wrong.value.status, wrong.value.code) == (422, "unknown_model")
        session = await client.create(model="demo/echo", input="hello")
        with pytest.raises(BadRequest, match="invalid_last_event_id"):
            await anext(session.events("yesterday"))
        await client.create(input="one", idempotency_key="k1")
        with pytest.raises(BadRequest, match="idempotency_key_reused"):
            await client.create(input="two", idempotency_key="k1")
        await session.result()
        await session.delete()
        with pytest.raises(NotFound):
            await session.delete()
    assert waits.errors == []


async def test_a_key_is_needed_and_never_shown(connect: Connect, redis_url: str) -> None:
    """Not by a refusal, not where nobody answers, not with the variables of every frame; a function may renew it."""
    key, wrong = new_key(), new_key()
    asked: list[str] = []

    def renewed() -> str:
        asked.append(key)
        return key

    async with live_node(redis_url, auth="keys", keys={"alice": (digest(key),)}, token_secret="s" * 32) as node:
        async with connect(node.url, key=wrong) as client:
            with pytest.raises(Unauthorized) as refused:
                await client.create(input="hello")
            with pytest.raises(Unauthorized):
                await anext(client.session("s1").events())
            shown = [repr(client), str(client.session("s1")), _all_of(refused.value)]
        async with connect(node.url, key=renewed) as client:
            session = await client.create(input="hello")
            assert session.stream_token
            assert session.stream_token not in repr(session)
            await session.get()
    assert len(asked) == 2
    async with connect(f"http://127.0.0.1:{free_port()}", key=wrong, patience_s=0.1) as client:
        with pytest.raises(Unreachable) as unreachable:
            await client.create(input="hello")
    assert wrong not in "".join([*shown, _all_of(unreachable.value)])


def _all_of(error: BaseException) -> str:
    """As a reporter that knows no mercy tells it, but for the variables of the test."""
    assert error.__traceback__ is not None
    frames = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())


@pytest.mark.parametrize("key", ["", "secret\nkey", "secret key", "sécret"])
def test_a_key_that_cannot_be_sent_is_refused_without_its_words(key: str) -> None:
    """A header that is refused further down is refused by words that show it."""
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="printable ASCII") as raised:
            kind(key=key)
        assert not key or key not in str(raised.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_that_is_looked_at_shows_no_key(kind: type[Client] | type[AsyncClient]) -> None:
    """Nor do its parts."""
    client = kind(key="hf_secret")
    assert "hf_secret" not in repr([client, client.options, client.options.for_httpx, vars(client)])


@pytest.mark.parametrize("base", ["ftp://127.0.0.1", "127.0.0.1:8000", "http://user:secret@127.0.0.1"])
def test_a_base_that_cannot_be_is_refused_at_once(base: str) -> None:
    """And not after a minute of patience; credentials in it would be shown with it."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its words differ
        Client(base)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("status", [403, 405, 307])
async def test_every_answer_that_is_no_trouble_is_final(connect: Connect, status: int) -> None:
    """Also one that somebody else has written; and nobody is followed elsewhere with the key."""
    said = answer(status, "<html>", "Location: http://127.0.0.1:9/")
    async with canned(said, said) as server, connect(server.url, key="secret") as client:
        for ask in (client.session("s1").get(), anext(client.session("s1").events())):
            with pytest.raises(Forbidden if status == 403 else BadRequest) as raised:
                await ask
            assert (raised.value.status, raised.value.code) == (status, "http_error")
    assert len(server.asked) == 2


# -- patience


async def test_a_session_whose_answer_was_lost_is_made_once(connect: Connect, node: LiveNode) -> None:
    """And so is a turn; an answer to a question; and a deletion that was carried out is no error."""
    async with (
        swallowing(int(node.url.rpartition(":")[2])) as lossy,
        proxy(lossy.port) as way,
        connect(way.url) as client,
    ):
        session = await _through(way, lossy, client, node, "create", model="demo/echo", input="one")
        await session.result()
        await _through(way, lossy, session, node, "message", input="two")
        await session.result()
        assert [m.content for m in (await session.get()).messages] == ["one", "one", "two", "two"]
        assert [summary.id async for summary in client.sessions()] == [session.id]
        asked = await client.create(input="hello", pipeline=ASKS)
        async for event in asked.events():
            if isinstance(event, Question):
                await _through(way, lossy, asked, node, "answer", question=event.question, text="red")
        assert (await asked.get()).messages[-1].content == "You like red."
        await _through(way, lossy, session, node, "delete")
    assert len(lossy.swallowed) == 4


async def _through(way: Any, lossy: Any, what: Any, node: LiveNode, method: str, **given: Any) -> Any:
    """Call a method whose first answer gets lost."""
    way.target_port, count = lossy.port, len(lossy.swallowed)
    await way.cut()  # no connection that is kept: it would lead to the node

    async def back() -> None:
        while len(lossy.swallowed) == count:
            await asyncio.sleep(0.01)
        way.target_port = int(node.url.rpartition(":")[2])

    switching = asyncio.create_task(back())
    result = await getattr(what, method)(**given)
    await switching
    return result


@pytest.mark.parametrize("status", [429, 503])
async def test_trouble_that_passes_is_waited_for_as_long_as_the_server_says(connect: Connect, status: int) -> None:
    """The same key is sent again."""
    waits = Waits()
    trouble = answer(status, '{"error":{"code":"busy","message":"later"}}', "Retry-After: 1")
    async with canned(trouble, answer(201, OPENED)) as server, connect(server.url, on_wait=waits) as client:
        assert (await client.create(input="hello")).id == "s1"
    assert waits.seconds[0] >= 1.0
    assert isinstance(waits.errors[0], Overloaded)
    assert (waits.errors[0].status, waits.errors[0].code) == (status, "busy")
    first, second = server.header("idempotency-key")
    assert first == second != ""
    assert [json.loads(body) for body in server.bodies] == [{"input": "hello"}] * 2


async def test_who_is_to_wait_longer_than_patience_lasts_is_told_at_once(connect: Connect) -> None:
    """Waiting would be for nothing."""
    async with canned(answer(429, "{}", "Retry-After: 3600")) as server, connect(server.url) as client:
        with pytest.raises(Overloaded) as raised:
            await client.create(input="hello")
    assert raised.value.status == 429


async def test_nobody_there_ends_with_patience(connect: Connect) -> None:
    """A stream too, where it was given an end."""
    async with connect(f"http://127.0.0.1:{free_port()}", patience_s=0.2, follow_patience_s=0.2) as client:
        with pytest.raises(Unreachable, match="ConnectError"):
            await client.create(input="hello")
        with pytest.raises(Unreachable, match="ConnectError"):
            await anext(client.session("s1").events())


def test_waits_grow_to_a_bound_with_jitter_and_begin_again_after_success() -> None:
    """Many clients must not come back in step, nor any of them in a circle."""
    for chance, factor in ((0.0, 0.75), (1.0, 1.25)):
        patience = Patience(None, 1.0, chance=lambda chance=chance: chance)  # type: ignore[misc]
        error = Unreachable("away")
        assert [patience.wait_s(error) / factor for _ in range(6)] == [1, 2, 4, 8, CAP_S, CAP_S]
        patience.renewed()
        assert patience.wait_s(error, at_least_s=3) == 3
        patience.base_s = 0.0
        patience.renewed()
        assert patience.wait_s(error) > 0


def test_patience_counts_from_the_last_success() -> None:
    """And a wait that would end after it is not begun."""
    now = 100.0
    patience = Patience(10.0, 1.0, clock=lambda: now, chance=lambda: 0.5)
    now = 108.5
    assert patience.wait_s(Unreachable("away")) == 1.0
    with pytest.raises(Unreachable):
        patience.wait_s(Unreachable("away"))
    patience.renewed()
    now = 117.0
    assert patience.wait_s(Unreachable("away")) == 1.0


def test_retry_after_is_seconds_or_a_date() -> None:
    """Nonsense is no reason to wait."""
    assert retry_after_s({"retry-after": "7"}) == 7
    assert retry_after_s({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 1e6
    assert [retry_after_s({"retry-after": said}) for said in ("Thu, 01 Jan 1970 00:00:00 GMT", "soon", "-1", "²")] == [
        0, 0, 0, 0,
    ]  # fmt: skip
    assert retry_after_s({}) == 0
