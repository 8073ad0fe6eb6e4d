"""OpenAI's protocols as pure projections: every frame as the SDK's own types have it, however the log is read."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.compat.openai_input import messages_of
from api.dialects.encoder import Unsayable
from api.dialects.openai_chat import ChatChunks, Completion, completion
from api.dialects.openai_responses import Answer, ResponseEvents, parse_response_id, response_id
from shared.events import Event, EventType, encode, merged
from shared.ids import EventId
from shared.transcript import fold

Said = tuple[str, dict[str, Any]]

ASKED: Said = ("message", {"generation": "g1", "role": "user", "content": "hi"})
STARTED: Said = ("generation.started", {"generation": "g1", "attempt": 1, "model": "demo/echo"})
AGAIN: Said = ("generation.started", {"generation": "g1", "attempt": 2, "model": "demo/echo"})
THOUGHT: Said = ("reasoning.delta", {"text": "hm"})
CALL: Said = ("tool.call", {"id": "c1", "name": "look", "arguments": {"where": "here"}})
RESULT: Said = ("tool.result", {"id": "c1", "output": 1, "error": None})
SOURCE: Said = ("source", {"title": "Reefs", "url": "https://example.org/reefs"})
USAGE: Said = ("usage", {"input_tokens": 3, "output_tokens": 2, "reasoning_tokens": 1, "cached_tokens": 1})
CANCELLED: Said = ("generation.cancelled", {"generation": "g1", "by": "user", "confirmed": True})
FAILED: Said = (
    "generation.failed",
    {"generation": "g1", "code": "overloaded", "message": "too busy", "retryable": True},
)
ANSWER = Answer("s1", "g1", "demo/echo", 1_700_000_000)
COMPLETION = Completion("chatcmpl-s1_g1", "demo/echo", 1_700_000_000)
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def text(said: str) -> Said:
    return "text.delta", {"text": said}


def completed(reason: str = "stop") -> Said:
    return "generation.completed", {"generation": "g1", "finish_reason": reason}


def log(*said: Said) -> list[Event]:
    return [Event(EventId(1, n), type_, encode(data)) for n, (type_, data) in enumerate(said, 1)]


def data_of(raw: bytes) -> list[str]:
    """The data of each block, each of which names its event as the data does, or not at all."""
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in raw.decode().split("\n\n")[:-1]]
    for block in blocks:
        assert block.keys() <= {"event", "data"}
        assert "event" not in block or block["event"] == json.loads(block["data"])["type"]
    return [block["data"] for block in blocks]


def events_of(raw: bytes) -> list[Any]:
    """Events of Responses, each held against the SDK's type."""
    return [_EVENT.validate_json(data, strict=True) for data in data_of(raw)]


def responses(events: list[Event], after: int = -1) -> bytes:
    projection = ResponseEvents(ANSWER, after)
    return b"".join(map(projection.take, events))


def response_of(events: list[Event]) -> Response:
    projection = ResponseEvents.silent(ANSWER)
    for event in events:
        projection.take(event)
    return Response.model_validate_json(json.dumps(projection.response()), strict=True)


def chunks(events: list[Event], **changes: Any) -> list[str]:
    projection = ChatChunks("g1", COMPLETION, **changes)
    return data_of(b"".join(map(projection.take, events)))


def checked(data: list[str]) -> list[ChatCompletionChunk]:
    assert data[-1] == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(each, strict=True) for each in data[:-1]]


# -- Responses


def test_a_text_is_opened_said_and_closed() -> None:
    """The order of the events is OpenAI's, and each number is one more than that before."""
    events = events_of(responses(log(ASKED, STARTED, text("Hel"), text("lo"), USAGE, completed())))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(11))
    assert events[0].response.status == "queued"
    assert events[-1].response.output_text == events[7].text == "Hello"
    assert events[-1].response.usage.total_tokens == 5


def test_reasoning_is_an_item_of_its_own_before_the_text() -> None:
    """Its words are a summary, and the text begins where it has ended."""
    events = events_of(responses(log(ASKED, STARTED, THOUGHT, THOUGHT, text("so"), completed())))
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message"]
    assert events[-1].response.output[0].summary[0].text == "hmhm"
    added = [event.output_index for event in events if event.type == "response.output_item.added"]
    assert added == [0, 1]


def test_a_call_without_a_result_is_the_clients() -> None:
    """It is a function_call, whole, after what was said before it."""
    events = events_of(responses(log(ASKED, STARTED, text("Let me see"), CALL, completed("tool_calls"))))
    message, call = events[-1].response.output
    assert (message.type, call.type, call.call_id, call.name) == ("message", "function_call", "c1", "look")
    said = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert json.loads(call.arguments) == json.loads(said) == {"where": "here"}
    assert events[-1].response.status == "completed"


def test_a_turn_of_more_than_one_message_is_one_response() -> None:
    """It is created once."""
    assert responses(log(ASKED, ASKED, STARTED, completed())) == responses(log(ASKED, STARTED, completed()))


