"""README.md, run by somebody who has just cloned the project: its first screen, its settings, and its command line."""

import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from shared.ids import EventId
from tests.support.newcomer import Newcomer
from tests.support.ports import free_port
from tests.support.readme import Row, block, command, table
from tests.support.sse import read_all, text_of
from tests.upstream import Upstream, reply
from tests.upstream_fixtures import WIRES
from worker.providers.base import Text
from worker.providers.demo import lorem

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = block("sh", "make run").strip()
ONE_LINE = command("curl")
INTERRUPTED = block("sh", "Last-Event-ID")
AGENT = block("python", "# my_agent.py")
MODELS = block("sh", "HOLDFAST_MODELS")
BEFORE = ("HOLDFAST_PORT=8001", "HOLDFAST_PIPELINES=my_agent", "HOLDFAST_ADMIN=anonymous")
SETTINGS = [command(told).removesuffix(" make run") for told in BEFORE]
"""Each of these the README puts before `make run`."""
KEYS = block("sh", "holdfast keys new")
ACTIVATE = command(".venv/bin/activate")
PROCESSES = [command(f"holdfast {part}") for part in ("api", "worker")]
COMMANDS = table("command", "what it shows")

SAYS = {
    "holdfast sessions": "kelp",
    "holdfast show kelp": "pen",
    "holdfast tail kelp": "text.delta",
    "holdfast stop kelp": "cancelled",
    "holdfast doctor": "It works",
    "holdfast bench": "every reader got every event once",
}
"""What is in the output of each command of the table."""
QUICK = "--sessions 2 --readers 1 --seconds 0.2"
SHORT = {"holdfast bench": f"--url {{}} {QUICK}", "holdfast stop kelp": "--yes"}
VALUES = {
    "--state": "running",
    "--owner": "anonymous",
    "--older-than": "0s",
    "--younger-than": "1h",
    "--after": "0-0",
    "--url": f"{{}} {QUICK}",
}
"""What is given to each flag of the table that takes something; `{}` is the node's address."""
LEAVING = "export HOLDFAST_DRAIN_S=0 HOLDFAST_WORKER_GRACE_S=0"


