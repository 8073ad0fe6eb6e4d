"""Output items of OpenAI's Responses: how each is opened, filled and closed, in events."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from api.dialects.openai_words import arguments_json

Emit = Callable[..., None]
"""Says one event: its type, and its fields by name."""
IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


class Item(ABC):
    """An item under way, whose text grows. Its id names its place in the stream: `<prefix>_<answer>_<index>`."""

    prefix: str

    def __init__(self, emit: Emit, answer: str, index: int) -> None:
        self.id = f"{self.prefix}_{answer}_{index}"
        self._say = emit
        self._index = index
        self._texts: list[str] = []
        emit("response.output_item.added", output_index=index, item=self.as_item(IN_PROGRESS, empty=True))
        self._open()

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._delta(text)

    def close(self, status: str) -> dict[str, Any]:
        """Gives the item as it stays."""
        self._done()
        item = self.as_item(status)
        self._say("response.output_item.done", output_index=self._index, item=item)
        return item

    @abstractmethod
    def as_item(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        """`empty`: as it is when it is opened."""

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _delta(self, text: str) -> None: ...

    @abstractmethod
    def _done(self) -> None: ...

    def _emit(self, type_: str, **fields: object) -> None:
        self._say(type_, item_id=self.id, output_index=self._index, **fields)


class MessageItem(Item):
    """What the assistant says, with what it cites. A citation stands where the text had come to when it came."""

    prefix = "msg"

    def __init__(self, emit: Emit, answer: str, index: int) -> None:
        self._annotations: list[dict[str, Any]] = []
        super().__init__(emit, answer, index)

    def cite(self, title: str, url: str) -> None:
        at = sum(map(len, self._texts))
        annotation = {"type": "url_citation", "start_index": at, "end_index": at, "title": title, "url": url}
        number = len(self._annotations)
        self._annotations.append(annotation)
        name = "response.output_text.annotation.added"
        self._emit(name, content_index=0, annotation_index=number, annotation=annotation)

    def as_item(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        content = [] if empty else [self._part(self.text, list(self._annotations))]
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _part(self, text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}

    def _open(self) -> None:
        self._emit("response.content_part.added", content_index=0, part=self._part("", []))

    def _delta(self, text: str) -> None:
        self._emit("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _done(self) -> None:
        text = self.text
        self._emit("response.output_text.done", content_index=0, text=text, logprobs=[])
        self._emit("response.content_part.done", content_index=0, part=self._part(text, list(self._annotations)))


class ReasoningItem(Item):
    """What the model says to itself, as one summary."""

    prefix = "rs"

    def as_item(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        summary = [] if empty else [self._part(self.text)]
        return {"id": self.id, "type": "reasoning", "summary": summary, "status": status}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text", "text": text}

    def _open(self) -> None:
        self._emit("response.reasoning_summary_part.added", summary_index=0, part=self._part(""))

    def _delta(self, text: str) -> None:
        self._emit("response.reasoning_summary_text.delta", summary_index=0, delta=text)

    def _done(self) -> None:
        text = self.text
        self._emit("response.reasoning_summary_text.done", summary_index=0, text=text)
        self._emit("response.reasoning_summary_part.done", summary_index=0, part=self._part(text))


def function_call(emit: Emit, answer: str, index: int, call: dict[str, Any]) -> dict[str, Any]:
    """A whole call, from its opening to its end; `call` is `{id, name, arguments}`. Gives the item."""
    place = {"item_id": f"fc_{answer}_{index}", "output_index": index}
    arguments = arguments_json(call.get("arguments"))
    item = {"id": place["item_id"], "type": "function_call", "call_id": call["id"], "name": call["name"]}
    opened = {**item, "arguments": "", "status": IN_PROGRESS}
    closed = {**item, "arguments": arguments, "status": COMPLETED}
    emit("response.output_item.added", output_index=index, item=opened)
    emit("response.function_call_arguments.delta", **place, delta=arguments)
    emit("response.function_call_arguments.done", **place, name=call["name"], arguments=arguments)
    emit("response.output_item.done", output_index=index, item=closed)
    return closed
