"""The Python client: its words, the same in both forms, and those of the API."""

import asyncio
import inspect
import re
import sys
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from api import schemas
from shared import client as holdfast
from shared.client import (
    AsyncClient,
    AsyncSession,
    Client,
    ProtocolError,
    Session,
    Unknown,
)
from shared.client.calls import Call
from shared.client.events import _CLASSES, parsed
from shared.events import EventType
from tests.support.canned import answer, canned
from tests.support.clients import CLIENTS, Connect
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.system import ROOT
from worker.providers.demo import DEFAULT_TOKENS, lorem

WITHIN_S = 20.0


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running, live_worker(redis_url), asyncio.timeout(WITHIN_S):
        yield running


async def test_the_example_runs(node: LiveNode) -> None:
    """As it is, but for the address."""
    assert holdfast.__doc__ is not None
    code = textwrap.dedent("".join(re.findall(r"^(?:    .*)?\n", holdfast.__doc__, re.MULTILINE)))
    run = [sys.executable, "-W", "error", "-c", code.replace("http://127.0.0.1:8000", node.url)]
    process = await asyncio.create_subprocess_exec(*run, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    out, complaints = await process.communicate()
    assert complaints == b""
    said = "".join(lorem(DEFAULT_TOKENS, 0))
    assert out.decode() == f"{said}{said}\n[]\n"


def test_both_clients_have_the_same_words() -> None:
    """Methods, what they are given, and what is said about them."""
    renamed = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
    for one, other in ((AsyncClient, Client), (AsyncSession, Session)):
        words = {renamed.get(name, name): member for name, member in vars(one).items() if inspect.isfunction(member)}
        plain = {name: member for name, member in vars(other).items() if inspect.isfunction(member)}
        assert words.keys() == plain.keys()
        for name in words:
            assert _given(words[name]) == _given(plain[name]), name


def _given(function: Any) -> list[tuple[Any, ...]]:
    return [(given.name, given.kind, given.default) for given in inspect.signature(function).parameters.values()]


def test_answers_of_the_api_are_known_with_all_their_fields() -> None:
    """What the server's answer has, the client's has too, unless it is of no use there."""
    pairs: dict[type[BaseModel], type[BaseModel]] = {
        holdfast.Opened: schemas.SessionOpened,
        holdfast.Summary: schemas.SessionSummary,
        holdfast.Shown: schemas.SessionShown,
        holdfast.Stopped: schemas.Stopped,
    }
    for known, said in pairs.items():
        assert known.model_fields.keys() == said.model_fields.keys() - {"events_url"}


def test_every_type_of_event_has_a_class() -> None:
    """And what a later version says is not an error."""
    assert {*EventType, "caught_up", "gap"} == _CLASSES.keys()
    later = parsed("5-1", "text.sung", '{"id":"x","notes":[1]}')
    assert isinstance(later, Unknown)
    assert (later.id, later.type, later.data) == ("5-1", "text.sung", {"id": "x", "notes": [1]})


@pytest.mark.parametrize("data", ["", "{", "[]", "null", "{}", '{"text":1}'])
def test_what_is_no_event_is_said_to_be_none(data: str) -> None:
    """It would be no better on another connection."""
    with pytest.raises(ProtocolError, match=r"text\.delta"):
        parsed("5-1", "text.delta", data)


async def test_what_is_no_answer_is_said_to_be_none(connect: Connect) -> None:
    """Such as a page that a proxy gives with 200."""
    async with canned(answer(200, "<html>")) as server, connect(server.url) as client:
        with pytest.raises(ProtocolError, match="Shown"):
            await client.session("s1").get()


def test_a_session_is_one_part_of_a_path() -> None:
    """Whatever is in its name."""
    assert holdfast.calls.session_path("a/../b?c", "stop") == "/v1/sessions/a%2F..%2Fb%3Fc/stop"
    assert Call("GET", "/x", query={"a": None, "b": 1}).request()["params"] == {"b": 1}
