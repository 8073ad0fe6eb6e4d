"""`holdfast doctor`: what is wrong with a deployment, and how to mend it."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.console import render
from shared.console.checks import examine
from shared.console.checks.findings import Finding, Level, Subject
from shared.console.desk import CONNECTIONS, TIMEOUT_S, finish, redis_url
from shared.console.options import Exit, Json, Redis
from shared.console.search import servers
from shared.console.signs import sign
from shared.errors import ConfigurationError
from shared.redis import RedisError, connect, is_cluster
from shared.settings import Settings
from shared.topology.url import parse


def doctor(redis: Redis = "", as_json: Json = False) -> None:
    """Everything that may be wrong with Redis, the queue, workers, sessions and settings, and how to mend it.

    Ask with the environment of a node or worker: as its user, with its settings.

    To try what that user may do it writes keys of its own, which expire. Ends with 1 if anything is ✗.
    """

    async def work() -> int:
        async with subject_of(url) as subject:
            findings = await examine(subject)
        out = render.console()
        if as_json:
            render.say_json(document(findings))
        else:
            _print(out, findings)
        return Exit.FOUND if any(finding.level is Level.BAD for finding in findings) else Exit.OK

    url = redis_url(redis)
    finish(work, url)


@contextlib.asynccontextmanager
async def subject_of(url: str) -> AsyncIterator[Subject]:
    """Raises ConfigurationError for a URL that is none."""
    parse(url)
    queue_url = os.environ.get("HOLDFAST_QUEUE_URL", "") or ("" if is_cluster(url) else url)
    settings, wrong = _settings(url)
    redis = connect(url, connections=CONNECTIONS, timeout_s=TIMEOUT_S)
    queue = redis if queue_url == url or not queue_url else connect(queue_url, connections=1, timeout_s=TIMEOUT_S)
    try:
        try:
            found = list(await servers(redis))
        except RedisError:  # of a Cluster that is away: `examine` says so
            found = []
        yield Subject(url, queue_url, redis, found, queue, settings, wrong)
    finally:
        await asyncio.gather(*(client.aclose(close_connection_pool=True) for client in {redis, queue}))


def _settings(url: str) -> tuple[Settings | None, str]:
    """Those of the environment, with the Redis that is looked at; else what is wrong with them."""
    kept = os.environ.get("HOLDFAST_REDIS_URL")
    os.environ["HOLDFAST_REDIS_URL"] = url
    try:
        return Settings.load(), ""
    except ConfigurationError as error:
        return None, error.message
    finally:
        if kept is None:
            del os.environ["HOLDFAST_REDIS_URL"]
        else:
            os.environ["HOLDFAST_REDIS_URL"] = kept


def document(findings: Sequence[Finding]) -> dict[str, object]:
    levels = [finding.level for finding in findings]
    worst = next((level for level in (Level.BAD, Level.WARN) if level in levels), Level.OK)
    items = [{"check": f.check, "level": f.level, "text": f.text, "remedy": f.remedy or None} for f in findings]
    return {"level": worst, "findings": items}


def _print(out: Console, findings: Sequence[Finding]) -> None:
    grid = Table.grid(padding=(0, render.GAP, 0, 0), pad_edge=False)
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        words = render.text(render.one_line(finding.text))
        if finding.remedy:
            words.append(f"\n→ {render.harmless(finding.remedy)}", style="cyan")
        grid.add_row(sign(finding.level), Text(finding.check, style="bold"), words)
    out.print(grid)
    out.print()
    out.print(_verdict(Counter(finding.level for finding in findings)))


def _verdict(levels: Counter[Level]) -> Text:
    if levels[Level.BAD]:
        return Text(
            f"{render.count(levels[Level.BAD], 'thing')} to mend, {render.count(levels[Level.WARN], 'warning')}.",
            style="bold red",
        )
    if levels[Level.WARN]:
        return Text(f"It works; {render.count(levels[Level.WARN], 'warning')}.", style="yellow")
    return Text("All is well.", style="green")
