"""Plain chat: the session's transcript goes to the model, what it says goes to the log; tools are the client's."""

from worker.pipelines.registry import pipeline
from worker.pipelines.run import Run


@pipeline("chat")
async def chat(run: Run) -> None:
    await run.answer(client_tools=run.client_tools)
