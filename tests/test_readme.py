"""README.md's names are right, and each of its blocks, tables and commands is run by a test."""

import functools
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from api import schemas
from api.commands import Commands
from api.main import create_app
from api.node import ANONYMOUS, open_node
from api.schemas import CreateSession
from shared.events import EventType
from shared.log import Log
from shared.settings import Settings
from tests.support.inprocess import live_worker, settings
from tests.support.readme import README, Row, block, command, table, untaken
from tests.support.system import ROOT
from tests.test_worker import when
from worker.providers.errors import Code

KEYS = table("key", "type")
CALLS = table("call", "meaning")
PROTOCOLS = table("protocol", "create")
PROSE = " ".join(README.split())
WITH_TRACES = command("'.[otel]'")
MAKE = {command("make run"), *block("sh", "make test").splitlines(), block("sh", "make run").strip()}
BODIES: dict[str, type[BaseModel]] = {
    "POST /v1/sessions": schemas.CreateSession,
    "POST /v1/sessions/{id}/messages": schemas.NextMessage,
    "POST /v1/sessions/{id}/answer": schemas.AnswerRequest,
}


async def test_the_table_of_keys_is_complete_and_right(redis_url: str, redis: Any, log: Log) -> None:
    """While one session runs and one waits for a worker, every key stands in the table with its type, and no other."""
    kinds = {_plain(re.sub("<[^>]*>", "*", row.code[0])): row.cells[1].split()[0].rstrip(",") for row in KEYS}
    async with open_node(settings(redis_url)) as node, live_worker(redis_url, worker_jobs=1):
        body = CreateSession(input="hi", options={"tokens": 2000, "rate": 50})
        sid, _ = await Commands(node, ANONYMOUS).create(body, None)
        await when(log, sid, lambda view: view.last.seq > 2)
        await Commands(node, ANONYMOUS).create(CreateSession(input="waits"), None)
        types = {key.decode(): (await redis.type(key)).decode() for key in await redis.keys("holdfast:*")}
    found = {}
    for key, type_ in types.items():
        (form,) = [form for form in kinds if _fits(_plain(key), form)]
        found[form] = "sorted" if type_ == "zset" else type_
    assert found == {form: kind for form, kind in kinds.items() if kind != "channel"}


def _plain(key: str) -> str:
    return key.replace("{", "").replace("}", "")


def _fits(key: str, form: str) -> bool:
    return re.fullmatch(re.escape(form).replace(r"\*", "[^:]+"), key) is not None


@pytest.mark.parametrize("readme", ["README.md", "deploy/README.md"])
def test_the_settings_named_exist(readme: str) -> None:
    """Each HOLDFAST_… variable is a setting."""
    named = set(re.findall(r"HOLDFAST_([A-Z_]+[A-Z])", (ROOT / readme).read_text(encoding="utf-8")))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("line", sorted(MAKE))
def test_the_targets_named_exist(line: str) -> None:
    """Each `make …` is a target."""
    (target,) = re.findall(r"^make ([a-z]+)", line)
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_what_is_installed_is_there() -> None:
    """The extra has a name, and the packages that are imported are in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert re.findall(r"\[(\w+)\]", WITH_TRACES)[0] in project["project"]["optional-dependencies"]
    assert set(re.findall(r"^from (\w+)\.", README, re.MULTILINE)) <= set(
        project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )


def test_the_files_named_exist() -> None:
    """Those that are linked, and those in backticks."""
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    told = re.findall(r"`((?:api|deploy|shared|tests|worker|\.ci)/[\w./-]*)`", README)
    assert linked
    assert told
    assert [path for path in linked + told if not (ROOT / path).exists()] == []


def test_the_names_of_events_are_all_of_them() -> None:
    """In the sentence that lists them."""
    (told,) = re.findall(r"The names: ([^:]*?)\. Ignore", PROSE)
    assert set(re.findall("`([^`]+)`", told)) == {kind.value for kind in EventType}


def test_the_reasons_of_failures_are_all_of_them() -> None:
    """The provider's are those of its code; ours stand in the code where they are said."""
    theirs, ours = re.findall(r"says why: (.*?) \(of the provider\); (.*?) \(of ours\)", PROSE)[0]
    assert set(re.findall("`([^`]+)`", theirs)) == {code.value for code in Code}
    code = "".join(
        file.read_text(encoding="utf-8") for part in ("shared", "worker") for file in (ROOT / part).rglob("*.py")
    )
    for name in re.findall("`([^`]+)`", ours):
        assert f'"{name}"' in code, name


@pytest.mark.parametrize("row", [row for row in CALLS if "`{" in row.cells[1]], ids=lambda row: row.code[0])
def test_the_bodies_have_these_fields(row: Row) -> None:
    """All that the table names, and those with `?` can be left out."""
    (told,) = re.findall(r"`\{([^}]*)\}`", row.cells[1])
    fields = BODIES[row.code[0]].model_fields
    for name, optional in re.findall(r"(\w+)(\??)", told):
        assert name in fields
        assert not optional or not fields[name].is_required()


@functools.cache
def _paths() -> list[str]:
    return [path.rstrip("/") for path in create_app(Settings()).openapi()["paths"]]


@pytest.mark.parametrize("row", PROTOCOLS, ids=lambda row: row.cells[0])
def test_each_protocol_is_served_where_the_table_says(row: Row) -> None:
    """What begins with a slash in the first column is how a path begins, elsewhere how one ends."""
    paths = _paths()
    sockets = {"/api/chat/ws"}
    firsts = [told for told in row.code if told.startswith("/")]
    assert all(any(path.startswith(told) for path in [*paths, *sockets]) for told in firsts), firsts
    others = [told for cell in row.cells[1:] for told in re.findall("`(/[^`]+)`", cell)]
    assert all(any(path.endswith(told) for path in paths) for told in others), others


def test_each_block_table_and_command_is_run_by_a_test() -> None:
    """Whoever adds one adds a test that takes it from the README."""
    for file in Path(__file__).parent.glob("test_*.py"):
        if "tests.support.readme import" in file.read_text(encoding="utf-8"):
            importlib.import_module(f"tests.{file.stem}")
    assert untaken() == set()
