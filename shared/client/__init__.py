"""Holdfast for Python: start an answer, follow it, lose the network, go on exactly where you were.

    import asyncio
    from shared.client import AsyncClient, Failed, TextDelta

    async def main() -> None:
        async with AsyncClient("http://127.0.0.1:8000") as holdfast:  # key="hf_…", where one is needed
            session = await holdfast.create(model="demo/lorem", input="Hello")
            async for event in session.events():
                match event:
                    case TextDelta(text=text):
                        print(text, end="", flush=True)
                    case Failed(code=code, message=message):
                        print(f"failed: {code}: {message}")

            await session.message("And now?")
            answer = await session.result()  # raises GenerationFailed where it did
            print(answer.content)

            # In another process, with the id and the cursor that were stored: exactly the rest.
            later = holdfast.session(session.id, cursor=session.cursor)
            print([event async for event in later.events()])

    asyncio.run(main())

`Client` has the same words without `async` and `await`. Every call that changes something bears an Idempotency-Key and
is repeated with the same key when no answer came, so nothing is started twice, however bad the network is.
"""

from shared.client.aio import AsyncClient, AsyncSession
from shared.client.errors import (
    AnswerLost,
    BadRequest,
    ClientClosed,
    ClientError,
    Forbidden,
    GenerationCancelled,
    GenerationFailed,
    Gone,
    NotFound,
    Overloaded,
    ProtocolError,
    Refused,
    Unauthorized,
    Unreachable,
)
from shared.client.events import (
    Answer,
    Cancelled,
    CaughtUp,
    Completed,
    Data,
    Event,
    Failed,
    Gap,
    ProviderRun,
    Question,
    ReasoningDelta,
    Said,
    Source,
    Started,
    Status,
    Terminal,
    TextDelta,
    ToolCall,
    ToolResult,
    Unknown,
    Usage,
)
from shared.client.models import Opened, Shown, Stopped, Summary
from shared.client.sync import Client, Session

__all__ = [
    "Answer", "AnswerLost", "AsyncClient", "AsyncSession", "BadRequest", "Cancelled", "CaughtUp", "Client",
    "ClientClosed", "ClientError", "Completed", "Data", "Event", "Failed", "Forbidden", "Gap", "GenerationCancelled",
    "GenerationFailed", "Gone", "NotFound", "Opened", "Overloaded", "ProtocolError", "ProviderRun", "Question",
    "ReasoningDelta", "Refused", "Said", "Session", "Shown", "Source", "Started", "Status", "Stopped", "Summary",
    "Terminal", "TextDelta", "ToolCall", "ToolResult", "Unauthorized", "Unknown", "Unreachable", "Usage",
]  # fmt: skip
