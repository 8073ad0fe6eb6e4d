"""Plain chat: the session's transcript goes to the model, what it says goes to the log."""

from worker.pipelines.registry import pipeline
from worker.pipelines.run import Run


@pipeline("chat")
async def chat(run: Run) -> None:
    await run.answer()