def test_a_call_that_was_not_the_end_is_nobodys_to_run() -> None:
    """A generation that ended otherwise does not wait for its result."""
    events = log(ASKED, STARTED, CALL, text("Never mind"), completed())
    assert [item.type for item in events_of(responses(events))[-1].response.output] == ["message"]
    assert all(not frame.choices[0].delta.tool_calls for frame in checked(chunks(events)))


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_a_call_with_a_result_is_nobodys_to_run(reason: str) -> None:
    """What the pipeline has run itself is no item, whatever the generation ended with."""
    events = events_of(responses(log(ASKED, STARTED, CALL, RESULT, text("It is 1"), completed(reason))))
    assert [item.type for item in events[-1].response.output] == ["message"]


@pytest.mark.parametrize("early", [True, False])
def test_a_source_is_a_citation(early: bool) -> None:
    """Whether it came before the text or in it; one without an address is left out."""
    said = [SOURCE, text("as one reads")] if early else [text("as one reads"), SOURCE]
    events = events_of(responses(log(ASKED, STARTED, ("source", {"title": "a book"}), *said, completed())))
    (annotation,) = events[-1].response.output[0].content[0].annotations
    assert (annotation.url, annotation.title) == ("https://example.org/reefs", "Reefs")
    assert annotation.start_index == (0 if early else len("as one reads"))
    (told,) = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert told.annotation.model_dump() == annotation.model_dump()


