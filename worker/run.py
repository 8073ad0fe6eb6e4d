"""The job: one attempt at one generation, from the claim to its terminal."""

import asyncio
from typing import Any

from shared.events import Event, EventType
from shared.ids import new_token
from shared.log import Claimed
from shared.redis import RedisError, transient
from shared.tasks import cancel, within
from shared.telemetry import bound, get_logger
from shared.tracing import here, inside
from shared.views import SessionView
from worker import attempts
from worker.clock import Clock
from worker.context import WorkerContext
from worker.ends import LOG_REFUSED, TIMED_OUT, TOO_MUCH_TOGETHER, End, cancelled, end_of
from worker.holding import Holding, Verdict
from worker.pipelines import Pipeline, Run
from worker.pipelines.remote import RemoteRuns
from worker.prepare import prepare
from worker.writer import AppendRefused, Batching, Pen, PenLost, SessionGone, Writer

_log = get_logger(__name__)

CLAIM_TRIES = 6
CLOSE_S = 5.0
"""A pipeline that is stopped must let go of its provider within this time to be called confirmed."""
RELEASE_S = 3.0
"""How long Redis is asked to take a generation back. After that its lease runs out, and a reaper finds it."""
RELEASE_PAUSE_S = 0.1
WANTED_S = 2.0
"""How long the log may take to say whether a run at a provider is still of use."""


async def run_generation(context: WorkerContext, sid: str, generation: str) -> None:
    """Claim the generation and run it to its terminal; returns at once if it is not there to be claimed.

    Ends only with: the terminal in the log, the pen lost (nothing more is written), or the generation handed back to
    the queue. Cancelled, it hands the generation back.
    """
    token = new_token()
    context.held[token] = None
    try:
        claimed, view, events = await _claim(context, sid, token, generation)
        if claimed is None or view is None:
            return
        pen = Pen(sid, generation, context.worker_id, token, claimed.epoch)
        with bound(session=sid, generation=generation, attempt=claimed.attempt):
            span, waited_s = attempts.begun(context, sid, claimed, view, events)
            with inside(span):
                await _Job(context, pen, claimed.attempt, view, events, waited_s).run()
    finally:
        if context.held.get(token) is None:  # the claim came to nothing; else the job lets go when it may
            context.held.pop(token, None)


async def _claim(
    context: WorkerContext, sid: str, token: str, generation: str
) -> tuple[Claimed | None, SessionView | None, list[Event]]:
    """Repeated with the same token after a lost reply; given up when Redis stays away (the reaper queues it again)."""
    for n in range(CLAIM_TRIES):
        try:
            claim = await context.log.claim_and_read(sid, token, generation, context.worker_id)
        except RedisError as error:
            if not transient(error):
                _log.error("claim refused", session=sid, error=str(error))
                break
            context.outage.failed(token, error)
            await asyncio.sleep(0.1 * (n + 1))
        else:
            context.outage.passed(token)
            return claim
    context.outage.left(token)
    return None, None, []


