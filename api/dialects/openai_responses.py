"""OpenAI's Responses: one generation as numbered events, and the response object they lead to.

`sequence_number` counts the events of a response from 0. It follows from the log alone, so that a client which comes
back, to whatever node, with the last number it saw gets exactly the rest.

A later attempt makes void what was said: the item under way is closed as incomplete, and new items follow at the
indexes after it. The response at the end has only what counts. Progress, questions, payloads and tools the pipeline
runs itself have no words here: they are left out.
"""

import re
from dataclasses import dataclass
from typing import Any

from api.dialects.openai_items import (
    COMPLETED,
    IN_PROGRESS,
    INCOMPLETE,
    Item,
    MessageItem,
    ReasoningItem,
    function_call,
)
from api.dialects.openai_words import OpenCalls, failure_of
from api.dialects.projection import Projection
from shared.events import Event, EventType, encode
from shared.ids import generation_before
from shared.transcript import Failure, Source, Usage

_ID = re.compile(r"resp_([A-Za-z0-9_-]{1,64})_(g[1-9][0-9]{0,8})")
_ERROR_CODES = {
    "rate_limit": "rate_limit_exceeded",
    "quota_exceeded": "rate_limit_exceeded",
    "overloaded": "rate_limit_exceeded",
    "invalid_request": "invalid_prompt",
    "context_too_long": "invalid_prompt",
}
"""OpenAI's are a closed set: what is none of these is a `server_error`. The code of here stands in the message."""
_INCOMPLETE_FOR = {"length": "max_output_tokens", "content_filter": "content_filter"}
_NOT_TO_SAY = 1 << 62
QUEUED, FAILED, CANCELLED = "queued", "failed", "cancelled"


def response_id(sid: str, generation: str) -> str:
    return f"resp_{sid}_{generation}"


def parse_response_id(text: str) -> tuple[str, str] | None:
    """Session and generation; None where it is none of ours."""
    found = _ID.fullmatch(text)
    return (found[1], found[2]) if found else None


@dataclass(frozen=True)
class Answer:
    """Which generation of which session a response is, and what does not change about it."""

    sid: str
    generation: str
    model: str
    created: int
    """Seconds since 1970: of the session."""

    @property
    def name(self) -> str:
        return f"{self.sid}_{self.generation}"

    def object(self) -> dict[str, Any]:
        """The response, before anything was said. `background` is true of all: none of them needs its client."""
        before = None if self.generation == "g1" else response_id(self.sid, generation_before(self.generation))
        return {
            "id": response_id(self.sid, self.generation),
            "object": "response",
            "created_at": self.created,
            "status": QUEUED,
            "background": True,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": before,
            "store": True,
            "temperature": None,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "truncation": "disabled",
            "usage": None,
        }


