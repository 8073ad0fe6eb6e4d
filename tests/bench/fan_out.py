"""Fan-out, many and saturation, side by side with what people run instead; and the same under another server."""

import math
import statistics
from collections.abc import Mapping, Sequence

from tests.bench.delivery import Run, Shape, measure
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.bench.targets import PEERS, FastApi, Floor, Granian, Holdfast, Nchan, Resumable, Target

FAN_OUT = Shape(sessions=1, readers=500, rate=20)
MANY = Shape(sessions=500, readers=1, rate=20)
SATURATION = Shape(sessions=1, readers=500, rate=200)
Goals = Mapping[type[Target], float]
"""The most of that peer's CPU per event that Holdfast's node may take."""
FAN_OUT_GOALS: Goals = {Nchan: 1.1, Resumable: 0.3, FastApi: 0.17}
MANY_GOALS: Goals = {Nchan: 0.5}
SATURATION_GOAL = 90_000
"""Events per second, on one core."""
HEAD = [
    "server", "node µs/event", "Holdfast is ×", "events/s", "node, % of a core", "Redis µs/event", "producer µs/event",
    "p50 ms", "p99 ms", "missing", "doubled", "out of order",
]  # fmt: skip


async def fan_out(scale: Scale) -> Section:
    return await _compare("Fan-out", FAN_OUT, scale, PEERS, FAN_OUT_GOALS)


async def many(scale: Scale) -> Section:
    return await _compare("Many", MANY, scale, PEERS, MANY_GOALS)


async def saturation(scale: Scale) -> Section:
    shape = SATURATION.scaled(scale)
    runs, absent = await measure(PEERS, shape, scale)
    section = section_of("Saturation", shape, runs, absent, {})
    own = runs[Holdfast]
    lost = own.missing + own.extra + own.broken
    verdict = "PASS" if own.median("per_s") >= SATURATION_GOAL and not lost else "MISS"
    section.remarks.insert(
        0,
        f"{verdict}: {own.median('per_s'):,.0f} events/s delivered by one core, {lost} lost, doubled or out of order; "
        f"goal ≥ {SATURATION_GOAL:,} and 0",
    )
    section.remarks += [
        f"{kind.name}: {runs[kind].median('per_s') / runs[kind].median('node_share'):,.0f} events/s of a whole core"
        for kind in (Holdfast, Floor)
        if kind in runs
    ]
    section.remarks.append(
        f"Said are {shape.rate * shape.readers:,.0f} events/s; what a server is behind after the window is waited for."
    )
    return section


async def servers(scale: Scale) -> list[Section]:
    """The same node under uvicorn and under granian."""
    kinds = (Holdfast, Granian)
    return [await _compare(f"uvicorn and granian: {name}", shape, scale, kinds, {}) for name, shape in
            (("fan-out", FAN_OUT), ("many", MANY))]  # fmt: skip


async def _compare(title: str, shape: Shape, scale: Scale, kinds: Sequence[type[Target]], goals: Goals) -> Section:
    scaled = shape.scaled(scale)
    runs, absent = await measure(kinds, scaled, scale)
    return section_of(title, scaled, runs, absent, goals)


def section_of(
    title: str, shape: Shape, runs: Mapping[type[Target], Run], absent: Mapping[str, str], goals: Goals
) -> Section:
    section = Section(f"{title}: {shape}", HEAD)
    own = runs[Holdfast]
    for run in runs.values():
        section.rows.append(_row(run, own))
    for name, why in absent.items():
        section.rows.append([name, why, *[""] * (len(HEAD) - 2)])
    for kind, goal in goals.items():
        section.remarks.append(_verdict(kind, goal, runs, own))
    section.remarks += _checks(runs)
    return section


def ratio(own: Run, other: Run) -> float:
    """Of CPU per event; the median over the rounds, each of which measured both. NaN where none was long enough."""
    pairs = zip(own.windows, other.windows, strict=True)
    ratios = [a.node_us / b.node_us for a, b in pairs if b.node_us]
    return statistics.median(ratios) if ratios else math.nan


def _row(run: Run, own: Run) -> list[str]:
    return [
        run.target.name, f"{run.median('node_us'):.1f}", f"{ratio(own, run):.2f}", f"{run.median('per_s'):,.0f}",
        f"{run.median('node_share') * 100:.0f}", f"{run.median('redis_us'):.1f}", f"{run.median('producer_us'):.1f}",
        f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}", f"{run.missing}", f"{run.extra}", f"{run.broken}",
    ]  # fmt: skip


def _verdict(kind: type[Target], goal: float, runs: Mapping[type[Target], Run], own: Run) -> str:
    if kind not in runs:
        return f"NOT MEASURED: {kind.name}, goal ≤ {goal:g} ×"
    found = ratio(own, runs[kind])
    return f"{'PASS' if found <= goal else 'MISS'}: {found:.2f} × {kind.name}, goal ≤ {goal:g} ×"


def _checks(runs: Mapping[type[Target], Run]) -> list[str]:
    rounds = len(next(iter(runs.values())).windows)
    load = max(window.load_share for run in runs.values() for window in run.windows)
    late = max(window.late_ms for run in runs.values() for window in run.windows)
    checks = [
        f"Medians of {rounds} rounds, the servers in turn within each; the ratio is the median of the rounds' ratios.",
        f"The load generator took {load * 100:.0f} % of a core at most.",
        f"The producer was late by {late:.0f} ms at worst.",
    ]
    if Floor in runs:
        floor = runs[Floor]
        checks.append(f"The floor, read by the same load generator: {floor.median('node_us'):.1f} µs/event.")
    return checks