class _Job:
    """One claimed attempt: its writer, its pipeline, and what decides between them."""

    def __init__(
        self, context: WorkerContext, pen: Pen, attempt: int, view: SessionView, events: list[Event],
        waited_s: float | None,
    ) -> None:  # fmt: skip
        self.context = context
        self._waited_s = waited_s
        """How long the turn was queued; None: nobody knows."""
        self._began = asyncio.get_running_loop().time()
        self.attempt = attempt
        self.view = view
        """The session as it was claimed, with its log up to there in `events`."""
        self.events = events
        self.holding = Holding(pen.sid, pen.generation)
        self.share = context.budget.share(self.holding.exceed)
        self.writer = Writer(
            context.log, pen, _batching(context), self.holding.stop, self.holding.answer, self._hold, self.share,
            context.outage, context.counts,
        )  # fmt: skip
        self.writer.on_first = self._spoke
        self.remote = RemoteRuns.of(events, pen.generation, self.writer.event)
        self.clock = Clock(context.settings.generation_timeout_s, self.holding.expire)
        self.holding.check = self.writer.check
        self._token = pen.token
        self._hold(pen)
        if context.releasing:
            self.holding.release()
        elif context.leaving:
            self.holding.leave()

    def _hold(self, pen: Pen) -> None:
        """Held under the token of the moment: a claim that is made again has another one."""
        self.context.held.pop(self._token, None)
        self._token = pen.token
        self.context.held[pen.token] = self.holding

    def _spoke(self) -> None:
        """The first delta of a first attempt: its user has waited since the turn was queued."""
        if self._waited_s is not None:
            waited_s = self._waited_s + asyncio.get_running_loop().time() - self._began
            self.context.counts.first_token.observe(waited_s)

    def _let_go(self) -> None:
        self.context.held.pop(self._token, None)
        self.share.give_back()

    async def run(self) -> None:
        self._flushing = asyncio.create_task(self.writer.run())
        self._working = asyncio.create_task(end_of(self._work))
        try:
            await self._decide()
        except asyncio.CancelledError:
            self.remote.goes_on = True
            await cancel([self._working], CLOSE_S)
            await self._hand_back()
            raise
        finally:
            self.clock.close()
            if not await cancel([self._working, self._flushing], CLOSE_S):
                _log.error("the pipeline does not let itself be cancelled; it is left behind, and can write nothing")
            if not self.holding.over:
                self._let_go()

    async def _work(self) -> str:
        """The pipeline; gives the finish reason."""
        pipeline, run = self._prepared()
        try:
            await pipeline(run)
        finally:
            await run.aclose()
        return run.finish_reason

    def _prepared(self) -> tuple[Pipeline, Run]:
        events, self.events = self.events, []  # the transcript is made of them: they need not be kept
        return prepare(
            self.context, self.writer, self.holding, self.attempt, self.clock, self.remote, self.view, events
        )  # fmt: skip

    async def _decide(self) -> None:
        """Wait for whatever comes first: the pipeline's end, a verdict from outside, or the loss of the pen."""
        verdict = self.holding.verdict
        waits: set[asyncio.Future[Any]] = {self._flushing, self._working, verdict}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._flushing.done():
            self.remote.goes_on = await self._still_wanted()
            await cancel([self._working], CLOSE_S)
            await self._flushed()
        elif self._working.done():
            await self._finish(self._working.result())
        else:
            await self._execute(verdict.result())

    async def _execute(self, verdict: Verdict) -> None:
        """Cancelling the pipeline closes the provider's connection; a pipeline that clings to it is not confirmed."""
        self.remote.goes_on = verdict is Verdict.RELEASE
        closed = await cancel([self._working], CLOSE_S)
        match verdict:
            case Verdict.STOP:
                await self._finish(cancelled(await self._asked_by(), confirmed=closed and not self.remote.stray))
            case Verdict.TIMEOUT:
                await self._finish(TIMED_OUT)
            case Verdict.EXCESS:
                await self._finish(TOO_MUCH_TOGETHER)
            case Verdict.RELEASE:
                await self._hand_back()

    async def _asked_by(self) -> str:
        """Who asked to stop. A stop may be seen in the log before it is announced."""
        if self.holding.by:
            return self.holding.by
        pen = self.writer.pen
        try:
            return await within(WANTED_S, self.context.log.stopped_by(pen.sid, pen.generation)) or "user"
        except (RedisError, TimeoutError) as error:
            _log.info("nobody can say who asked to stop", error=str(error))
            return "user"

    async def _still_wanted(self) -> bool:
        """Whether somebody else goes on with this very generation, and so with what runs for it at a provider."""
        if not self.remote.open or not isinstance(self._flushing.exception(), PenLost):
            return False
        try:
            view = await within(WANTED_S, self.context.log.view(self.writer.pen.sid))
        except (RedisError, TimeoutError) as error:
            _log.info("left running at the provider: nobody can say that it is not wanted", error=str(error))
            return True
        return view is not None and view.live and view.generation == self.writer.pen.generation

    async def _finish(self, end: End) -> None:
        self.writer.end(end.type, end.data)
        await asyncio.wait({self._flushing})
        await self._flushed(end)

    async def _flushed(self, end: End = LOG_REFUSED) -> None:
        """The writer has ended: with the terminal it was told, or without."""
        if isinstance(refused := self._flushing.exception(), AppendRefused):
            _log.error("the log refuses what is said; the generation fails", error=str(refused))
            end = LOG_REFUSED
            self._flushing = asyncio.create_task(self.writer.end_refused(end.type, end.data))
            await asyncio.wait({self._flushing})
        if _report_loss(self._flushing):
            self._given_up("refused" if isinstance(self._flushing.exception(), AppendRefused) else "lost")
            return
        self._ended(end)
        self.holding.over = True
        self.context.spawn(self._linger())

    def _ended(self, end: End) -> None:
        outcome = end.type.removeprefix("generation.")
        code = str(end.data.get("code") or end.data.get("finish_reason") or end.data.get("by") or "")
        self.context.counts.ended[(outcome, code)] += 1
        here().set(outcome=outcome, code=code)
        if end.type == EventType.FAILED:
            here().failed(code)
        _log.info("generation over", end=str(end.type), **{k: v for k, v in end.data.items() if k == "code"})
        if self.context.settings.log_content:
            _log.debug("the model said", text=self.writer.text)

    def _given_up(self, reason: str) -> None:
        """This attempt has ended without an end of its generation."""
        self.context.counts.given_up[(reason,)] += 1
        here().set(outcome=reason)

    async def _linger(self) -> None:
        """Beside the jobs: a finished generation takes nobody's place. It is held until then: should a failover lose
        its end, nobody may think that it was forgotten."""
        try:
            await self.writer.linger(self.context.settings.linger_s)
        except (PenLost, SessionGone, AppendRefused) as over:
            _log.debug("nothing left to repeat", reason=type(over).__name__)
        else:
            self.context.compact(self.writer.pen.sid)
        finally:
            self._let_go()

    async def _hand_back(self) -> None:
        """Everything said is kept; the next attempt begins anew. Somebody may have asked to stop meanwhile."""
        settled = asyncio.create_task(self.writer.settled())
        await asyncio.wait({settled, self._flushing}, timeout=CLOSE_S, return_when=asyncio.FIRST_COMPLETED)
        await cancel([settled])
        if self._flushing.done():
            await self._flushed()
            return
        match await self._released():
            case ["QUEUED", epoch, generation]:
                await self._queue(generation, int(epoch))
                self._given_up("handed_back")
                _log.info("generation handed back")
            case ["STOP"]:
                await self._finish(cancelled(await self._asked_by(), confirmed=True))
            case outcome:
                self._given_up("lost")
                _log.warning("generation could not be handed back", outcome=outcome)

    async def _released(self) -> list[str]:
        """The outcome, or nothing where Redis stays away: then the lease runs out, and a reaper finds it."""
        try:
            return await within(RELEASE_S, self._release())
        except (RedisError, TimeoutError) as error:
            _log.error("generation left to the reaper", error=str(error))
            return []

    async def _release(self) -> list[str]:
        while True:
            try:
                return await self.context.log.release(self.writer.pen.sid, self.writer.pen.token)
            except RedisError as error:
                if not transient(error):
                    raise
                await asyncio.sleep(RELEASE_PAUSE_S)

    async def _queue(self, generation: str, epoch: int) -> None:
        try:
            await self.context.queue.enqueue(self.writer.pen.sid, generation, epoch)
        except RedisError as error:
            _log.warning("the next attempt could not be queued; a reaper will", error=str(error))


def _batching(context: WorkerContext) -> Batching:
    settings = context.settings
    return Batching(
        flush_s=settings.flush_ms / 1000,
        flush_bytes=settings.flush_bytes,
        backlog_bytes=settings.backlog_bytes,
        max_output_bytes=settings.max_output_bytes,
        max_event_bytes=settings.max_event_bytes,
    )


def _report_loss(flushing: asyncio.Task[None]) -> bool:
    """Whether the writer ended without its terminal. An error that is none of the losses is a bug, and is raised."""
    match error := flushing.exception():
        case None:
            return False
        case PenLost() | SessionGone():
            _log.warning("generation is no longer ours", reason=type(error).__name__, detail=str(error))
        case AppendRefused():
            _log.error("the log refuses even the end; the generation is left to the reaper", error=str(error))
        case _:
            raise error
    return True
