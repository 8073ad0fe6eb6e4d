"""The job: one attempt at one generation, from the claim to its terminal."""

import asyncio
from typing import Any

from shared.events import Event
from shared.ids import new_token
from shared.log import Claimed
from shared.redis import RedisError
from shared.tasks import cancel
from shared.telemetry import bound, get_logger
from shared.views import SessionView
from worker.context import WorkerContext
from worker.ends import End, cancelled, end_of
from worker.holding import Holding, Verdict
from worker.pipelines import Pipeline, Run
from worker.prepare import prepare
from worker.writer import Batching, Pen, PenLost, SessionGone, Writer

_log = get_logger(__name__)

CLAIM_TRIES = 6
CLOSE_S = 5.0
"""A pipeline that is stopped must let go of its provider within this time to be called confirmed."""


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
            await _Job(context, pen, claimed.attempt, view, events).run()
    finally:
        if context.held.get(token) is None:  # the claim came to nothing; else the job lets go when it may
            context.held.pop(token, None)


async def _claim(
    context: WorkerContext, sid: str, token: str, generation: str
) -> tuple[Claimed | None, SessionView | None, list[Event]]:
    """Repeated with the same token after a lost reply; given up when Redis stays away (the reaper queues it again)."""
    for n in range(CLAIM_TRIES):
        try:
            return await context.log.claim_and_read(sid, token, generation, context.worker_id)
        except RedisError as error:
            _log.warning("claim failed", session=sid, error=str(error))
            await asyncio.sleep(0.1 * (n + 1))
    return None, None, []


class _Job:
    """One claimed attempt: its writer, its pipeline, and what decides between them."""

    def __init__(self, context: WorkerContext, pen: Pen, attempt: int, view: SessionView, events: list[Event]) -> None:
        self.context = context
        self.attempt = attempt
        self.view = view
        """The session as it was claimed, with its log up to there in `events`."""
        self.events = events
        self.holding = Holding(pen.sid, pen.generation)
        self.writer = Writer(context.log, pen, _batching(context), self.holding.stop, self.holding.answer, self._hold)
        self.holding.check = self.writer.check
        self._token = pen.token
        self._hold(pen)
        if context.releasing:
            self.holding.release()

    def _hold(self, pen: Pen) -> None:
        """Held under the token of the moment: a claim that is made again has another one."""
        self._let_go()
        self._token = pen.token
        self.context.held[pen.token] = self.holding

    def _let_go(self) -> None:
        self.context.held.pop(self._token, None)

    async def run(self) -> None:
        flushing = asyncio.create_task(self.writer.run())
        working = asyncio.create_task(end_of(self._work))
        try:
            await self._decide(flushing, working)
        except asyncio.CancelledError:
            await cancel([working], CLOSE_S)
            await self._hand_back(flushing)
            raise
        finally:
            if not await cancel([working, flushing], CLOSE_S):
                _log.error("the pipeline does not let itself be cancelled; it is left behind, and can write nothing")
            if not self.holding.over:
                self._let_go()

    async def _work(self) -> str:
        """The pipeline, within its time; gives the finish reason."""
        async with asyncio.timeout(self.context.settings.generation_timeout_s) as clock:
            pipeline, run = self._prepared(clock)
            try:
                await pipeline(run)
            finally:
                await run.aclose()
            return run.finish_reason

    def _prepared(self, clock: asyncio.Timeout) -> tuple[Pipeline, Run]:
        events, self.events = self.events, []  # the transcript is made of them: they need not be kept
        return prepare(self.context, self.writer, self.holding, self.attempt, clock, self.view, events)

    async def _decide(self, flushing: asyncio.Task[None], working: asyncio.Task[End]) -> None:
        """Wait for whatever comes first: the pipeline's end, a verdict from outside, or the loss of the pen."""
        verdict = self.holding.verdict
        waits: set[asyncio.Future[Any]] = {flushing, working, verdict}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if flushing.done():
            await cancel([working], CLOSE_S)
            _report_loss(flushing)
        elif working.done():
            await self._finish(flushing, working.result())
        elif verdict.result() is Verdict.STOP:
            await self._finish(flushing, await self._stop(working))
        else:
            await cancel([working], CLOSE_S)
            await self._hand_back(flushing)

    async def _stop(self, working: asyncio.Task[End]) -> End:
        """Cancelling the pipeline closes the provider's connection; a pipeline that clings to it is not confirmed."""
        return cancelled(self.holding.by, confirmed=await cancel([working], CLOSE_S))

    async def _finish(self, flushing: asyncio.Task[None], end: End) -> None:
        self.writer.end(end.type, end.data)
        await asyncio.wait({flushing})
        if _report_loss(flushing):
            return
        _log.info("generation over", end=str(end.type), **{k: v for k, v in end.data.items() if k == "code"})
        self.holding.over = True
        self.context.spawn(self._linger())

    async def _linger(self) -> None:
        """Beside the jobs: a finished generation takes nobody's place. It is held until then: should a failover lose
        its end, nobody may think that it was forgotten."""
        try:
            await self.writer.linger(self.context.settings.linger_s)
        except (PenLost, SessionGone) as over:
            _log.debug("nothing left to repeat", reason=type(over).__name__)
        finally:
            self._let_go()

    async def _hand_back(self, flushing: asyncio.Task[None]) -> None:
        """Everything said is kept; the next attempt begins anew. Somebody may have asked to stop meanwhile."""
        settled = asyncio.create_task(self.writer.settled())
        await asyncio.wait({settled, flushing}, timeout=CLOSE_S, return_when=asyncio.FIRST_COMPLETED)
        await cancel([settled])
        if flushing.done():
            _report_loss(flushing)
            return
        pen = self.writer.pen
        match await self.context.log.release(pen.sid, pen.token):
            case ["QUEUED", epoch, generation]:
                await self.context.queue.enqueue(pen.sid, generation, int(epoch))
                _log.info("generation handed back")
            case ["STOP"]:
                await self._finish(flushing, cancelled(self.holding.by, confirmed=True))
            case outcome:
                _log.info("generation was not ours to hand back", outcome=outcome)


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
    """Whether the writer ended without its terminal. An error that is neither loss is a bug, and is raised."""
    error = flushing.exception()
    if error is None:
        return False
    if not isinstance(error, PenLost | SessionGone):
        raise error
    _log.warning("generation is no longer ours", reason=type(error).__name__, detail=str(error))
    return True
