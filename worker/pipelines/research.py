"""Research: think, search a knowledge base, name the sources, answer with citations. Works with the demo models too."""

import asyncio
import re
from functools import cache

from worker.pipelines.knowledge import Knowledge, Section, project_knowledge, words_of
from worker.pipelines.registry import pipeline
from worker.pipelines.run import Run

SOURCES = 5
_INSTRUCTIONS = """Answer the user's question from the numbered sources below, and from nothing else. Cite them
like [1]. If they do not answer it, say so.

{sources}"""


@pipeline("research")
async def research(run: Run) -> None:
    await run.status("Thinking…", step="think")
    question = " ".join(message["content"] for message in run.messages[-3:] if message["role"] == "user")
    await run.status("Understood the question", step="think", state="done")

    await run.status("Searching knowledge base…", step="search", progress=0.0)
    found = (await asyncio.to_thread(_knowledge)).search(question, SOURCES)
    await run.status(
        f"Found {len(found)} source{'' if len(found) == 1 else 's'}", step="search", state="done", progress=1.0
    )
    for section in found:
        await run.source(section.title)

    await run.status("Writing the answer…", step="write")
    await _answer(run, found)
    await run.status("Answered", step="write", state="done")


@cache
def _knowledge() -> Knowledge:
    return project_knowledge()


async def _answer(run: Run, found: list[Section]) -> None:
    if run.model_name.startswith("demo/"):
        await run.say(_digest(run.input, found))
        return
    sources = "\n\n".join(f"[{n}] {section.title}\n{section.text}" for n, section in enumerate(found, 1))
    await run.answer([{"role": "system", "content": _INSTRUCTIONS.format(sources=sources)}, *run.messages])


def _digest(question: str, found: list[Section]) -> str:
    """What a model would make of it, for want of one: the sentence of each source that fits best, cited."""
    if not found:
        return "The knowledge base says nothing about that."
    wanted = set(words_of(question))
    return "\n\n".join(f"{_best_sentence(section, wanted)} [{n}]" for n, section in enumerate(found, 1))


def _best_sentence(section: Section, wanted: set[str]) -> str:
    sentences = re.split(r"(?<=[.!?])\s+", _prose(section.text))
    return max(sentences, key=lambda sentence: len(wanted & set(words_of(sentence)))) or section.title


def _prose(markdown: str) -> str:
    """Without code, tables and marks."""
    unfenced = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    lines = [line.lstrip(">#- ") for line in unfenced.splitlines() if not line.startswith("|")]
    return re.sub(r"\*\*|\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(lines)).strip()
