"""The job: one attempt at one generation, from the claim to its terminal."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from shared.errors import HoldfastError
from shared.events import Event, EventType
from shared.ids import new_token
from shared.log import Claimed
from shared.redis import RedisError
from shared.tasks import cancel
from shared.telemetry import bound, get_logger
from shared.transcript import fold
from shared.views import SessionView
from worker.context import WorkerContext
from worker.holding import Holding, Verdict
from worker.pipelines import Run, lookup
from worker.pipelines.answering import TooManyRounds
from worker.pipelines.questions import Earlier, QuestionExpired, Questions
from worker.pipelines.run import Limits
from worker.providers.base import ProviderError
from worker.writer import Batching, OutputLimit, Pen, PenLost, SessionGone, Writer

_log = get_logger(__name__)

CLAIM_TRIES = 6
CLOSE_S = 5.0
"""A pipeline that is stopped must let go of its provider within this time to be called confirmed."""


@dataclass(frozen=True)
class End:
    """The terminal a generation came to."""

    type: EventType
    data: Mapping[str, Any]


async def run_generation(context: WorkerContext, sid: str, generation: str) -> None:
    """Claim the generation and run it to its terminal; returns at once if it is not there to be claimed.

    Ends only with: the terminal in the log, the pen lost (nothing more is written), or the generation handed back to
    the queue. Cancelled, it hands the generation back.
    """
    token = new_token()
    context.held[token] = None
    try:
        claimed = await _claim(context, sid, token, generation)
        if claimed is None:
            return
        pen = Pen(sid, generation, context.worker_id, token, claimed.epoch)
        with bound(session=sid, generation=generation, attempt=claimed.attempt):
            await _Job(context, pen, claimed.attempt).run()
    finally:
        context.held.pop(token, None)


async def _claim(context: WorkerContext, sid: str, token: str, generation: str) -> Claimed | None:
    """Repeated with the same token after a lost reply; given up when Redis stays away (the reaper queues it again)."""
    for n in range(CLAIM_TRIES):
        try:
            return await context.log.claim(sid, token, generation, context.worker_id)
        except RedisError as error:
            _log.warning("claim failed", session=sid, error=str(error))
            await asyncio.sleep(0.1 * (n + 1))
    return None


class _Job:
    """One claimed attempt: its writer, its pipeline, and what decides between them."""

    def __init__(self, context: WorkerContext, pen: Pen, attempt: int) -> None:
        self.context = context
        self.attempt = attempt
        self.holding = Holding(pen.sid, pen.generation)
        self.writer = Writer(context.log, pen, _batching(context), self.holding.stop, self.holding.answer, self._hold)
        self._token = pen.token
        self._hold(pen)
        if context.releasing:
            self.holding.release()

    def _hold(self, pen: Pen) -> None:
        self.context.held.pop(self._token, None)
        self._token = pen.token
        self.context.held[pen.token] = self.holding

    async def run(self) -> None:
        flushing = asyncio.create_task(self.writer.run())
        working = asyncio.create_task(self._work())
        try:
            await self._decide(flushing, working)
        except asyncio.CancelledError:
            await cancel([working])
            await self._hand_back(flushing)
            raise
        finally:
            await cancel([working])
            await cancel([flushing])
            self.context.held.pop(self._token, None)

    async def _decide(self, flushing: asyncio.Task[None], working: asyncio.Task[End]) -> None:
        """Wait for whatever comes first: the pipeline's end, a verdict from outside, or the loss of the pen."""
        verdict = self.holding.verdict
        waits: set[asyncio.Future[Any]] = {flushing, working, verdict}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if flushing.done():
            await cancel([working])
            _report_loss(flushing)
        elif working.done():
            await self._finish(flushing, working.result())
        elif verdict.result() is Verdict.STOP:
            await self._finish(flushing, await self._stop(working))
        else:
            await cancel([working])
            await self._hand_back(flushing)

    # -- the pipeline

    async def _work(self) -> End:
        """Run the pipeline; every way it can end becomes an End."""
        try:
            async with asyncio.timeout(self.context.settings.generation_timeout_s) as clock:
                run = await self._prepare(clock)
                await run.start()
            return End(EventType.COMPLETED, {"finish_reason": run.finish_reason})
        except ProviderError as error:
            _log.warning("provider failed", code=error.code, error=error.message, request_id=error.request_id)
            return _failed(error.code, error.message, retryable=error.retryable)
        except TimeoutError:
            return _failed("timeout", "the generation took too long", retryable=True)
        except OutputLimit:
            return _failed("output_limit", "the generation said more than is allowed", retryable=False)
        except QuestionExpired as error:
            return _failed("question_expired", str(error), retryable=True)
        except TooManyRounds as error:
            return _failed("too_many_rounds", str(error), retryable=False)
        except HoldfastError as error:
            return _failed(error.code, error.message, retryable=False)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return _failed("internal", "the pipeline was cancelled from within", retryable=True)
        except Exception:  # noqa: BLE001 - users' code: whatever it raises must become a terminal
            _log.exception("pipeline failed")
            return _failed("internal", "the pipeline failed", retryable=True)

    async def _prepare(self, clock: asyncio.Timeout) -> "_Started":
        view: SessionView | None = None
        events: list[Event] = []
        while view is None:
            try:
                view, events = await self.context.log.whole(self.writer.pen.sid)
            except RedisError as error:
                _log.warning("transcript could not be read; trying again", error=str(error))
                await asyncio.sleep(0.2)
                continue
            if view is None:
                raise SessionGone(self.writer.pen.sid)
        return _Started(self._run_of(view, events, clock), view.pipeline or "chat")

    def _run_of(self, view: SessionView, events: list[Event], clock: asyncio.Timeout) -> Run:
        settings, pen = self.context.settings, self.writer.pen
        earlier = Earlier.of(events, pen.generation, view.answer)
        return Run(
            session_id=pen.sid,
            generation=pen.generation,
            attempt=self.attempt,
            model=view.model,
            options=from_json(view.options) if view.options else {},
            transcript=fold(events),
            writer=self.writer,
            providers=self.context.providers,
            questions=Questions(self.context.log, self.writer, self.holding, clock, earlier),
            limits=Limits(settings.question_timeout_s, settings.tool_timeout_s, settings.tool_rounds),
        )

    async def _stop(self, working: asyncio.Task[End]) -> End:
        """Cancelling the pipeline closes the provider's connection; a pipeline that clings to it is not confirmed."""
        confirmed = await cancel([working], CLOSE_S)
        return End(EventType.CANCELLED, {"by": self.holding.by, "confirmed": confirmed})

    # -- the end

    async def _finish(self, flushing: asyncio.Task[None], end: End) -> None:
        self.writer.end(end.type, end.data)
        await asyncio.wait({flushing})
        if _report_loss(flushing):
            return
        _log.info("generation over", end=str(end.type), **{k: v for k, v in end.data.items() if k == "code"})
        self.context.spawn(_linger(self.writer, self.context.settings.linger_s))

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
                await self._finish(flushing, End(EventType.CANCELLED, {"by": self.holding.by, "confirmed": True}))
            case outcome:
                _log.info("generation was not ours to hand back", outcome=outcome)


