"""`holdfast stop`: end a generation, as the API does."""

import asyncio
import signal
import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from shared.console import render
from shared.console.desk import Desk, at_desk, fail, legible
from shared.console.options import Exit, Json, Redis, Sid
from shared.console.signs import sign
from shared.errors import NotTheGeneration, SessionNotFound
from shared.events import encode
from shared.log import Stopped
from shared.views import SessionView

BY = "operator"
LOOK_S = 0.1


def stop(
    sid: Sid,
    redis: Redis = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the end.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Stop the generation that runs; what was said stays. A session that is over is left as it is.

    One that was queued ends at once, and its log expires after HOLDFAST_RETENTION_S: set it here as on the nodes.
    """

    async def work(desk: Desk) -> int:
        view = await _view(desk, sid)
        if view.live and not yes:
            if as_json or not sys.stdin.isatty():
                return fail("nobody can be asked here: say --yes", Exit.USAGE)
            if not _agreed(sid, view):
                desk.out.print("Left alone.")
                return Exit.OK
        outcome = await _stop(desk, sid, view.generation)
        now = await _over(desk, sid, outcome, wait) if outcome.outcome == "stopping" else await _view(desk, sid)
        _tell(desk, sid, outcome, now, as_json)
        return Exit.OK

    at_desk(redis, work, retention=True)


async def _view(desk: Desk, sid: str) -> SessionView:
    with legible():
        view = await desk.log.view(sid)
    if view is None:
        raise SessionNotFound(sid)
    return view


def _agreed(sid: str, view: SessionView) -> bool:
    """Nothing else goes on here meanwhile, so the event loop may wait with us; but Ctrl-C must not wait for it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(f"Stop {view.generation} of {sid}, which is {view.state}?")
    except typer.Abort:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


async def _stop(desk: Desk, sid: str, generation: str) -> Stopped:
    """The generation that was seen, and no later one."""
    try:
        outcome = await desk.log.stop(sid, BY, generation)
    except NotTheGeneration:
        return Stopped("done", generation)
    if outcome.outcome == "stopping":
        message = {"session": sid, "do": "stop", "generation": generation, "by": BY}
        await desk.directory.tell(outcome.worker, encode(message).decode())
    return outcome


async def _over(desk: Desk, sid: str, outcome: Stopped, wait_s: float) -> SessionView:
    """The session once its generation is over, or as it is after `wait_s`."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        view = await _view(desk, sid)
        if not view.live or view.generation != outcome.generation or asyncio.get_running_loop().time() > deadline:
            return view
        await asyncio.sleep(LOOK_S)


def _tell(desk: Desk, sid: str, outcome: Stopped, view: SessionView, as_json: bool) -> None:
    still = outcome.outcome == "stopping" and view.live and view.generation == outcome.generation
    if as_json:
        said: dict[str, Any] = {
            "id": sid,
            "generation": outcome.generation,
            "outcome": "stopping" if still else outcome.outcome if outcome.outcome != "stopping" else "stopped",
            "state": view.state,
            "worker": outcome.worker or None,
        }
        render.say_json(said)
        return
    desk.out.print(Text.assemble(sign("warn" if still else "ok"), " ", _words(outcome, view, still)), overflow="fold")


def _words(outcome: Stopped, view: SessionView, still: bool) -> str:
    turn = outcome.generation
    if still:
        return (
            f"{turn} was told to stop, and has not ended yet: worker {outcome.worker} ends it with its next heartbeat, "
            "or another one after takeover"
        )
    match outcome.outcome:
        case "stopping":
            return f"{turn} was running and is {view.state} now; what it said stays"
        case "cancelled":
            return f"{turn} was queued and is cancelled now"
    return f"nothing to stop: {turn} was over ({outcome.state if view.generation == turn else 'a later turn began'})"
