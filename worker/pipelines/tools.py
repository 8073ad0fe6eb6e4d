"""Tools: Python functions a model may call. Their type hints are the schema, by way of pydantic."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, to_json

from shared.tasks import cancel
from worker.clock import Clock, tool_clock
from worker.providers.base import ToolCall, ToolSpec

CLOSE_S = 5.0
"""A tool that does not let itself be cancelled is left behind after this time."""
ToolFunction = Callable[..., Any]
"""Sync (run in a thread) or async. Returns anything JSON can say."""


@dataclass(frozen=True)
class ToolOutcome:
    """What a call came to: an output, or an error for the model to read."""

    output: Any = None
    error: str | None = None

    def event(self, call: ToolCall) -> dict[str, Any]:
        return {"id": call.id, "output": self.output, "error": self.error}

    def message(self, call: ToolCall) -> dict[str, Any]:
        """As the model is told."""
        said = f"Error: {self.error}" if self.error is not None else self.output
        return {"role": "tool", "tool_call_id": call.id, "content": said}


class Tool:
    """A function, with its schema and its limit of time."""

    def __init__(self, function: ToolFunction, timeout_s: float) -> None:
        self.name: str = function.__name__
        self._timeout_s = timeout_s
        self._is_async = inspect.iscoroutinefunction(function)
        schema_of: Any = function  # pydantic takes functions too, though its annotations know only types
        self._adapter: TypeAdapter[Any] = TypeAdapter(schema_of)
        self.spec = ToolSpec(self.name, inspect.getdoc(function) or self.name, self._adapter.json_schema())

    async def call(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Never raises for what the tool does: a tool that fails is something the model may deal with.

        A sync tool that overruns its time goes on in its thread, unheard. Waiting for the user costs no time.
        """
        over = asyncio.Event()
        clock = Clock(self._timeout_s, over.set)
        context = copy_context()
        context.run(tool_clock.set, clock)
        running = asyncio.create_task(self._outcome(arguments), context=context)
        ending = asyncio.create_task(over.wait())
        try:
            await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                return ToolOutcome(error=f"{self.name} took longer than {self._timeout_s:g} s")
            return ToolOutcome(error=f"{self.name} was cancelled") if running.cancelled() else running.result()
        finally:
            clock.close()
            await cancel([running, ending], CLOSE_S)

    async def _outcome(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        try:
            return ToolOutcome(_sayable(await self._run(ArgsKwargs((), dict(arguments)))))
        except ValidationError as error:
            return ToolOutcome(error=_wrong_arguments(error))
        except Exception as error:  # noqa: BLE001 - users' code: whatever it raises is told to the model
            return ToolOutcome(error=f"{type(error).__name__}: {error}")

    async def _run(self, arguments: ArgsKwargs) -> Any:
        if self._is_async:
            return await self._adapter.validate_python(arguments)
        return await asyncio.to_thread(self._adapter.validate_python, arguments)


class Toolbox:
    """The tools of one conversation, by name."""

    def __init__(self, functions: Sequence[ToolFunction], timeout_s: float) -> None:
        self._tools = {tool.name: tool for tool in (Tool(function, timeout_s) for function in functions)}

    @property
    def specs(self) -> list[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    def has(self, name: str) -> bool:
        return name in self._tools

    async def call(self, call: ToolCall) -> ToolOutcome:
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolOutcome(error=f"there is no tool {call.name!r}")
        return await tool.call(call.arguments)


def _sayable(output: Any) -> Any:
    to_json(output)  # raises here, as the tool's error, rather than in the log
    return output


def _wrong_arguments(error: ValidationError) -> str:
    problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return "wrong arguments: " + "; ".join(problems)
