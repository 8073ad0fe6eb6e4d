"""The README tells the truth."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from api.commands import Commands
from api.node import ANONYMOUS, open_node
from api.schemas import CreateSession
from shared.log import Log
from shared.settings import Settings
from tests.support.inprocess import live_worker, settings
from tests.support.system import ROOT
from tests.test_worker import over, text, when

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, having: str) -> str:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return next(code for code in found if having in code)


async def test_the_agent_in_the_readme_runs_as_it_is_written(
    redis_url: str, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most twenty lines around an async generator: its steps and its text come out of the log."""
    code = block("python", '@pipeline("mine")')
    assert len(code.splitlines()) <= 20
    (tmp_path / "my_agent.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    async with (
        open_node(settings(redis_url)) as node,
        live_worker(redis_url, pipelines=("my_agent",)),
    ):
        sid, _ = await Commands(node, ANONYMOUS).create(CreateSession(input="What is kelp?", pipeline="mine"), None)
        events = await over(log, sid)
    sys.modules.pop("my_agent")
    assert text(events) == "Kelp holds fast."
    assert [event.value["text"] for event in events if event.type == "status"] == ["Looking it up…"]
    assert events[-1].type == "generation.completed"


async def test_the_table_of_keys_is_complete_and_right(redis_url: str, redis: Any, log: Log) -> None:
    """While a session runs, every key there is stands in the table, with its type."""
    rows = re.findall(r"^\| `(holdfast:[^`]*)` \| (\w+)", README, re.MULTILINE)
    kinds = {re.sub("<[^>]*>", "*", key).replace("{", "").replace("}", ""): kind for key, kind in rows}
    async with open_node(settings(redis_url)) as node, live_worker(redis_url):
        body = CreateSession(input="hi", options={"tokens": 2000, "rate": 50})
        sid, _ = await Commands(node, ANONYMOUS).create(body, None)
        await when(log, sid, lambda view: view.last.seq > 2)
        await Commands(node, ANONYMOUS).create(CreateSession(input="waits"), None)
        keys = [key.decode() for key in await redis.keys("holdfast:*")]
        names = {"stream": "stream", "hash": "hash", "zset": "sorted", "string": "string", "list": "list"}
        for key in keys:
            plain = key.replace("{", "").replace("}", "")
            kind = next((kind for form, kind in kinds.items() if _fits(plain, form)), None)
            assert kind == names[(await redis.type(key)).decode()], key


def _fits(key: str, form: str) -> bool:
    return re.fullmatch(re.escape(form).replace(r"\*", "[^:]+"), key) is not None


def test_the_settings_named_exist() -> None:
    """Each HOLDFAST_… variable in the README is a setting."""
    named = set(re.findall(r"HOLDFAST_([A-Z_]+[A-Z])", README))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_commands_named_exist() -> None:
    """Each `make …` in the README is a target."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
