"""From a session's log to the run its pipeline is given."""

from pydantic_core import from_json

from shared.events import Event
from shared.transcript import fold
from shared.views import SessionView
from worker.clock import Clock
from worker.context import WorkerContext
from worker.holding import Holding
from worker.pipelines import Pipeline, Run, lookup
from worker.pipelines.questions import Earlier, Questions
from worker.pipelines.remote import RemoteRuns
from worker.pipelines.run import Limits
from worker.providers.base import ToolSpec
from worker.writer import Writer


def prepare(
    context: WorkerContext,
    writer: Writer,
    holding: Holding,
    attempt: int,
    clock: Clock,
    remote: RemoteRuns,
    view: SessionView,
    events: list[Event],
) -> tuple[Pipeline, Run]:
    """The pipeline and its run; `view` and `events` are the session's, as it was claimed. Raises UnknownPipeline."""
    settings, pen = context.settings, writer.pen
    run = Run(
        session_id=pen.sid,
        generation=pen.generation,
        attempt=attempt,
        model=view.model,
        options=from_json(view.options) if view.options else {},
        transcript=fold(events),
        client_tools=[ToolSpec(**tool) for tool in from_json(view.tools)] if view.tools else [],
        writer=writer,
        providers=context.providers,
        questions=Questions(context.log, writer, holding, clock, Earlier.of(events, pen.generation, view.answer)),
        remote=remote,
        limits=Limits(settings.question_timeout_s, settings.tool_timeout_s, settings.tool_rounds),
    )
    return lookup(view.pipeline or "chat"), run
