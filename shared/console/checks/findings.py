"""What a check is given, and what it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shared.settings import Settings


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, and may not go on working."""
    BAD = "bad"
    """A promise is broken, or will be."""


@dataclass(frozen=True)
class Finding:
    check: str
    level: Level
    text: str
    remedy: str = ""
    """What to do about it; meaningful unless it is OK."""


@dataclass(frozen=True)
class Subject:
    """A deployment, as this machine is told to reach it."""

    url: str
    queue_url: str
    redis: Any
    """Takes commands, of a single server or a Cluster."""
    servers: Sequence[Any]
    """A client for each server with keys; empty while none answers."""
    queue: Any
    """A client of the queue's Redis."""
    settings: Settings | None
    """None: they are wrong, which `wrong` says."""
    wrong: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def warn(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Level.WARN, text, remedy)


def bad(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Level.BAD, text, remedy)


async def infos(subject: Subject, *parts: str) -> list[tuple[str, dict[str, Any]]]:
    """What each server says of itself, and what to put before a finding about it: nothing where there is one alone."""
    said = []
    for client in subject.servers:
        info: dict[str, Any] = {}
        for part in parts:
            info.update(await client.info(part))
        where = f"port {info.get('tcp_port', '?')}: " if len(subject.servers) > 1 else ""
        said.append((where, info))
    return said
