"""A session's log as single messages, in the order in which clients of agent protocols have them: what the assistant
says before and after a tool's result are two messages, and the result is one between them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shared.events import Event, EventType, encode
from shared.transcript import Usage


@dataclass(slots=True)
class Call:
    """A tool call of the assistant's. `arguments`: whole."""

    id: str
    name: str
    arguments: Any


@dataclass(slots=True)
class Said:
    """One message."""

    id: str
    role: str
    """`user`, `system`, `assistant`, `tool`."""
    parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    call_id: str = ""
    """Of role `tool`: whose result it is."""
    name: str = ""
    """Of role `tool`, where it is known: the tool's."""
    failed: bool = False
    """Of role `tool`: the text is an error's."""
    usage: Usage | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_parts)


class Conversation:
    """Takes the events of a session in the log's order, from any point on. Ids are made of session, generation and
    place alone: `<session>_<generation>_in<n>` of what was put in, `<session>_<generation>_<n>` of what was said."""

    def __init__(self, sid: str, *, keep_text: bool = True) -> None:
        """Without `keep_text` deltas are not kept: for those who need no more than the messages' ids."""
        self.messages: list[Said] = []
        self.generation = ""
        self.attempt = 0
        self.model = ""
        self._sid = sid
        self._keep_text = keep_text
        self._begun = 0
        """Where in `messages` the output of the generation begins."""
        self._open = False
        """The assistant's last message still grows."""

    @property
    def run_id(self) -> str:
        return f"{self._sid}_{self.generation}"

    @property
    def output(self) -> list[Said]:
        """What the attempt of now has said."""
        return self.messages[self._begun :]

    @property
    def history(self) -> list[Said]:
        """Everything before it."""
        return self.messages[: self._begun]

    @property
    def open(self) -> Said | None:
        """The assistant's message that still grows."""
        return self.messages[-1] if self._open else None

    def take_all(self, events: Iterable[Event]) -> "Conversation":
        for event in events:
            self.take(event)
        return self

    def take(self, event: Event) -> None:
        value = event.value
        match event.type:
            case EventType.MESSAGE:
                self._put_in(value)
            case EventType.STARTED:
                self._start(value)
            case EventType.TEXT | EventType.REASONING:
                said = self.assistant()
                if self._keep_text:
                    (said.parts if event.type == EventType.TEXT else said.reasoning_parts).append(value["text"])
            case EventType.TOOL_CALL:
                self.assistant().calls.append(Call(value["id"], value["name"], value.get("arguments")))
            case EventType.TOOL_RESULT:
                self._result(value)
            case EventType.USAGE:
                self._usage(Usage.model_validate(value))
            case EventType.COMPLETED:
                self.assistant().finish_reason = value.get("finish_reason")
                self._open = False
            case EventType.FAILED | EventType.CANCELLED:
                self._open = False

    def assistant(self) -> Said:
        """The assistant's message that grows; a new one where none does."""
        if not self._open:
            self.messages.append(Said(f"{self.run_id}_{len(self.output)}", "assistant"))
            self._open = True
        return self.messages[-1]

    # -- inside

    def _enter(self, generation: str) -> None:
        if generation != self.generation:
            self.generation, self._begun, self._open, self.attempt = generation, len(self.messages), False, 0

    def _put_in(self, value: dict[str, Any]) -> None:
        self._enter(value["generation"])
        count = sum(message.id.startswith(f"{self.run_id}_in") for message in self.messages)
        said = Said(f"{self.run_id}_in{count}", value["role"], [value["content"]])
        said.call_id = value.get("tool_call_id") or ""
        said.calls = [Call(call["id"], call["name"], call["arguments"]) for call in value.get("tool_calls") or ()]
        self.messages.append(said)
        self._begun = len(self.messages)

    def _start(self, value: dict[str, Any]) -> None:
        self._enter(value["generation"])
        self.attempt, self.model = value["attempt"], value.get("model", "")
        del self.messages[self._begun :]  # what an earlier attempt said is void
        self._open = False

    def _result(self, value: dict[str, Any]) -> None:
        self._open = False
        name = next((call.name for said in self.output for call in said.calls if call.id == value["id"]), "")
        error = value.get("error")
        text = error if error is not None else text_of(value.get("output"))
        id_ = f"{self.run_id}_{len(self.output)}"
        self.messages.append(Said(id_, "tool", [text], call_id=value["id"], name=name, failed=error is not None))

    def _usage(self, usage: Usage) -> None:
        said = next((said for said in reversed(self.output) if said.role == "assistant"), None) or self.assistant()
        said.usage = said.usage.plus(usage) if said.usage else usage


def text_of(output: object) -> str:
    """A tool's output as text: itself, or JSON."""
    return output if isinstance(output, str) else json_text(output)


def json_text(value: Any) -> str:
    return encode(value).decode()
