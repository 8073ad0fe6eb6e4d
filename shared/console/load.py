"""A load on a running deployment, and its account: what arrived at each reader, when, and whether it was the log."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from shared.client import (
    AsyncClient,
    AsyncSession,
    Cancelled,
    CaughtUp,
    ClientError,
    Completed,
    Failed,
    Gap,
    TextDelta,
)
from shared.client.options import Key

START = "0-0"
JOINING_S = 0.5
"""After the question: by then the readers are there."""


@dataclass(frozen=True)
class Plan:
    sessions: int
    readers: int
    """Of each session."""
    seconds: float
    rate: float
    """Tokens per second of each session."""
    patience_s: float = 60.0
    """How long a session may take beyond its time before it counts as failed."""

    @property
    def tokens(self) -> int:
        return max(int(self.seconds * self.rate), 1)


@dataclass
class Heard:
    """What one reader was given: event ids, and this machine's time in s of each."""

    ids: list[str] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    first_token: float | None = None
    gaps: int = 0
    ended: bool = False


@dataclass
class Run:
    """One session of the load."""

    asked: float = 0.0
    session: AsyncSession | None = None
    readers: list[Heard] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    """Every event id, read again once it was over."""
    error: str = ""

    @property
    def to_first_token(self) -> float | None:
        """Seconds, from the question to the first reader's first words."""
        firsts = [heard.first_token for heard in self.readers if heard.first_token is not None]
        return min(firsts) - self.asked if firsts else None


class Load:
    """Runs a plan. Its counters may be looked at meanwhile."""

    def __init__(self, plan: Plan, base: str, key: Key = None) -> None:
        """Raises ValueError for a base or a key that cannot be."""
        self.plan = plan
        self.runs = [Run() for _ in range(plan.sessions)]
        self.events = 0
        """Delivered so far, to all readers."""
        self.begun = self.over = 0
        """Sessions."""
        self.seconds = self.cpu_s = 0.0
        """Wall and processor time of this machine's side, from the first question to the last end."""
        self._client = AsyncClient(base, key=key, patience_s=10.0, follow_patience_s=20.0)

    async def run(self, look: Callable[[list[str]], Awaitable[None]], *, keep: bool = False) -> None:
        """Raises ClientError where the deployment does not answer. `look` is given the sessions once they are over;
        unless they are to be kept, they are deleted then, also where the load is cancelled."""
        async with self._client as client:
            await anext(aiter(client.sessions(limit=1)), None)
            try:
                started, cpu = time.perf_counter(), time.process_time()
                await asyncio.gather(*(self._session(client, run) for run in self.runs))
                self.seconds, self.cpu_s = time.perf_counter() - started, time.process_time() - cpu
                await asyncio.gather(*(self._account(run) for run in self.runs))
                await look([run.session.id for run in self.runs if run.session is not None])
            finally:
                if not keep:
                    await asyncio.gather(*(_forget(run) for run in self.runs))

    async def _session(self, client: AsyncClient, run: Run) -> None:
        options = {"tokens": self.plan.tokens, "rate": self.plan.rate}
        try:
            async with asyncio.timeout(self.plan.seconds + self.plan.patience_s):
                run.asked = time.time()
                run.session = await client.create(input="bench", model="demo/lorem", options=options)
                self.begun += 1
                run.readers = [Heard() for _ in range(self.plan.readers)]
                sid = run.session.id
                await asyncio.gather(*(self._read(client.session(sid), heard) for heard in run.readers))
        except TimeoutError:
            run.error = "not over in time"
        except ClientError as error:
            run.error = str(error)
        self.over += 1

    async def _read(self, session: AsyncSession, heard: Heard) -> None:
        async with aclosing(session.events(START, merge=False)) as events:
            async for event in events:
                now = time.time()
                if isinstance(event, CaughtUp) or event.id is None:
                    continue
                if isinstance(event, Gap):
                    heard.gaps += 1
                    continue
                self.events += 1
                heard.ids.append(event.id)
                heard.at.append(now)
                if heard.first_token is None and isinstance(event, TextDelta):
                    heard.first_token = now
                heard.ended = heard.ended or isinstance(event, Completed | Failed | Cancelled)

    async def _account(self, run: Run) -> None:
        """Ask for the whole log once more: that is what every reader should have been given."""
        if run.session is None or run.error:
            return
        again = Heard()
        try:
            async with asyncio.timeout(self.plan.patience_s):
                await self._again(run.session, again)
        except (TimeoutError, ClientError) as error:
            run.error = f"its log could not be read again: {error}"
        run.log = again.ids

    async def _again(self, session: AsyncSession, heard: Heard) -> None:
        async with aclosing(session.events(START, merge=False)) as events:
            async for event in events:
                if event.id is not None and not isinstance(event, Gap | CaughtUp):
                    heard.ids.append(event.id)


