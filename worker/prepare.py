"""From a session's log to the run its pipeline is given."""

import asyncio

from pydantic_core import from_json

from shared.events import Event
from shared.redis import RedisError
from shared.telemetry import get_logger
from shared.transcript import fold
from shared.views import SessionView
from worker.context import WorkerContext
from worker.holding import Holding
from worker.pipelines import Pipeline, Run, lookup
from worker.pipelines.questions import Earlier, Questions
from worker.pipelines.run import Limits
from worker.writer import SessionGone, Writer

_log = get_logger(__name__)

RETRY_S = 0.2


async def prepare(
    context: WorkerContext, writer: Writer, holding: Holding, attempt: int, clock: asyncio.Timeout
) -> tuple[Pipeline, Run]:
    """The pipeline and its run. Redis being away only delays it. Raises SessionGone, UnknownPipeline."""
    settings, pen = context.settings, writer.pen
    view, events = await _read(context, pen.sid)
    earlier = Earlier.of(events, pen.generation, view.answer)
    run = Run(
        session_id=pen.sid,
        generation=pen.generation,
        attempt=attempt,
        model=view.model,
        options=from_json(view.options) if view.options else {},
        transcript=fold(events),
        writer=writer,
        providers=context.providers,
        questions=Questions(context.log, writer, holding, clock, earlier),
        limits=Limits(settings.question_timeout_s, settings.tool_timeout_s, settings.tool_rounds),
    )
    return lookup(view.pipeline or "chat"), run


async def _read(context: WorkerContext, sid: str) -> tuple[SessionView, list[Event]]:
    while True:
        try:
            view, events = await context.log.whole(sid)
        except RedisError as error:
            _log.warning("transcript could not be read; trying again", error=str(error))
            await asyncio.sleep(RETRY_S)
            continue
        if view is None:
            raise SessionGone(sid)
        return view, events
