"""Conversations that a client names by an id of its own: which session that is, and the next turn in it."""

import hashlib
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticSerializationError

from api import schemas
from api.commands import Commands
from api.errors import words_of
from api.node import Node, Principal
from shared.errors import InvalidRequest, SessionExists
from shared.events import encode
from shared.ids import is_session_id
from shared.log import Opened
from shared.views import SessionView

Body = TypeVar("Body", bound=BaseModel)


def _sayable(given: Any) -> Any:
    """What can be written as JSON again. Raises ValueError."""
    try:
        encode({"given": given})
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise ValueError("cannot be said: too deep") from error
    return given


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("no valid Unicode") from error
    return text


Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_encodable)]
"""What a client calls something of its own."""
Sayable = Annotated[Any, AfterValidator(_sayable)]
_OPENAI = ("gpt-", "chatgpt-", "o1", "o3", "o4")


def session_of(caller: Principal, thread: str) -> str:
    """The thread's id, or, where no session can be called that, one made of it that is the caller's alone."""
    return (
        thread
        if is_session_id(thread)
        else hashlib.sha256(f"{caller}\0{thread}".encode(errors="surrogatepass")).hexdigest()[:32]
    )


async def view_of(node: Node, caller: Principal, sid: str) -> SessionView | None:
    """None where there is no session yet, or it is somebody else's: those are unknown."""
    view = await node.log.view(sid)
    return view if view is not None and view.principal == caller else None


async def turn_in(
    commands: Commands,
    node: Node,
    sid: str,
    first: schemas.CreateSession,
    following: schemas.NextMessage,
    key: str | None,
) -> Opened:
    """Open the session with its first turn, or the next turn of the one there is. Raises as both do; a session of
    somebody else is not found."""
    if await node.log.view(sid) is None:
        try:
            _, turn = await commands.create(first, key)
        except SessionExists:  # somebody was quicker
            pass
        else:
            return turn
    return await commands.message(sid, following, key)


def checked(kind: type[Body], **fields: Any) -> Body:
    """A body of our own from what another protocol's request says. Raises InvalidRequest with its first error."""
    try:
        body = kind(**fields)
        body.model_dump_json()
    except ValidationError as error:
        raise InvalidRequest(words_of(error.errors()[0])) from error
    except PydanticSerializationError as error:
        raise InvalidRequest("no valid Unicode") from error
    return body


def model_of(name: str) -> str:
    """`provider/name`, also for a bare name that OpenAI or Anthropic has."""
    if "/" in name:
        return name
    if name.startswith("claude-"):
        return f"anthropic/{name}"
    return f"openai/{name}" if name.startswith(_OPENAI) else name