async def _forget(run: Run) -> None:
    if run.session is None:
        return
    try:
        await run.session.delete()
    except ClientError as error:
        run.error = run.error or f"could not be deleted: {error}"


@dataclass(frozen=True)
class Account:
    """What it came to. Times in ms; None where nothing was measured."""

    sessions: int
    readers: int
    seconds: float
    events: int
    events_per_s: float
    first_token_p50: float | None
    first_token_p95: float | None
    lag_p50: float | None
    lag_p95: float | None
    lag_max: float | None
    lag_of: str
    """`append`: since Redis took it. `readers`: since the first reader had it, where Redis cannot be asked."""
    missing: int
    doubled: int
    gaps: int
    unfinished: int
    """Readers that did not get the end."""
    errors: dict[str, int]
    cpu: float
    """Of one processor of this machine, 0 to 1: near 1 means that the bench itself was the limit."""

    @property
    def sound(self) -> bool:
        return not (self.missing or self.doubled or self.gaps or self.unfinished or self.errors)


Appended = Mapping[str, Mapping[str, float]]
"""Session → event id → when Redis took it, in s by this machine's clock."""


def account(load: Load, appended: Appended | None = None) -> Account:
    """Without `appended`, the first of a session's readers to have an event says when it could be had."""
    runs = load.runs
    firsts = sorted(1000 * run.to_first_token for run in runs if run.to_first_token is not None)
    lags = sorted(1000 * lag for run in runs for lag in _lags(run, appended))
    readers = [(run, heard) for run in runs for heard in run.readers]
    return Account(
        sessions=len(runs),
        readers=len(readers),
        seconds=load.seconds,
        events=load.events,
        events_per_s=load.events / load.seconds if load.seconds else 0.0,
        first_token_p50=_quantile(firsts, 0.5),
        first_token_p95=_quantile(firsts, 0.95),
        lag_p50=_quantile(lags, 0.5),
        lag_p95=_quantile(lags, 0.95),
        lag_max=lags[-1] if lags else None,
        lag_of="readers" if appended is None else "append",
        missing=sum(len(set(run.log) - set(heard.ids)) for run, heard in readers),
        doubled=sum(len(heard.ids) - len(set(heard.ids)) for _, heard in readers),
        gaps=sum(heard.gaps for _, heard in readers),
        unfinished=sum(not heard.ended for _, heard in readers),
        errors=dict(Counter(run.error for run in runs if run.error)),
        cpu=load.cpu_s / load.seconds if load.seconds else 0.0,
    )


def _lags(run: Run, appended: Appended | None) -> list[float]:
    """Of each event at each reader, but for what was there before the reader was."""
    heard = [pair for reader in run.readers for pair in zip(reader.ids, reader.at, strict=True)]
    if appended is not None and run.session is not None:
        taken = appended.get(run.session.id, {})
        joined = run.asked + JOINING_S
        return [max(at - taken[i], 0.0) for i, at in heard if taken.get(i, 0.0) > joined]
    if len(run.readers) < 2:
        return []
    firsts: dict[str, float] = {}
    for event_id, at in heard:
        firsts[event_id] = min(at, firsts.get(event_id, at))
    return [at - firsts[event_id] for event_id, at in heard]


def _quantile(ordered: Sequence[float], part: float) -> float | None:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else None