class ResponseEvents(Projection):
    """`starting_after`: events up to that number are counted, but not sent."""

    dialect = "openai_responses"

    def __init__(self, answer: Answer, starting_after: int = -1) -> None:
        super().__init__(answer.generation)
        self.failure: Failure | None = None
        """Why it failed, once it has."""
        self._answer = answer
        self._base = answer.object()
        self._after = starting_after
        self._number = 0
        self._bytes: list[bytes] = []
        self._reset()
        self._index = 0
        """Of the next item in the stream."""

    def _reset(self) -> None:
        self._items: list[dict[str, Any]] = []
        self._item: Item | None = None
        self._calls = OpenCalls()
        self._sources: list[Source] = []
        """Cited before there was a text to cite them in."""
        self._usage: Usage | None = None

    @classmethod
    def silent(cls, answer: Answer) -> "ResponseEvents":
        """Gives no bytes: for the response object alone. Deltas may be merged."""
        return cls(answer, _NOT_TO_SAY)

    @property
    def begun(self) -> bool:
        """The generation was there in the log, from its first message on."""
        return self._number > 0

    @property
    def status(self) -> str:
        return str(self._base["status"])

    def response(self) -> dict[str, Any]:
        """The response as it stands."""
        under_way = [] if self._item is None else [self._item.as_item(IN_PROGRESS)]
        return {**self._base, "output": [*self._items, *under_way], "usage": _usage(self._usage)}

    def project(self, event: Event) -> bytes:
        match event.type:
            case EventType.MESSAGE:
                self._created()
            case EventType.STARTED:
                self._started(event.value["attempt"])
            case EventType.TEXT:
                self._message().add(event.value["text"])
            case EventType.REASONING:
                self._reasoning().add(event.value["text"])
            case EventType.TOOL_CALL:
                self._calls.called(event)
            case EventType.TOOL_RESULT:
                self._calls.resulted(event)
            case EventType.SOURCE:
                self._cite(Source.model_validate(event.value))
            case EventType.USAGE:
                usage = Usage.model_validate(event.value)
                self._usage = self._usage.plus(usage) if self._usage else usage
            case EventType.COMPLETED:
                self._completed(event.value.get("finish_reason") or "stop")
            case EventType.FAILED:
                self._failed(failure_of(event))
            case EventType.CANCELLED:
                self._end("incomplete", CANCELLED, INCOMPLETE)
        said, self._bytes = self._bytes, []
        return b"".join(said)

    # -- the response

    def _created(self) -> None:
        if self._number == 0:  # a turn may have more than one message
            self._lifecycle("created")
            self._lifecycle("queued")

    def _started(self, attempt: int) -> None:
        if attempt > 1:
            self._close(INCOMPLETE)
            self._reset()
        if self.status == QUEUED:
            self._base["status"] = IN_PROGRESS
            self._lifecycle("in_progress")

    def _completed(self, finish_reason: str) -> None:
        reason = _INCOMPLETE_FOR.get(finish_reason)
        self._close(INCOMPLETE if reason else COMPLETED)
        for call in self._calls.of_client(finish_reason):
            self._items.append(function_call(self._emit, self._answer.name, self._place(), call))
        if reason:
            self._base["incomplete_details"] = {"reason": reason}
        status = INCOMPLETE if reason else COMPLETED
        self._end(status, status, status)

    def _failed(self, failure: Failure) -> None:
        self.failure = failure
        code = _ERROR_CODES.get(failure.code, "server_error")
        self._base["error"] = {"code": code, "message": f"{failure.code}: {failure.message}"}
        self._end(FAILED, FAILED, INCOMPLETE)

    def _end(self, event: str, status: str, item_status: str) -> None:
        self._close(item_status)
        self._base["status"] = status
        self._lifecycle(event)

    # -- items

    def _message(self) -> MessageItem:
        if not isinstance(self._item, MessageItem):
            self._close(COMPLETED)
            self._item = item = MessageItem(self._emit, self._answer.name, self._place())
            sources, self._sources = self._sources, []
            for source in sources:
                item.cite(source.title, source.url or "")
        return self._item

    def _reasoning(self) -> ReasoningItem:
        if not isinstance(self._item, ReasoningItem):
            self._close(COMPLETED)
            self._item = ReasoningItem(self._emit, self._answer.name, self._place())
        return self._item

    def _cite(self, source: Source) -> None:
        """A source without an address cannot be cited here."""
        if not source.url:
            return
        if isinstance(self._item, MessageItem):
            self._item.cite(source.title, source.url)
        else:
            self._sources.append(source)

    def _close(self, status: str) -> None:
        if self._item is not None:
            self._items.append(self._item.close(status))
            self._item = None

    def _place(self) -> int:
        index = self._index
        self._index += 1
        return index

    # -- saying

    def _lifecycle(self, name: str) -> None:
        self._emit(f"response.{name}", response=self.response() if self._number > self._after else None)

    def _emit(self, type_: str, /, **fields: object) -> None:
        number = self._number
        self._number += 1
        if number > self._after:
            data = encode({"type": type_, "sequence_number": number, **fields})
            self._bytes.append(b"event: %b\ndata: %b\n\n" % (type_.encode(), data))


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
