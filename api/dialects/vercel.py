"""The AI SDK's UI message stream, version 1: one generation as one message of the assistant.

Only chunk types that ai@5, ai@6 and ai@7 all know are used: an unknown one ends a client's stream with an error. There
is one exception, for clients that are known to be newer: `resets`.

A model's round is a step: it ends where tools have given their results and something else follows. Progress and usage
are transient data parts: they are handed to `onData`, and not kept in the message. A question is a data part with the
question's id, which the same part with the answer in it replaces. A source without a URL is a document.
"""

import re
from typing import Any

from api.dialects.encoder import Unsayable
from api.dialects.projection import Projection
from shared.events import Event, EventType, encode

DONE = b"data: [DONE]\n\n"
HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool-calls",
    "content_filter": "content-filter",
}
OTHER = "other"

Chunk = dict[str, Any]

_GENERATION = re.compile(r"g[1-9][0-9]{0,8}")


def message_id(sid: str, generation: str) -> str:
    """Of the assistant's message: the same on every replay, so that a client replaces what it has of it."""
    return f"msg_{sid}_{generation}"


def generation_of(message: str, sid: str) -> str | None:
    """The opposite; None where the message is none of this session."""
    generation = message.rpartition("_")[2]
    named = _GENERATION.fullmatch(generation) and message == message_id(sid, generation)
    return generation if named else None


class UiChunks:
    """The chunks of one message. What is given must begin with the generation, or anywhere before a new attempt."""

    def __init__(self, message: str, *, resets: bool = False) -> None:
        """`resets`: the client knows `reset-step`, by which a step begins anew (ai@7)."""
        self._message = message
        self._resets = resets
        self._steps = 0
        """None before `start`."""
        self._lasting = False
        """Something was said that a later attempt would make void."""
        self._part: tuple[str, str] | None = None
        """The text or reasoning that is open: its kind and id."""
        self._count = 0
        self._calls: dict[str, bool] = {}
        """Tool calls of the step, and whether each has its result."""
        self._questions: dict[str, dict[str, Any]] = {}

    def of(self, event: Event) -> list[Chunk]:
        """Raises Unsayable."""
        value = event.value
        match event.type:
            case EventType.STARTED:
                return self._start()
            case EventType.TEXT:
                return self._delta("text", value["text"])
            case EventType.REASONING:
                return self._delta("reasoning", value["text"])
            case EventType.STATUS:
                return [_passing("status", {name: value[name] for name in _STATUS if name in value})]
            case EventType.USAGE:
                return [_passing("usage", {name: value[name] for name in value if name != "prev"})]
            case EventType.TOOL_CALL:
                return self._call(value["id"], value.get("name", ""), value.get("arguments"))
            case EventType.TOOL_RESULT:
                return self._result(value["id"], value.get("output"), value.get("error"))
            case EventType.SOURCE:
                return [*self._ensure_step(), self._source(value.get("title") or "", value.get("url"))]
            case EventType.DATA:
                self._lasting = True
                return [*self._ensure_step(), {"type": f"data-{value['name']}", "data": value.get("value")}]
            case EventType.QUESTION:
                return [*self._ensure_step(), *self._close(), self._question(value["id"], value)]
            case EventType.ANSWER:
                return [*self._ensure_step(), self._answer(value["id"], value.get("text"))]
            case EventType.COMPLETED:
                reason = FINISH_REASONS.get(value.get("finish_reason") or "stop", OTHER)
                return [*self._ensure_step(), *self._end_step(), {"type": "finish", "finishReason": reason}]
            case EventType.CANCELLED:
                ending: list[Chunk] = [{"type": "abort"}, {"type": "finish", "finishReason": OTHER}]
                return [*self._ensure_step(), *self._end_step(), *ending]
            case EventType.FAILED:
                return [{"type": "error", "errorText": value.get("message") or value["code"]}]
        return []

    # -- steps

    def _start(self) -> list[Chunk]:
        """An attempt begins. The first one that the client is told of opens the message."""
        if not self._lasting:
            return self._ensure_step()
        if not self._resets or self._steps > 1:
            raise Unsayable("another attempt")
        self._lasting, self._part, self._calls = False, None, {}
        self._questions.clear()
        return [{"type": "reset-step"}]

    def _ensure_step(self) -> list[Chunk]:
        if self._steps:
            return []
        self._steps = 1
        return [{"type": "start", "messageId": self._message}, {"type": "start-step"}]

    def _next_step(self) -> list[Chunk]:
        """Where every tool of this one has given its result."""
        if not self._calls or not all(self._calls.values()):
            return self._ensure_step()
        ended = self._end_step()
        self._steps += 1
        self._calls = {}
        return [*ended, {"type": "start-step"}]

    def _end_step(self) -> list[Chunk]:
        return [*self._close(), {"type": "finish-step"}]

    # -- texts

    def _delta(self, kind: str, text: str) -> list[Chunk]:
        if self._part is not None and self._part[0] == kind:
            return [{"type": f"{kind}-delta", "id": self._part[1], "delta": text}]
        before = [*self._next_step(), *self._close()]
        self._count += 1
        self._lasting = True
        part = f"{kind}-{self._count}"
        self._part = kind, part
        return [*before, {"type": f"{kind}-start", "id": part}, {"type": f"{kind}-delta", "id": part, "delta": text}]

    def _close(self) -> list[Chunk]:
        if self._part is None:
            return []
        (kind, part), self._part = self._part, None
        return [{"type": f"{kind}-end", "id": part}]

    # -- parts

    def _call(self, call: str, name: str, arguments: object) -> list[Chunk]:
        before = [*self._next_step(), *self._close()]
        self._lasting = True
        self._calls[call] = False
        given = {} if arguments is None else arguments
        return [*before, {"type": "tool-input-available", "toolCallId": call, "toolName": name, "input": given}]

    def _result(self, call: str, output: object, error: str | None) -> list[Chunk]:
        before = [] if call in self._calls else self._call(call, "unknown", None)  # no client takes it otherwise
        self._calls[call] = True
        if error is not None:
            return [*before, {"type": "tool-output-error", "toolCallId": call, "errorText": error}]
        return [*before, {"type": "tool-output-available", "toolCallId": call, "output": output}]

    def _source(self, title: str, url: str | None) -> Chunk:
        self._lasting = True
        self._count += 1
        named = {"sourceId": f"source-{self._count}", "title": title}
        if url:
            return {"type": "source-url", **named, "url": url}
        return {"type": "source-document", **named, "mediaType": "text/plain"}

    def _question(self, question: str, value: dict[str, Any]) -> Chunk:
        self._lasting = True
        self._questions[question] = {name: value.get(name) for name in ("text", "choices", "expires_at")}
        return {"type": "data-question", "id": question, "data": {"id": question, **self._questions[question]}}

    def _answer(self, question: str, text: str | None) -> Chunk:
        self._lasting = True
        asked = self._questions.get(question, {})
        return {"type": "data-question", "id": question, "data": {"id": question, **asked, "answer": text}}