def test_a_later_attempt_closes_what_was_open_and_begins_anew() -> None:
    """What the lost one said stands as incomplete in the stream, and nowhere in the response."""
    said = (ASKED, STARTED, text("Wro"), USAGE, CALL, SOURCE, AGAIN, text("Right"), USAGE, completed("tool_calls"))
    events = events_of(responses(log(*said)))
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [(event.output_index, event.item.status) for event in done] == [(0, "incomplete"), (1, "completed")]
    response = events[-1].response
    assert [item.id for item in response.output] == [done[1].item.id]
    assert (response.output_text, response.usage.output_tokens) == ("Right", 2)
    assert response.output[0].content[0].annotations == []


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_was_cut_off_is_incomplete(reason: str) -> None:
    """It says why, in OpenAI's words."""
    last = events_of(responses(log(ASKED, STARTED, text("so"), completed(reason))))[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == {"length": "max_output_tokens"}.get(reason, reason)
    assert last.response.output[0].status == "incomplete"


def test_a_failure_is_told_with_its_code() -> None:
    """As OpenAI's nearest; what it is called here stands in the message. What was said is incomplete."""
    last = events_of(responses(log(ASKED, STARTED, text("so"), FAILED)))[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "rate_limit_exceeded"
    assert last.response.error.message == "overloaded: too busy"
    assert last.response.output[0].status == "incomplete"


@pytest.mark.parametrize("said", [(), (STARTED,), (STARTED, text("so"))])
def test_a_cancelled_answer_is_no_success(said: tuple[Said, ...]) -> None:
    """Whether it was still queued, or had begun."""
    last = events_of(responses(log(ASKED, *said, CANCELLED)))[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")


def test_only_its_own_generation_is_told() -> None:
    """Turns before and after it are of no concern."""
    other: list[Said] = [(type_, {**data, "generation": "g2"}) for type_, data in (ASKED, STARTED)]
    mine = (ASKED, STARTED, text("one"), completed())
    alone, together = log(*mine), log(*mine, *other, text("two"))
    assert responses(alone) == responses(together)


def test_ids_name_session_and_generation() -> None:
    """And are read back, also where the session's id looks like one itself."""
    assert parse_response_id(response_id("a_g1-b", "g12")) == ("a_g1-b", "g12")
    for wrong in ("", "resp_", "resp_s1", "resp_s1_g0", "resp_s1_1", "s1_g1", "resp_s 1_g1", "resp_s1_g1\n"):
        assert parse_response_id(wrong) is None


_ANY: st.SearchStrategy[Said] = st.one_of(
    st.sampled_from([THOUGHT, CALL, RESULT, SOURCE, USAGE, AGAIN, ("status", {"text": "…"}), ("data", {"name": "n"})]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).map(text),
)
_ENDS = st.sampled_from([completed(), completed("length"), completed("tool_calls"), FAILED, CANCELLED])


@settings(max_examples=200)
@given(st.lists(_ANY, max_size=12), _ENDS, st.integers(-1, 40))
def test_any_generation(said: list[Said], end: Said, after: int) -> None:
    """Every frame is valid, numbers are dense, what follows a number is the tail of the whole, and the response at the
    end is the one that is shown, merged or not, and says what the transcript says."""
    events = log(ASKED, STARTED, *said, end)
    raw = responses(events)
    frames = events_of(raw)
    assert [frame.sequence_number for frame in frames] == list(range(len(frames)))
    assert data_of(responses(events, after)) == data_of(raw)[after + 1 :]
    shown = response_of(events)
    assert response_of(merged(events)) == shown == frames[-1].response
    message = fold(events).messages[-1]
    assert shown.output_text == message.content
    assert (frames[-1].type == "response.completed") == (message.finish_reason in ("stop", "tool_calls"))


# -- Chat Completions


def test_chunks_of_an_answer() -> None:
    """Role first, then what is thought and said, then why it ends, and what it cost if that was asked for."""
    said = (ASKED, STARTED, THOUGHT, text("Hel"), text("lo"), USAGE, completed())
    frames = checked(chunks(log(*said), include_usage=True))
    assert frames[0].choices[0].delta.role == "assistant"
    assert "".join(frame.choices[0].delta.content or "" for frame in frames if frame.choices) == "Hello"
    assert frames[1].choices[0].delta.model_extra == {"reasoning_content": "hm"}
    assert frames[-2].choices[0].finish_reason == "stop"
    assert frames[-1].choices == []
    assert frames[-1].usage is not None
    assert (frames[-1].usage.prompt_tokens, frames[-1].usage.total_tokens) == (3, 5)
    assert all(frame.usage is None for frame in checked(chunks(log(*said))))


def test_chunks_of_a_call() -> None:
    """A call of the client's is told once it is known to be: index, id, name, then its arguments."""
    other: Said = ("tool.call", {"id": "c2", "name": "look", "arguments": {}})
    frames = checked(chunks(log(ASKED, STARTED, CALL, RESULT, CALL, other, completed("tool_calls"))))
    pieces = [piece for frame in frames for piece in frame.choices[0].delta.tool_calls or []]
    assert [(piece.index, piece.id) for piece in pieces] == [(0, "c1"), (0, None), (1, "c2"), (1, None)]
    assert [piece.function and piece.function.arguments for piece in pieces] == ["", '{"where":"here"}', "", "{}"]
    assert frames[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("end", "code", "type_"), [(FAILED, "overloaded", "server_error"), (CANCELLED, "cancelled", "cancelled")]
)
def test_an_end_that_is_no_success_is_an_error(end: Said, code: str, type_: str) -> None:
    """The last data is the error, and no `[DONE]` follows."""
    last = json.loads(chunks(log(ASKED, STARTED, text("so"), end))[-1])
    assert (last["error"]["code"], last["error"]["type"]) == (code, type_)
    assert last["error"].keys() == {"message", "type", "param", "code"}


def test_a_later_attempt_ends_a_stream_that_has_said_something() -> None:
    """There are no words to take it back; where nothing was said, nobody notices."""
    with pytest.raises(Unsayable):
        chunks(log(ASKED, STARTED, text("Wro"), AGAIN))
    frames = checked(chunks(log(ASKED, STARTED, USAGE, CALL, AGAIN, text("ok"), completed()), include_usage=True))
    assert [frame.choices[0].delta.content for frame in frames[:-1]] == ["", "ok", None]
    assert frames[-1].usage is not None
    assert frames[-1].usage.total_tokens == 0


def _call_only(message: Any) -> bool:
    return message.content is None and [call.id for call in message.tool_calls] == ["c1"]


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ((THOUGHT, text("Hello"), completed()), lambda message: message.content == "Hello"),
        ((CALL, completed("tool_calls")), _call_only),
        ((CALL, RESULT, text("1"), completed()), lambda message: message.tool_calls is None and message.content == "1"),
        ((completed(),), lambda message: message.content == ""),
    ],
)
def test_a_whole_completion(said: tuple[Said, ...], holds: Callable[[Any], bool]) -> None:
    """It is valid, and says what the transcript says."""
    message = fold(log(ASKED, STARTED, *said)).messages[-1]
    whole = ChatCompletion.model_validate_json(json.dumps(completion(COMPLETION, message)), strict=True)
    assert holds(whole.choices[0].message)
    assert whole.choices[0].finish_reason == message.finish_reason
    reasoning = (whole.choices[0].message.model_extra or {}).get("reasoning_content", "")
    assert reasoning == message.reasoning


def test_types_are_known() -> None:
    """Every type of event passes through both, and those without words say nothing."""
    quiet = {EventType.STATUS, EventType.DATA, EventType.QUESTION, EventType.ANSWER, EventType.PROVIDER_RUN}
    for type_ in quiet:
        events = log(ASKED, STARTED, (type_, {"id": "q", "text": "?", "name": "n"}))
        assert responses(events) == responses(events[:2])
        assert chunks(events) == chunks(events[:2])


# -- input


def test_items_of_an_answer_become_messages() -> None:
    """Calls are part of what the assistant said before them, or a message of their own; reasoning is left out."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
    output = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "1"}]}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hm"}]}
    asked = {"role": "developer", "content": "be brief"}
    made = {"id": "c1", "name": "f", "arguments": {"a": 1}}
    assert messages_of([asked, {"type": "reasoning", "summary": []}, said, call, call, output]) == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "hm", "tool_calls": [made, made]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ]
    assert messages_of([call]) == [{"role": "assistant", "content": "", "tool_calls": [made]}]
    assert messages_of([asked, call])[1:] == [{"role": "assistant", "content": "", "tool_calls": [made]}]
