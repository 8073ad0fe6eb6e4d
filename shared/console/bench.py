"""`holdfast bench`: how a deployment that runs takes a load."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from shared.client import ClientError
from shared.console import render
from shared.console.checks.clock import skew_ms
from shared.console.desk import CONNECTIONS, TIMEOUT_S, fail, finish, redis_url
from shared.console.load import Account, Appended, Load, Plan, account
from shared.console.options import Exit, Json, Redis
from shared.console.signs import sign
from shared.log import Log, Retention
from shared.redis import RedisError, connect

TICK_S = 0.1
BUSY = 0.85
"""Of a processor: beyond that, this machine may be what was measured."""


def bench(
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="A node, or the load balancer.")
    ] = "http://127.0.0.1:8000",
    sessions: Annotated[int, typer.Option("--sessions", "-n", metavar="N", min=1, max=5000, help="At once.")] = 20,
    readers: Annotated[int, typer.Option("--readers", "-m", metavar="N", min=1, max=1000, help="Of each session.")] = 5,
    seconds: Annotated[
        float, typer.Option("--seconds", "-s", metavar="SECONDS", min=0.1, max=3600, help="Length of an answer.")
    ] = 10.0,
    rate: Annotated[
        float, typer.Option(metavar="N", min=0.1, max=1000, help="Tokens per second of each session.")
    ] = 20.0,
    patience: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How late a session may end.")] = 60.0,
    key: Annotated[str, typer.Option(metavar="KEY", help="An API key or a JWT; @FILE reads it from there.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sessions in Redis.")] = False,
    redis: Redis = "",
    as_json: Json = False,
) -> None:
    """A quick load on a running deployment: does every reader get everything once, and how soon?

    The model is demo/lorem: no provider is asked. Where Redis can be asked too, lag is counted from the append.

    Ends with 1 if an event was missing or came twice, or a session failed.
    """
    plan = Plan(sessions, readers, seconds, rate, patience)

    async def work() -> int:
        try:
            load = Load(plan, url, _key(key))
        except ValueError as error:
            return fail(str(error), Exit.USAGE)
        ledger = Ledger(redis_url(redis))
        try:
            await _shown(load, ledger, keep, quiet=as_json)
        except ClientError as error:
            return fail(f"{url}: {error}", Exit.AWAY)
        result = account(load, ledger.appended)
        if as_json:
            render.say_json({"url": url, "plan": asdict(plan), **asdict(result), "sound": result.sound})
        else:
            _print(render.console(), result)
        return Exit.OK if result.sound else Exit.FOUND

    finish(work)


def _key(given: str) -> str | None:
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_text().strip()
        except OSError as error:
            raise typer.BadParameter(f"--key: {error}") from None
    return given or None


class Ledger:
    """What Redis says of when it took each event: where it can be asked, and is the Redis of this deployment."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.appended: Appended | None = None

    async def look(self, sids: list[str]) -> None:
        redis = connect(self._url, connections=CONNECTIONS, timeout_s=TIMEOUT_S)
        try:
            self.appended = await self._read(redis, sids)
        except RedisError:  # not for us to reach: the readers are compared with each other then
            self.appended = None
        finally:
            await redis.aclose(close_connection_pool=True)

    async def _read(self, redis: Any, sids: list[str]) -> Appended | None:
        log = Log(redis, Retention(0, 0))
        ahead_ms, _ = await skew_ms(redis)
        found: dict[str, Mapping[str, float]] = {}
        for sid in sids:
            events = await log.events(sid)
            if not events:
                return None
            found[sid] = {str(event.id): (event.at - ahead_ms) / 1000 for event in events}
        return found


async def _shown(load: Load, ledger: Ledger, keep: bool, *, quiet: bool) -> None:
    """Run the load, with bars on stderr, so that stdout has the result alone."""
    running = asyncio.create_task(load.run(ledger.look, keep=keep))
    try:
        with _progress(quiet) as progress:
            bars = _Bars(progress, load.plan)
            while not running.done():
                bars.update(load)
                await asyncio.wait({running}, timeout=TICK_S)
            bars.update(load)
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _progress(quiet: bool) -> Progress:
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[said]:>20}"),
        TimeElapsedColumn(),
    )
    out = render.console(errors=True)
    out.width -= len("^C")  # which a terminal shows behind the bars, and which must not break their line
    return Progress(*columns, console=out, transient=True, disable=quiet or not out.is_terminal, expand=True)


class _Bars:
    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        self._begun = time.perf_counter()
        self._sessions = progress.add_task("sessions", total=plan.sessions, said="")
        self._events = progress.add_task("time", total=plan.seconds, said="")
        self._last = (self._begun, 0)

    def update(self, load: Load) -> None:
        now = time.perf_counter()
        before, events = self._last
        per_s = (load.events - events) / (now - before) if now > before else 0.0
        self._last = (now, load.events)
        self._progress.update(self._sessions, completed=load.over, said=f"{load.begun} begun, {load.over} over")
        passed = min(now - self._begun, load.plan.seconds)
        self._progress.update(self._events, completed=passed, said=f"{per_s:,.0f} events/s")


def _print(out: Console, result: Account) -> None:
    lag = "append → reader" if result.lag_of == "append" else "first → other readers"
    out.print(
        render.pairs(
            [
                ("load", Text(f"{result.sessions:,} sessions, {result.readers:,} readers, {result.seconds:.1f} s")),
                ("delivered", Text(f"{result.events:,} events, {result.events_per_s:,.0f} per second")),
                ("first token", _quantiles(result.first_token_p50, result.first_token_p95)),
                (lag, _quantiles(result.lag_p50, result.lag_p95, result.lag_max)),
                ("missing", _none_is_good(result.missing)),
                ("doubled", _none_is_good(result.doubled)),
                ("gaps", _none_is_good(result.gaps)),
                ("unfinished", _none_is_good(result.unfinished)),
                *((f"{number} failed", render.text(error, "red")) for error, number in result.errors.items()),
            ]
        )
    )
    out.print()
    if result.sound:
        out.print(Text.assemble(sign("ok"), " every reader got every event once"))
    else:
        out.print(Text.assemble(sign("bad"), " not every reader got every event once: `holdfast doctor` may say why"))
    if result.cpu > BUSY:
        words = f" this machine's processor was {result.cpu:.0%} busy with reading: it may be what was measured"
        out.print(Text.assemble(sign("warn"), words))


def _quantiles(p50: float | None, p95: float | None, most: float | None = None) -> Text:
    if p50 is None or p95 is None:
        return Text("not measured", style="dim")
    words = f"p50 {render.span(p50)}, p95 {render.span(p95)}"
    return Text(words if most is None else f"{words}, at most {render.span(most)}")


def _none_is_good(number: int) -> Text:
    return Text(f"{number:,}", style="bold red" if number else "green")
