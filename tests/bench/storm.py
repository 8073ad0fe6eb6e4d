"""Readers lose their node, and all come back at once, elsewhere, with events they have not seen."""

import signal
import time
from contextlib import AsyncExitStack

from tests.bench.child import Child, cpu_seconds, sids_of
from tests.bench.crowd import open_files
from tests.bench.report import Section, percentile
from tests.bench.scale import Scale
from tests.bench.targets import Holdfast
from tests.support.ports import free_port

READERS = 1000
BEHIND = 300
ALL_GOAL_S, P95_GOAL_S = 3.0, 2.0
TIMEOUT_S = 60.0


async def run(scale: Scale) -> Section:
    readers = scale.of(READERS)
    section = Section(
        f"{readers:,} readers lose their node, {BEHIND} events behind",
        ["sessions", "median s", "p95 s", "all s", "node CPU s", "not caught up", "doubled"],
    )
    with open_files():
        for sessions in (1, readers):
            await _storm(section, sessions, readers)
    section.remarks.append(
        "From the kill of the node to the last of the events at each reader. All come back at the moment they are cut "
        "off, without the pause that an EventSource makes."
    )
    return section


async def _storm(section: Section, sessions: int, readers: int) -> None:
    sids = sids_of("storm", sessions)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(Holdfast().running(sids))
        load = await Child.start("tests.bench.load")
        stack.push_async_callback(load.stop)
        await load.ask("watch")
        requests = [target.path(sids[n % sessions]) for n in range(readers)]
        await load.ask("open", address=["127.0.0.1", target.port], requests=requests, until=target.until)
        other = await target.another(stack, free_port())
        await load.ask("resume", address=["127.0.0.1", other.port], goal=BEHIND, timeout=TIMEOUT_S)
        target.node.signal(signal.SIGSTOP)  # it still holds the connections, and says nothing more
        await target.producer.ask("write", count=BEHIND, batch=100)
        cpu, lost = cpu_seconds([other.pid]), time.monotonic()
        await target.node.kill()
        came = await load.answer()
        cpu = cpu_seconds([other.pid]) - cpu
        await load.stop()  # before the node: it would come back for ever
    _report(section, sessions, [at - lost if at else TIMEOUT_S for at in came["at"]], came["totals"], cpu)


def _report(section: Section, sessions: int, taken: list[float], totals: list[int], cpu: float) -> None:
    p95, last = percentile(taken, 95), max(taken)
    cells = [percentile(taken, 50), p95, last]
    short, extra = sum(total < BEHIND for total in totals), sum(max(0, total - BEHIND) for total in totals)
    section.rows.append([f"{sessions:,}", *(f"{value:.2f}" for value in cells), f"{cpu:.2f}", f"{short}", f"{extra}"])
    verdict = "PASS" if last <= ALL_GOAL_S and p95 <= P95_GOAL_S and not short + extra else "MISS"
    section.remarks.append(
        f"{verdict}: {sessions:,} session{'s' * (sessions > 1)}: all after {last:.2f} s, goal ≤ {ALL_GOAL_S:g}; "
        f"p95 {p95:.2f} s, goal ≤ {P95_GOAL_S:g}"
    )
