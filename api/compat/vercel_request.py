"""What the AI SDK's `useChat` sends, and what it means here."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api import schemas
from api.compat.openai_request import model_of
from api.dialects.vercel import message_id
from shared.errors import InvalidRequest
from shared.ids import is_session_id

ChatId = Annotated[str, Field(min_length=1, max_length=512)]

UNSUPPORTED = ("system", "instructions", "tools", "toolChoice", "tool_choice", "temperature", "maxOutputTokens")
"""Fields that would change the answer, and cannot be followed. What else an app sends along is its own business."""
REGENERATE = "regenerate-message"


def session_of(chat: str) -> str:
    """The session of a chat: its id, if it can be one, else an id made of it."""
    return chat if is_session_id(chat) else hashlib.sha256(chat.encode()).hexdigest()[:32]


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, Field(max_length=200)]
    text: Annotated[str, Field(max_length=1 << 24)] | None = None
    """The bound is far beyond what any body holds; but only a bounded string is looked at, and refused if it is no
    Unicode."""


class UIMessage(BaseModel):
    """Parts that only show what was said otherwise, or are an app's own, are not looked at."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, Field(max_length=512)] | None = None
    role: Literal["system", "user", "assistant"]
    parts: list[Part]

    @property
    def text(self) -> str:
        """Raises InvalidRequest for a file: it would be left out of what is asked."""
        if any(part.type == "file" for part in self.parts):
            raise InvalidRequest("messages: a part of type file cannot be sent on; only text can")
        return "\n".join([part.text for part in self.parts if part.type == "text" and part.text])


class ChatRequest(BaseModel):
    """`id` is the chat, and becomes the session. `messages` is its history; once the session exists, only the last of
    them counts: the log has the others."""

    model_config = ConfigDict(extra="allow")

    id: ChatId
    messages: Annotated[list[UIMessage], Field(min_length=1, max_length=1000)]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    model: Annotated[str, Field(max_length=200)] | None = None
    pipeline: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    options: schemas.Options | None = None
    interrupt: bool = False

    @model_validator(mode="after")
    def _supported(self) -> "ChatRequest":
        if unsupported := [name for name in UNSUPPORTED if (self.model_extra or {}).get(name) is not None]:
            raise ValueError(f"{unsupported[0]} is not supported here; options are the model's")
        if self.model is not None:
            self.model = model_of(self.model)
        return self

    @property
    def sid(self) -> str:
        return session_of(self.id)

    @property
    def asked(self) -> str:
        """What the user says. Raises InvalidRequest."""
        last = self.messages[-1]
        if last.role != "user":
            raise InvalidRequest("messages: the last one must be the user's")
        if not (text := last.text):
            raise InvalidRequest("messages: the last one has no text")
        return text

    @property
    def first(self) -> schemas.CreateSession:
        """Raises InvalidRequest."""
        given = schemas.ChatRequest(message=self.asked, model=self.model, pipeline=self.pipeline, options=self.options)
        said = [(message.role, message.text) for message in self.messages]
        opening = [schemas.InputMessage(role=role, content=text) for role, text in said if text]
        return given.first.model_copy(update={"id": self.sid, "input": None, "messages": opening})

    @property
    def next(self) -> schemas.NextMessage:
        """Raises InvalidRequest."""
        return schemas.NextMessage(
            input=self.asked, model=self.model, options=self.options, interrupt=self.interrupt
        )  # fmt: skip

    def key(self, over: str) -> str | None:
        """By which a repeat is recognised: the same message of the user's, or the same answer asked for anew.

        `over`: the newest generation that is over, or nothing. None: the message has no id.
        """
        last = self.messages[-1]
        if last.id is None:
            return None
        parts = [self.trigger, last.id, self.asked]
        if self.trigger == REGENERATE:
            parts.append(message_id(self.sid, over))
        digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
        return f"ui-message:{digest}"
