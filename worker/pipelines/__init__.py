"""Pipelines: async functions that produce the events of a generation.

from worker.pipelines import Run, pipeline

@pipeline("shout")
async def shout(run: Run) -> None:
    await run.text(run.input.upper())
"""

from worker.pipelines.registry import Pipeline, load, lookup, pipeline
from worker.pipelines.run import Run

__all__ = ["Pipeline", "Run", "load", "lookup", "pipeline"]
