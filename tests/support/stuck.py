"""Pipelines for workers in processes of their own: loaded by HOLDFAST_PIPELINES."""

import asyncio
import os
import time

from worker.pipelines import Run, pipeline

STUCK_S = "HOLDFAST_TEST_STUCK_S"
"""Environment: how long the pipeline `stuck` holds up its worker's event loop."""


@pipeline("stuck")
async def stuck(run: Run) -> None:
    """The first attempt holds up everything, as code that blocks does; later ones are as they should be."""
    await run.text("before ")
    if run.attempt == 1:
        await asyncio.sleep(0.3)  # what was said so far is in the log
        time.sleep(float(os.environ[STUCK_S]))  # noqa: ASYNC251 - that is what it is about
    await run.text("after")


@pipeline("ends-soon")
async def ends_soon(run: Run) -> None:
    """Goes on until a file is there."""
    await run.text("before ")
    while not os.path.exists(run.input):  # noqa: ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    await run.text("after")


@pipeline("clings")
async def clings(run: Run) -> None:
    """The first attempt goes on whatever happens to it; the second one ends."""
    await run.text("mine")
    while run.attempt == 1:
        try:
            await asyncio.sleep(0.05)
            await run.text(", mine")
        except asyncio.CancelledError:
            await run.text(", still mine")
    await run.text(", at last")


@pipeline("blocks-a-thread")
async def blocks_a_thread(run: Run) -> None:
    """As a tool that is a plain function may do it."""
    await run.text("before ")
    await asyncio.to_thread(time.sleep, 3600)


@pipeline("many-steps")
async def many_steps(run: Run) -> None:
    """Goes on until it is answered or stopped."""
    for n in range(400):
        await run.status(f"step {n}", state="done")
    await run.ask("which?")
