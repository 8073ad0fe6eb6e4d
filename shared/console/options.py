"""What all commands for people on call have in common: their options, and the statuses they end with."""

import re
from enum import IntEnum
from typing import Annotated

import typer


class Exit(IntEnum):
    OK = 0
    FOUND = 1
    """Something is wrong with the deployment: a check failed, events were lost."""
    USAGE = 2
    AWAY = 3
    """Redis, or the node, does not answer, or refuses."""
    NO_SESSION = 4
    BUG = 70
    """Of Holdfast itself."""


STATUSES = (
    "Ends with 0: fine; 1: something is wrong (doctor, bench); 2: wrong usage or setting; "
    "3: Redis or the node is away, or refuses; 4: no such session; 70: a bug of Holdfast; 130: Ctrl-C."
)

Redis = Annotated[
    str,
    typer.Option(
        "--redis",
        metavar="URL",
        show_default=False,
        help="The Redis to look at. Else HOLDFAST_REDIS_URL, that of `holdfast dev` in this folder, localhost:6379.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of words for people.")]
Sid = Annotated[str, typer.Argument(metavar="SID", help="The session's id.")]

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """`90`, `90s`, `5m`, `2h`, `1d` in ms. Raises typer.BadParameter."""
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; such are 30s, 5m, 2h, 1d")
    return int(float(found[1]) * _UNITS_MS[found[2] or "s"])
