"""What a pipeline is given: the conversation so far, and verbs to say things into the log."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from shared.events import EventType
from shared.tasks import cancel
from shared.tracing import NOTHING, here
from shared.transcript import Transcript, Usage
from worker.pipelines import answering
from worker.pipelines.conversation import conversation
from worker.pipelines.questions import Questions
from worker.pipelines.remote import RemoteRuns
from worker.pipelines.tools import Toolbox, ToolFunction
from worker.providers import base
from worker.providers.registry import Providers
from worker.writer import Writer

SAYABLE = frozenset(
    {
        EventType.STATUS,
        EventType.TOOL_CALL,
        EventType.TOOL_RESULT,
        EventType.SOURCE,
        EventType.DATA,
        EventType.USAGE,
    }
)


@dataclass(frozen=True)
class Limits:
    """Bounds a pipeline may narrow per call."""

    question_s: float
    tool_s: float
    tool_rounds: int


@dataclass
class _Reading:
    """Who reads a provider's stream, and whether it was closed."""

    task: asyncio.Task[Any] | None
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class Run:
    """One attempt at a generation, as its pipeline sees it.

    Every verb may be cancelled (a stop, a release): what was said before is kept. Verbs raise OutputLimit when the
    generation has said more than is allowed, and wait while Redis is away and the backlog is full.
    """

    def __init__(
        self,
        *,
        session_id: str,
        generation: str,
        attempt: int,
        model: str,
        options: Mapping[str, Any],
        transcript: Transcript,
        client_tools: Sequence[base.ToolSpec] = (),
        writer: Writer,
        providers: Providers,
        questions: Questions,
        remote: RemoteRuns,
        limits: Limits,
    ) -> None:
        self.session_id = session_id
        self.generation = generation
        self.attempt = attempt
        self.model_name = model
        self.options = options
        self.transcript = transcript
        self.client_tools = client_tools
        """What the client can run. A pipeline that lets a model call them ends with the call: see `answer`."""
        self.finish_reason = "stop"
        """What the generation will be said to have ended with: that of the last model call."""
        self.usage = Usage()
        """Of all model calls so far."""
        self._writer = writer
        self._providers = providers
        self._questions = questions
        self._remote = remote
        self._limits = limits
        self._streams: dict[AsyncGenerator[base.Part, None], _Reading] = {}
        """Provider streams that are open."""

    @property
    def input(self) -> str:
        """What the user said last."""
        return next((m.content for m in reversed(self.transcript.messages) if m.role == "user"), "")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as a model takes it: see `conversation`."""
        return conversation(self.transcript)

    # -- saying things

    async def text(self, text: str) -> None:
        self._writer.delta(EventType.TEXT, text)
        await self._writer.room()

    async def say(self, text: str) -> None:
        """Say a text that is there already, word by word at the pace of the option `rate`, as the demo models do."""
        pace = {"rate": self.options.get("rate", 0)}
        async for part in self.model([{"role": "user", "content": text}], model="demo/echo", options=pace):
            if isinstance(part, base.Text):
                await self.text(part.text)

    async def reasoning(self, text: str) -> None:
        self._writer.delta(EventType.REASONING, text)
        await self._writer.room()

    async def status(
        self, text: str, *, step: str | None = None, state: str = "running", progress: float | None = None
    ) -> None:
        """Say what is going on. The same `step` again replaces the line; `progress` is 0 to 1."""
        data = {"text": text, "step": step or text, "state": state, "progress": progress}
        await self.event(EventType.STATUS, {name: value for name, value in data.items() if value is not None})

    async def source(self, title: str, url: str | None = None) -> None:
        await self.event(EventType.SOURCE, {"title": title, "url": url})

    async def data(self, name: str, value: Any) -> None:
        """A payload of the pipeline's own; anything JSON can say."""
        await self.event(EventType.DATA, {"name": name, "value": value})

    async def emit(self, part: base.Part) -> None:
        """Say what a model said."""
        match part:
            case base.Text(text):
                await self.text(text)
            case base.Reasoning(text):
                await self.reasoning(text)
            case base.ToolCall(id=call, name=name, arguments=arguments):
                await self.event(EventType.TOOL_CALL, {"id": call, "name": name, "arguments": arguments})
            case base.Usage() as usage:
                await self._usage(usage)
            case base.Finish(reason):
                self.finish_reason = reason

    # -- asking the user

    async def ask(self, text: str, *, choices: Sequence[str] | None = None, timeout_s: float | None = None) -> str:
        """Ask the user and wait for the answer; the first one counts. Waiting costs nothing of the generation's time.

        Survives everything: a client that reloads sees the question again, and when the worker is lost, the next
        attempt is given the answer that was given before. Raises QuestionExpired.
        """
        return await self._questions.ask(text, choices, self._limits.question_s if timeout_s is None else timeout_s)

    # -- models

    async def answer(
        self,
        messages: Sequence[Mapping[str, Any]] | None = None,
        *,
        tools: Sequence[ToolFunction] = (),
        max_rounds: int | None = None,
        tool_timeout_s: float | None = None,
        client_tools: Sequence[base.ToolSpec] = (),
    ) -> str:
        """Let the model answer, and say all of it; gives the text.

        With `tools`, Python functions with type hints, it may call them: calls and results become events, and the
        model goes on. `client_tools` are not run here: the answer ends where one is called, with `finish_reason`
        `tool_calls`, and the client brings the results with its next turn. Raises ProviderError, TooManyRounds.
        """
        toolbox = Toolbox(tools, tool_timeout_s or self._limits.tool_s)
        said = self.messages if messages is None else messages
        return await answering.answer(self, said, toolbox, max_rounds or self._limits.tool_rounds, client_tools)

    async def model(
        self,
        messages: Sequence[Mapping[str, Any]] | None = None,
        *,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        tools: Sequence[base.ToolSpec] = (),
    ) -> AsyncGenerator[base.Part, None]:
        """Ask a model; yields its parts as they come, and says none of them: `emit` does.

        The provider's connection is closed when the loop ends, and at the latest with the pipeline. Raises
        ProviderError.
        """
        provider, name = self._providers.get(model or self.model_name)
        so_far: list[base.Usage] = []
        call = here().begin("provider call", "client", model=model or self.model_name)
        first = call.begin("first token")
        request = base.ModelRequest(
            counted=so_far.append,
            model=name,
            messages=[dict(message) for message in (self.messages if messages is None else messages)],
            tools=list(tools),
            options=dict(self.options if options is None else options),
            remote=self._remote,
        )
        stream = provider.stream(request)
        reading = self._streams[stream] = _Reading(asyncio.current_task())
        try:
            async with aclosing(stream) as parts:
                async for part in parts:
                    if isinstance(part, base.Usage):
                        so_far.clear()
                    elif first is not NOTHING and isinstance(part, (base.Text, base.Reasoning)):
                        first.end()
                        first = NOTHING
                    yield part
        finally:
            self._streams.pop(stream, None)
            reading.closed.set()
            call.end()
            if so_far:  # it broke off, but was paid for
                self._count(so_far[-1])

    async def event(self, type_: EventType, data: Mapping[str, Any]) -> None:
        """Say an event that is no delta; the verbs above are nicer. Raises ValueError for what is not to be said."""
        if type_ not in SAYABLE:
            raise ValueError(f"a pipeline cannot say {type_}")
        self._writer.event(type_, data)
        await self._writer.room()

    async def aclose(self) -> None:
        """Close what the pipeline left open: a loop over `model` that was left early closes nothing by itself."""
        own = asyncio.current_task()
        await cancel(r.task for r in self._streams.values() if r.task is not None and r.task is not own)
        for stream, reading in list(self._streams.items()):
            if getattr(
                stream, "ag_running", False
            ):  # being closed already, by the loop's hook for forgotten generators
                await reading.closed.wait()
            else:
                await stream.aclose()

    # -- inside

    async def _usage(self, usage: base.Usage) -> None:
        self._count(usage)
        await self._writer.room()

    def _count(self, usage: base.Usage) -> None:
        said = Usage(**{name: getattr(usage, name) for name in Usage.model_fields})
        self.usage = self.usage.plus(said)
        self._writer.event(EventType.USAGE, said.model_dump())