_STATUS = ("text", "step", "state", "progress")


def _passing(name: str, data: dict[str, Any]) -> Chunk:
    return {"type": f"data-{name}", "data": data, "transient": True}


class UiStream(Projection):
    """Over HTTP: server-sent events."""

    dialect = "vercel"

    def __init__(self, sid: str, generation: str) -> None:
        """For what comes after the generation's message, or from one of its attempts on."""
        super().__init__(generation)
        self._inside = True
        self._chunks = UiChunks(message_id(sid, generation))

    def project(self, event: Event) -> bytes:
        blocks = b"".join([b"data: %b\n\n" % encode(chunk) for chunk in self._chunks.of(event)])
        return blocks + DONE if event.terminal else blocks


class UiFrames(Projection):
    """Over a WebSocket: a JSON frame per line. Numbers begin at 0 with each request."""

    dialect = "vercel"

    def __init__(self, sid: str, generation: str, request: str) -> None:
        super().__init__(generation)
        self._inside = True
        self._chunks = UiChunks(message_id(sid, generation), resets=True)
        self._request = request
        self._sequence = 0

    def project(self, event: Event) -> bytes:
        return b"".join([self._frame(chunk) + b"\n" for chunk in self._chunks.of(event)])

    def _frame(self, chunk: Chunk) -> bytes:
        frame = {"type": "chunk", "requestId": self._request, "sequence": self._sequence, "chunk": chunk}
        self._sequence += 1
        return encode(frame)


def frame(kind: str, request: str, **more: str) -> str:
    """`start`, `end`, `no-active`, `error` of one request."""
    return encode({"type": kind, "requestId": request, **more}).decode()