def _flags(row: Row) -> list[str]:
    return re.findall("`(--[a-z-]+)`", row.cells[1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def newcomer(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Newcomer]:
    """`make run`, with all that the README says may stand before it."""
    someone = Newcomer(tmp_path_factory.mktemp("clone"))
    (someone.folder / "my_agent.py").write_text(AGENT, encoding="utf-8")
    models = MODELS.replace("http://127.0.0.1:11434", up.url)
    assert up.url in models
    settings = " ".join(SETTINGS).replace("8001", str(someone.port))
    async with someone.under_way(f"{models}\n{settings} {START}", until="Ctrl-C") as printed:
        assert any(someone.url in line for line in printed)
        yield someone


@pytest_asyncio.fixture(loop_scope="module")
async def kelp(newcomer: Newcomer) -> None:
    """A session of that name, which is being answered."""
    await _forget(newcomer, "kelp")
    asked = {"id": "kelp", "input": "Tell me about kelp", "options": {"tokens": 10_000, "rate": 50}}
    async with httpx.AsyncClient(base_url=newcomer.url) as client:
        assert (await client.post("/v1/sessions", json=asked)).status_code == 201


async def _forget(newcomer: Newcomer, sid: str) -> None:
    async with httpx.AsyncClient(base_url=newcomer.url) as client:
        await client.delete(f"/v1/sessions/{sid}")


async def test_one_line_of_curl_streams_an_answer(newcomer: Newcomer) -> None:
    """From the question on."""
    async with newcomer.under_way(ONE_LINE, until="-9") as printed:
        (asked,) = [json.loads(line[6:]) for line in printed if '"role"' in line]
    assert asked["content"] == "Hello"
    assert _said(printed)
    assert "".join(lorem(120, 0)).startswith(_said(printed))


async def test_curl_that_was_interrupted_goes_on_after_the_last_id(newcomer: Newcomer) -> None:
    """Begun, followed, Ctrl-C, and back: what follows then is what follows the text that was seen."""
    await _forget(newcomer, "kelp")
    begin, follow, back = re.split(r"\n(?=curl)", INTERRUPTED.strip())
    assert json.loads(await newcomer.say(begin))["id"] == "kelp"
    async with newcomer.under_way(follow, until="-6") as seen:
        last = _ids(seen)[-1]
    assert "<the last id you saw>" in back
    async with newcomer.under_way(back.replace("<the last id you saw>", str(last)), until="id:") as rest:
        pass
    await _forget(newcomer, "kelp")
    assert _ids(rest)[0] > last
    assert _said(rest)
    assert "".join(lorem(200)).startswith(_said(seen) + _said(rest))


def _said(lines: list[str]) -> str:
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    return "".join(one["text"] for one in data if "text" in one)


def _ids(said: list[str]) -> list[EventId]:
    return [EventId.parse(line[4:]) for line in said if line.startswith("id: ")]


async def test_a_server_of_ones_own_is_a_line_of_configuration(newcomer: Newcomer, up: Upstream) -> None:
    """With the model's name as the README has it, and no key."""
    model = MODELS.split("# then: ")[1].strip()
    up.plan(reply(WIRES["openai-chat"].answer([Text("Moored.")])))
    assert await _answer(newcomer, model=model) == "Moored."
    assert (up.requests[-1].path, up.requests[-1].body["model"]) == ("/v1/chat/completions", model.split("/")[1])


async def test_the_agent_is_found_beside_the_makefile(newcomer: Newcomer) -> None:
    """With the name that the README gives it."""
    assert await _answer(newcomer, pipeline="mine") == "Kelp holds fast."


async def _answer(newcomer: Newcomer, **what: str) -> str:
    async with httpx.AsyncClient(base_url=newcomer.url) as client:
        made = await client.post("/v1/sessions", json={"input": "What is kelp?", **what})
    return text_of(await read_all(newcomer.url, made.json()["id"]))


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/admin", "/metrics"])
async def test_each_page_that_is_named_is_there(newcomer: Newcomer, path: str) -> None:
    """Also the admin page, since its setting was given."""
    async with httpx.AsyncClient(base_url=newcomer.url) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.usefixtures("kelp")
@pytest.mark.parametrize("told", [code for row in COMMANDS for code in row.code])
async def test_each_command_of_the_table_runs(newcomer: Newcomer, told: str) -> None:
    """It finds the Redis of `make run` by itself, and shows what the table says. Ctrl-C ends the one that goes on."""
    script = f"{ACTIVATE}\nexec {told} {SHORT.get(told, '').format(newcomer.url)}"
    if "tail" in told:
        async with newcomer.under_way(script, until=SAYS[told]):
            return
    assert SAYS[told] in await newcomer.say(script)


@pytest.mark.usefixtures("kelp")
@pytest.mark.parametrize("told", [(row.code[0], flag) for row in COMMANDS for flag in _flags(row)], ids=" ".join)
async def test_each_flag_of_the_table_is_one(newcomer: Newcomer, told: tuple[str, str]) -> None:
    """With a value where it takes one, it shows the same; Ctrl-C ends what stays."""
    line, flag = told
    script = f"{ACTIVATE}\nexec {line} {flag} {VALUES.get(flag, '').format(newcomer.url)}"
    async with newcomer.under_way(script, until=SAYS[line]):
        pass


async def test_a_key_lets_its_owner_in_and_nobody_else(newcomer: Newcomer) -> None:
    """The block is run as it stands, with the digest that its first line prints; then a node and a worker."""
    make, *exports = KEYS.splitlines()
    printed = await newcomer.say(f"{ACTIVATE}\n{make}")
    (key,), (digest,) = re.findall(r"hf_\S+", printed), re.findall(r"[0-9a-f]{64}", printed)
    told = "\n".join([ACTIVATE, f"export HOLDFAST_REDIS_URL={newcomer.redis_url}", *exports, LEAVING])
    assert "<digest>" in told
    told = told.replace("<digest>", digest)
    api, worker = PROCESSES
    port = free_port()
    async with (
        newcomer.under_way(f"{told}\nHOLDFAST_PORT={port} exec {api}", until="Uvicorn running"),
        newcomer.under_way(f"{told}\nexec {worker}", until="worker ready"),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        owner, bearer = {"x-api-key": key}, {"authorization": f"Bearer {key}"}
        made = await client.post("/v1/sessions", json={"input": "hi"}, headers=bearer)
        assert made.status_code == 201
        assert (await client.get("/v1/sessions", headers=owner)).json()["sessions"][0]["id"] == made.json()["id"]
        assert (await client.get("/v1/sessions")).status_code == 401
        token = (await client.post(f"/v1/sessions/{made.json()['id']}/token", headers=owner)).json()["stream_token"]
        streamed = await client.get(f"/v1/sessions/{made.json()['id']}/events?token={token}")
        assert "generation.completed" in streamed.text
