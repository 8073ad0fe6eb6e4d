"""Lua scripts: one atomic verb per file in `lua/`, each with the common prelude."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

Argument = str | bytes | int

PRELUDE = "\n-- prelude\n"
"""The line of a verb where the prelude is put; a verb without it has the prelude at its top. What comes before the line
does without the prelude, and without the time that it takes in each run."""


@cache
def source(verb: str) -> str:
    """The whole text of one verb. Raises FileNotFoundError for a verb that is not there."""
    folder = files("shared") / "lua"
    before, _, after = folder.joinpath(f"{verb}.lua").read_text().rpartition(PRELUDE)
    return before + folder.joinpath("prelude.lua").read_text() + after


@cache
def digest(verb: str) -> str:
    return hashlib.sha1(source(verb).encode(), usedforsecurity=False).hexdigest()


async def run(redis: Any, verb: str, keys: list[str], *args: Argument) -> list[Any]:
    """Run one verb and give its outcome as a list: bytes and integers, the outcome's name first.

    Works on one Redis and on a Cluster alike; a server that does not know the script (restart, failover) is told it.
    """
    try:
        reply = await redis.evalsha(digest(verb), len(keys), *keys, *args)
    except NoScriptError:
        reply = await redis.eval(source(verb), len(keys), *keys, *args)
    return list(reply)
