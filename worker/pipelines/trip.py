"""Trip: asks what it must know before it plans. Shows how a pipeline waits for the user."""

from worker.pipelines.registry import pipeline
from worker.pipelines.run import Run

LENGTHS = {"A weekend": 2, "A week": 7, "Two weeks": 14}
_PLAN = "Plan a trip for this wish: {wish}. Length: {length}. Interest: {interest}. Give a plan day by day."


@pipeline("trip")
async def trip(run: Run) -> None:
    await run.status("Reading your wish…", step="read")
    wish = run.input
    await run.status("Read your wish", step="read", state="done")
    length = await run.ask("How long do you want to be away?", choices=list(LENGTHS))
    interest = await run.ask("What do you like most: nature, food, museums, or something else?")

    await run.status("Planning…", step="plan")
    if run.model_name.startswith("demo/"):
        await run.say(_demo_plan(length, interest))
    else:
        await run.answer([{"role": "user", "content": _PLAN.format(wish=wish, length=length, interest=interest)}])
    await run.status("Planned", step="plan", state="done")


def _demo_plan(length: str, interest: str) -> str:
    days = LENGTHS.get(length, 3)
    shown = [f"- Day {day}: {interest} by the sea" for day in range(1, min(days, 5) + 1)]
    rest = [f"- Days 6 to {days}: rest, and more {interest}"] if days > 5 else []
    return "\n".join([f"**{length}**, with {interest}:", "", *shown, *rest])