class _Started:
    """A run and the pipeline that will have it."""

    def __init__(self, run: Run, pipeline: str) -> None:
        self._run, self._pipeline = run, pipeline

    @property
    def finish_reason(self) -> str:
        return self._run.finish_reason

    async def start(self) -> None:
        await lookup(self._pipeline)(self._run)


def _batching(context: WorkerContext) -> Batching:
    settings = context.settings
    return Batching(
        flush_s=settings.flush_ms / 1000,
        flush_bytes=settings.flush_bytes,
        backlog_bytes=settings.backlog_bytes,
        max_output_bytes=settings.max_output_bytes,
    )


def _failed(code: str, message: str, *, retryable: bool) -> End:
    return End(EventType.FAILED, {"code": code, "message": message, "retryable": retryable})


def _report_loss(flushing: asyncio.Task[None]) -> bool:
    """Whether the writer ended without its terminal. An error that is neither loss is a bug, and is raised."""
    error = flushing.exception()
    if error is None:
        return False
    if not isinstance(error, PenLost | SessionGone):
        raise error
    _log.warning("generation is no longer ours", reason=type(error).__name__, detail=str(error))
    return True


async def _linger(writer: Writer, pause_s: float) -> None:
    try:
        await writer.linger(pause_s)
    except (PenLost, SessionGone) as over:
        _log.debug("nothing left to repeat", reason=type(over).__name__)
