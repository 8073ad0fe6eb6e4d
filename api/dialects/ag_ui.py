"""The dialect of AG-UI: a thread is a session, a run is a generation, or what of it lies between two questions.

A run is always told from its start: it is resumed by asking for it again. Ids of messages are
`<session>_<generation>_<n>`, behind a question `<session>_<generation>_<question>_<n>`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from api.dialects.conversation import json_text, text_of
from api.dialects.encoder import Unsayable
from api.dialects.projection import Projection
from shared.events import Event, EventType, encode
from shared.transcript import Failure, Question, Usage

VERSION = "1.0"
BLOCK_BYTES = 10_000_000
"""Clients read no larger block."""
_DELTAS = {"text": "TEXT_MESSAGE", "reasoning": "REASONING_MESSAGE"}


class AgUiProjection(Projection):
    """`messages` are what the client has, in its own words and with its own ids: where something that it had of this
    run already is said again, or is void, it is told them anew, without that. `question`: the one that was answered to
    begin this run; empty where a user's message was."""

    dialect = "ag_ui"

    def __init__(
        self,
        sid: str,
        generation: str,
        thread: str,
        run: str,
        messages: Sequence[dict[str, Any]],
        question: str = "",
    ) -> None:
        super().__init__(generation)
        self._of_generation = f"{sid}_{generation}_"
        self._prefix = f"{self._of_generation}{question}_" if question else self._of_generation
        self._ids = {"threadId": thread, "runId": run}
        self._messages = messages
        self._question = question
        self._asked = not question
        """The question that this run begins behind has been met."""
        self._begun = False
        self._ended = False
        self._blocks: list[bytes] = []
        self._count = 0
        """Messages of this run so far."""
        self._open = ""
        """What the message that is open consists of: `text` or `reasoning`; nothing where none is."""
        self._id = ""
        """Of that message."""
        self._parent = ""
        """The message that calls belong to, until their results are there."""
        self._reasoned: list[str] = []
        """Ids of messages of reasoning."""
        self._calls: dict[str, bool] = {}
        """Tool calls, and whether they have a result."""
        self._steps: list[str] = []
        """Under way."""
        self._usage: Usage | None = None
        self._model = ""

    def take(self, event: Event) -> bytes:
        data = super().take(event)
        self.over = self.over or self._ended
        return data

    def project(self, event: Event) -> bytes:
        self._blocks = []
        value = event.value
        if self._begins(event):
            self._begin()
        match event.type:
            case EventType.STARTED:
                self._start(value)
            case EventType.QUESTION if value["id"] == self._question:
                self._asked = True
            case _ if not self._begun:
                pass
            case EventType.TEXT:
                self._delta("text", value["text"])
            case EventType.REASONING:
                self._delta("reasoning", value["text"])
            case EventType.TOOL_CALL:
                self._call(value)
            case EventType.TOOL_RESULT:
                self._result(value)
            case EventType.STATUS:
                self._status(value)
            case EventType.SOURCE:
                self._say("CUSTOM", name="source", value=value)
            case EventType.DATA:
                self._say("CUSTOM", name=value["name"], value=value.get("value"))
            case EventType.QUESTION:
                self._ask(Question.model_validate(value))
            case EventType.USAGE:
                usage = Usage.model_validate(value)
                self._usage = self._usage.plus(usage) if self._usage else usage
            case EventType.COMPLETED:
                self._complete(value.get("finish_reason"))
            case EventType.FAILED:
                failure = Failure.model_validate(value)
                self._say("RUN_ERROR", message=failure.message, code=failure.code)
            case EventType.CANCELLED:
                self._finish({"type": "cancelled"})
        return b"".join(self._blocks)

    # -- the run

    def _begins(self, event: Event) -> bool:
        """Behind a question: with its answer, or where its worker was lost before it could tell of that."""
        if self._begun or not self._asked:
            return False
        if not self._question:
            return True
        answered = event.type == EventType.ANSWER and event.value["id"] == self._question
        return answered or event.type == EventType.STARTED or event.terminal

    def _begin(self) -> None:
        self._begun = True
        self._say("RUN_STARTED", **self._ids, protocolVersion=VERSION)
        if any(_is_of(message, self._prefix) for message in self._messages):
            self._snapshot(self._prefix)

    def _start(self, value: dict[str, Any]) -> None:
        self._model = value.get("model", "")
        if self._begun and value["attempt"] > 1:
            said_before = any(_is_of(message, self._of_generation) for message in self._messages)
            if self._count or said_before:
                self._close()
                self._snapshot(self._of_generation)
        self._count, self._parent, self._calls, self._usage = 0, "", {}, None

    def _snapshot(self, void: str) -> None:
        """What the client has but for messages whose id begins so. Reasoning that is not named would stay: it is
        named, and empty."""
        kept = [message for message in self._messages if not _is_of(message, void)]
        stale = [str(m["id"]) for m in self._messages if m.get("role") == "reasoning" and _is_of(m, void)]
        emptied = dict.fromkeys([*stale, *(id_ for id_ in self._reasoned if id_.startswith(void))])
        reasoning = [{"id": id_, "role": "reasoning", "content": ""} for id_ in emptied]
        self._say("MESSAGES_SNAPSHOT", messages=[*kept, *reasoning])

    def _complete(self, finish_reason: str | None) -> None:
        pending = [id_ for id_, has_result in self._calls.items() if not has_result]
        outcome = {"type": "success", **({"pendingToolCallIds": pending} if pending else {})}
        self._finish(outcome, result={"finishReason": finish_reason})

    def _ask(self, question: Question) -> None:
        """Ends the run: the answer begins the next one."""
        asked: dict[str, Any] = {"id": question.id, "reason": "question", "message": question.text}
        if question.choices:
            asked["responseSchema"] = {"type": "string", "enum": question.choices}
        if question.expires_at is not None:
            asked["expiresAt"] = datetime.fromtimestamp(question.expires_at / 1000, UTC).isoformat()
        self._finish({"type": "interrupt", "interrupts": [asked]})

    def _finish(self, outcome: dict[str, Any], **more: Any) -> None:
        self._close()
        self._ended = True
        if self._usage is not None:
            more["usage"] = [_usage(self._usage, self._model)]
        self._say("RUN_FINISHED", **self._ids, outcome=outcome, **more)

    # -- inside it

    def _delta(self, kind: str, text: str) -> None:
        if self._open != kind:
            self._close_message()
            self._open, self._id = kind, self._next_id()
            if kind == "reasoning":
                self._reasoned.append(self._id)
                self._say("REASONING_START", messageId=self._id)
            else:
                self._parent = self._id
            role = "assistant" if kind == "text" else "reasoning"
            self._say(f"{_DELTAS[kind]}_START", messageId=self._id, role=role)
        self._say(f"{_DELTAS[kind]}_CONTENT", messageId=self._id, delta=text)

    def _call(self, value: dict[str, Any]) -> None:
        self._close_message()
        self._parent = self._parent or self._next_id()
        call = value["id"]
        self._calls[call] = False
        self._say("TOOL_CALL_START", toolCallId=call, toolCallName=value["name"], parentMessageId=self._parent)
        self._say("TOOL_CALL_ARGS", toolCallId=call, delta=json_text(value.get("arguments") or {}))
        self._say("TOOL_CALL_END", toolCallId=call)

    def _result(self, value: dict[str, Any]) -> None:
        self._close_message()
        self._parent = ""
        self._calls[value["id"]] = True
        error = value.get("error")
        content = f"Error: {error}" if error is not None else text_of(value.get("output"))
        self._say(
            "TOOL_CALL_RESULT", messageId=self._next_id(), toolCallId=value["id"], content=content, role="tool"
        )  # fmt: skip

    def _status(self, value: dict[str, Any]) -> None:
        step, done = value.get("step") or value["text"], value.get("state") == "done"
        if step not in self._steps:
            self._steps.append(step)
            self._say("STEP_STARTED", stepName=step)
        self._say("CUSTOM", name="status", value=value)
        if done:
            self._steps.remove(step)
            self._say("STEP_FINISHED", stepName=step)

    def _close(self) -> None:
        self._close_message()
        while self._steps:
            self._say("STEP_FINISHED", stepName=self._steps.pop())

    def _close_message(self) -> None:
        if self._open:
            self._say(f"{_DELTAS[self._open]}_END", messageId=self._id)
            if self._open == "reasoning":
                self._say("REASONING_END", messageId=self._id)
            self._open = ""

    def _next_id(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"

    def _say(self, type_: str, **fields: Any) -> None:
        block = b"data: %b\n\n" % encode({"type": type_, **fields})
        if len(block) > BLOCK_BYTES:
            raise Unsayable(f"{type_} of {len(block)} bytes")
        self._blocks.append(block)


def _is_of(message: dict[str, Any], prefix: str) -> bool:
    return str(message.get("id")).startswith(prefix)


def _usage(usage: Usage, model: str) -> dict[str, Any]:
    provider, _, name = model.partition("/")
    return {
        "provider": provider,
        "model": name,
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_tokens,
    }
